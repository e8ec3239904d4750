"""Whether like cases get like answers, whoever they are about.

    fairness(spec, task, rows, ask, bootstrap=1000, seed=0, say=print)      report.json's `fairness`

Two questions, which can have two answers. Scenarios ask of texts that are alike but for a place, a language, an age: is the answer the
same? Groups ask of labelled rows: is the student as often right about one group as about another? Neither tells whether the judge is
fair. It knows a task, rows and somebody who answers; nothing of models or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mlx_distill.evaluation.fairness import counterfactual, groups, verdicts
from mlx_distill.evaluation.fairness.counterfactual import Ask
from mlx_distill.evaluation.judge import SMALL
from mlx_distill.evaluation.sheet import Judged
from mlx_distill.recipe.schema import FairnessSpec, TaskSpec

Say = Callable[[str], None]


def fairness(
    spec: FairnessSpec,
    task: TaskSpec,
    rows: Sequence[Judged],
    ask: Ask,
    *,
    bootstrap: int,
    seed: int,
    say: Say,
    show_texts: bool,
) -> dict[str, Any]:
    """`rows` are the test rows, `ask` answers texts that have no label, in their order. `show_texts` False: no text stands in the result.

    Raises RecipeError for a scenario that makes no sense.
    """
    how: dict[str, Any] = {"most": spec.max_gap, "bootstrap": bootstrap, "seed": seed}
    scenarios = {}
    for name, scenario in spec.scenarios.items():
        scenarios[name] = counterfactual.judge(name, scenario, task, ask, show=show_texts, **how)
        if refused := scenarios[name]["refused"]:
            say(f"fairness: {refused} of the {scenarios[name]['texts']} texts of {name} were not answered")
    columns = {column: groups.judge(column, task, rows, **how) for column in spec.groups}
    for column, found in columns.items():
        if problem := _useless(found):
            say(f"fairness: {column} compares nothing: {problem}")
    return {
        "verdict": verdicts.worst(part["verdict"] for part in (*scenarios.values(), *columns.values())),
        "max_gap": spec.max_gap,
        "tested": sum(len(field["gaps"]) for column in columns.values() for field in column["fields"].values()),
        "scenarios": scenarios,
        "groups": columns,
    }


def _useless(column: dict[str, Any]) -> str | None:
    """Why no groups could be compared."""
    large = sum(not group["small"] for group in column["groups"])
    if not column["groups"]:
        return "no row has a value of it"
    if len(column["groups"]) < 2:
        return f"every row has the same, {column['groups'][0]['value']}"
    if large < 2:
        return f"{large} of its values {'has' if large == 1 else 'have'} {SMALL} rows"
    return None if any(field["gaps"] for field in column["fields"].values()) else "too few rows of any two values have a label"
