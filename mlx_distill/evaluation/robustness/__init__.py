"""Does the student keep its answer when a text is typed badly, cut or contradicted, and does it doubt where there is nothing to answer?

    robustness(spec, task, rows, ask, bootstrap=..., seed=...)      document["robustness"]

Generated suites change the texts of test rows; each is a file of this folder, found by its name (`_suite` says what it has). Given ones
are rows that someone wrote, each with what is expected of the student. So Multilingual HateCheck (Röttger et al., WOAH 2022; three of its
ten languages, 27 functional tests each, case by case) stands in the recipe of a task with a flag `hateful`:

    robustness:
      suites: []                              # no generated ones; left out: all
      given:
        hatecheck:
          source: {kind: csv, path: multilingual_hatecheck}       # the folder with mhc_es.csv, mhc_nl.csv, mhc_pt.csv
          labels: {hateful: label_gold}                           # the field's expected value stands in this column
          values: {hateful: "true", non-hateful: "false"}         # and so its values are read
          by: [functionality, lang]
          rows: 2000                                              # evenly over functional tests and languages

It is handed a function that asks, and knows nothing of models, engines or files of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlx_distill import catalog
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.robustness import _cases, _examples, _figures, _generated, _given
from mlx_distill.evaluation.robustness._suite import DOUBT, KIND, Ask
from mlx_distill.recipe.schema import RobustnessSpec, TaskSpec


def robustness(
    spec: RobustnessSpec,
    task: TaskSpec,
    rows: Sequence[Judged],
    ask: Ask,
    *,
    bootstrap: int,
    seed: int,
    texts: bool = True,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """`rows` are the test's, with their records and the student's answers to them. `ask` is called once a suite. `seed` of the intervals;
    the rows and the changes are drawn by `spec.seed`. `texts` False: no text of a row, and no answer to one, is in what comes back.

    Raises DistillError for a suite that there is not, DataError for a given one that cannot be read, both before anything is asked.
    """
    names = catalog.names(KIND) if spec.suites is None else list(dict.fromkeys(spec.suites))
    for name in names:
        catalog.find(KIND, name)
    known = [row.id for row in rows]
    cases = {name: _cases.load(name, suite, task, known=known, seed=spec.seed) for name, suite in spec.given.items()}
    usable = _generated.Rows(task, rows)
    tell = say or (lambda words: None)
    suites = {}
    for name in names:
        tell(f"robustness: {name}")
        suites[name] = _suite(name, spec, usable, ask, bootstrap=bootstrap, seed=seed, texts=texts)
    given = {}
    for name, own in cases.items():
        tell(f"robustness: {name}, {len(own.drawn):,} rows")
        given[name] = _given.judge_suite(own, task, rows, ask, texts=texts, most=spec.max_flip_rate)
    return {
        "rows": spec.rows,
        "seed": spec.seed,
        "limit": spec.max_flip_rate,
        "suites": suites,
        "given": given,
        "verdict": _together([suite["verdict"] for suite in (*suites.values(), *given.values())]),
    }


def _suite(name: str, spec: RobustnessSpec, rows: _generated.Rows, ask: Ask, *, bootstrap: int, seed: int, texts: bool) -> dict[str, Any]:
    module = catalog.find(KIND, name)
    asked = _generated.ask_suite(name, rows, ask, wanted=spec.rows, seed=spec.seed)
    pairs, fields = asked.pairs, rows.task.fields
    found = _figures.figures(pairs, fields, bootstrap=bootstrap, seed=seed)
    doubted = _figures.doubt(pairs, rows.rows) if module.EXPECT == DOUBT else None
    return {
        "title": module.TITLE,
        "meaning": module.MEANING,
        "expect": module.EXPECT,
        "n": len(pairs),
        "unchanged": asked.unchanged,
        **found,
        "doubt": doubted,
        "verdict": _figures.verdict(found, module.EXPECT, spec.max_flip_rate),
        "examples": _examples.of_pairs(pairs, fields) if texts else [],
    }


def _together(verdicts: Sequence[str]) -> str:
    return "missed" if "missed" in verdicts else "met" if "met" in verdicts else "none"
