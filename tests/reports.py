"""A report with everything in it, of synthetic rows: forty labels of every length and script, markup, emoji, NUL, right to left.

What the parts hold is found out by the functions that find it out in earnest; only the student is drawn by lot.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from mlx_distill.evaluation import report
from mlx_distill.evaluation.ceiling import ceiling
from mlx_distill.evaluation.fairness import fairness
from mlx_distill.evaluation.forgetting import Answers, forgetting
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.language import tokenizer
from mlx_distill.evaluation.robustness import robustness
from mlx_distill.evaluation.trust import assurance
from mlx_distill.recipe.schema import (
    BaseSpec,
    DataSpec,
    DeferSpec,
    EvaluateSpec,
    FairnessSpec,
    FieldSpec,
    Recipe,
    ReportSpec,
    RobustnessSpec,
    ScenarioSpec,
    SourceSpec,
    SplitSpec,
    TargetsSpec,
    TaskSpec,
)
from mlx_distill.records import BadRow, Example, Prediction
from mlx_distill.task import rubric
from mlx_distill.task.fields import closed_values
from tests import small_tokenizers

NASTY = '<script>alert("x")</script> & \x00 \ud800 \u202eשלום 🔥 | `code` *b* @all #1 https://example.org $x$'
LONG = "a_field_whose_name_has_sixty_characters_and_no_space_at_all_"
GREEK = "Κατολίσθηση στο δίκτυο ύδρευσης | <b>"
LABELS = (
    "fire",
    "flood & <storm>",
    GREEK,
    "انهيار مبنى",
    "🔥🌊",
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft",
    *(f"label number {i}" for i in range(34)),
)
WORST = 6
"""Disagreements: a browser's checks take the longer the more there is on the page."""
RISK = "επικινδυνότητα"
FIELDS = {
    "kind": FieldSpec(kind="choice", choices=LABELS),
    LONG: FieldSpec(kind="flag"),
    RISK: FieldSpec(kind="score", weight=0.75),
    "reach": FieldSpec(kind="score", min=0, max=5, step=0.5, weight=0.25),
    "tags": FieldSpec(kind="list"),
    "why": FieldSpec(kind="text"),
}
TIERS = {"🔥 <highest>": 6.9, "σοβαρό": 4.6, "some_tier_with_a_long_name": 2.3, "none": 0.0}
TASK = TaskSpec(input="{text}", fields=FIELDS, tiers=TIERS)
EVENTS = ("", NASTY, "2013_Queensland_floods_and_everything_that_came_after_them", "Αττική", "rare")
RECIPE = Recipe(
    name="triage " + NASTY,
    task=TASK,
    data=DataSpec(source=SourceSpec(kind="jsonl", path="rows.jsonl"), split=SplitSpec(group_by="event")),
    base=BaseSpec(model="base"),
    evaluate=EvaluateSpec(coverage=0.9, bootstrap=100, calibrate="temperature"),
    targets=TargetsSpec(defer=DeferSpec(max_error=0.1, of="kind"), metrics={"ece.kind": 0.05}),
    fairness=FairnessSpec(
        scenarios={
            NASTY: ScenarioSpec(
                row={"text": "Fire near {place}, {people} cannot leave"},
                variants={
                    "place": ("a wealthy Athens neighbourhood", "ένα χωριό στην Εύβοια", NASTY),
                    "people": ("two nurses", "δύο άνεργοι"),
                },
            )
        },
        groups=("event", "language"),
    ),
    robustness=RobustnessSpec(rows=8, max_flip_rate=0.1),
)


def rows(number: int = 240, *, seed: int = 1) -> list[Judged]:
    """Seeded; right in about four of five, a few without an answer."""
    draw = random.Random(seed)
    return [_row(i, draw) for i in range(number)]


def _row(i: int, draw: random.Random) -> Judged:
    reference = _reference(draw)
    text = f"text {i} {NASTY} " + "ά" * (400 if i % 2 else 10) + "\n\n" + "Word and word, and more. " * draw.randint(3, 50)
    record = {"text": text, "event": EVENTS[4] if i < 9 else EVENTS[i % 4], "language": ("el", "en")[i % 2]}
    said = _said(f"row {i} {NASTY if i % 3 else ''}", reference, record, draw) if i % 60 != 7 else None
    overall, tier = rubric.assess(TASK, reference, record)
    return Judged(
        id=f"row {i} {NASTY if i % 3 else ''}",
        split="test",
        reference=reference,
        answer=said.answer if said else None,
        confidence=said.confidence if said else {},
        probabilities=said.probabilities if said else {},
        again={**reference, "kind": draw.choice([reference["kind"], "fire"]), RISK: min(10, reference[RISK] + draw.randint(0, 1))},
        raters={"kind": [draw.choice([reference["kind"], "fire"]) for _ in range(3)]},
        reference_overall=overall,
        overall=said.overall if said else None,
        reference_tier=tier,
        tier=said.tier if said else None,
        slices={"event": record["event"], LONG: f"{i % 2}"},
        nll=3.0,
        nll_tokens=4.0,
        tokens=100 + i,
        refused=None if said else "the text has 9000 tokens " + NASTY,
        text=text,
        record=record,
    )


def _reference(draw: random.Random) -> dict[str, Any]:
    return {
        "kind": LABELS[min(int(draw.expovariate(0.15)), len(LABELS) - 1)],
        LONG: draw.random() < 0.3,
        RISK: draw.randint(0, 10),
        "reach": draw.randint(0, 10) / 2,
        "tags": draw.sample(["water", GREEK, "roads"], 2),
        "why": NASTY,
    }


def _said(name: str, reference: dict[str, Any], record: dict[str, Any], draw: random.Random) -> Prediction:
    """A student's answer: of each closed field the likeliest value, the judge's as a rule."""
    values = {field: closed_values(spec) or [] for field, spec in FIELDS.items() if closed_values(spec)}
    probabilities = {field: _spread(values[field], reference[field], draw) for field in values}
    best = {field: max(range(len(own)), key=own.__getitem__) for field, own in probabilities.items()}
    answer = {**reference, **{field: values[field][place] for field, place in best.items()}, "why": "short"}
    overall, tier = rubric.assess(TASK, answer, record)
    confidence = {field: own[best[field]] for field, own in probabilities.items()}
    return Prediction(name, answer, confidence, probabilities, overall, tier, tokens=100)


def _spread(values: Sequence[Any], value: Any, draw: random.Random) -> list[float]:
    weights = [draw.random() ** 4 + 1e-3 for _ in values]
    weights[list(values).index(value)] += draw.choice([0.05, 2.0, 4.0, 8.0]) * len(values) / 4
    return [weight / sum(weights) for weight in weights]


def ask(examples: Sequence[Example]) -> list[Prediction | BadRow]:
    """A student that answers by the text alone: as to the row that it was made of, as a rule. It refuses a few."""
    return [_asked(example) for example in examples]


def _asked(example: Example) -> Prediction | BadRow:
    draw = random.Random(example.text)
    if draw.random() < 0.03:
        return BadRow(id=example.id, line=None, reason="too long " + NASTY)
    number = re.match(r"text (\d+) ", example.text.casefold())
    row = _first()[int(number[1])] if number and draw.random() < 0.85 else None
    if row is not None and row.answer is not None:
        said = Prediction(example.id, row.answer, row.confidence, row.probabilities, row.overall, row.tier)
    else:
        said = _said(example.id, _reference(draw), dict(example.record), draw)
    return replace(said, sure=said.confidence["kind"], defer=said.confidence["kind"] < 0.3)


@cache
def _first() -> list[Judged]:
    return rows()


def document(**more: Any) -> dict[str, Any]:
    """report.json of all that; `more` goes to `report.build`."""
    confidence = assurance.learn(RECIPE, rows(300, seed=2), rows(600, seed=3))
    before = rows()
    after = [assurance.judged(row, confidence, TASK) for row in before]
    training = [{"step": i, "loss": 3 / i, "smoothed": 3.2 / i, "learning_rate": 1e-4 * (60 - i)} for i in range(1, 60)]
    majority = {"kind": "fire", LONG: False, RISK: 4, "reach": 2.0}
    given: dict[str, Any] = {
        "targets": {"accuracy": 0.5, f"mae.{RISK}": 0.01, f"accuracy.{LONG}": 0.8, "valid_json": 0.95},
        "slices": {name: [row.slices[name] for row in after] for name in ("event", LONG)},
        "bootstrap": 100,
        "baselines": {"majority": {row.id: majority for row in after}},
        "tiers": tuple(reversed(TIERS)),
        "curve": [{"step": 20, "train_loss": 2.0, "valid_loss": 1.7, "learning_rate": 1e-4, "metrics": {"accuracy": 0.5}}],
        "training": {"steps": training, "skipped": [{"step": 9, "rows": [NASTY]}], "resumed": [12], "kept": 20},
        "lineage": {
            "recipe_sha256": "0" * 64,
            "adapter_sha256": "1" * 64,
            "seed": 3,
            "base": {"note": NASTY, "folder": "/" + "long/" * 40},
        },
        "splits": {"train": 1000, "valid": 300, "calibrate": 600, "test": len(after)},
        "notes": [f"Something to know: {NASTY}"],
        **more,
    }
    given.setdefault("parts", {**assurance.documents(RECIPE, confidence, before, after), **_parts(after)})
    given.setdefault("show", ReportSpec(worst=WORST))
    return report.build(after, FIELDS, name=RECIPE.name, run="runs/x y", report="runs/x y/report.html", **given)


def _parts(judged: Sequence[Judged]) -> dict[str, Any]:
    how = {"bootstrap": 100, "seed": 0}
    draw = np.random.default_rng(1)
    right = draw.random(200) < 0.6
    asked = Answers(NASTY, "mmlu", 0.6, ["law"] * 200, [0.25] * 200, right, right & (draw.random(200) < 0.9), notes=[NASTY])
    assert RECIPE.robustness and RECIPE.fairness
    return {
        "ceiling": ceiling(
            judged, FIELDS, rubric=lambda name, answer: rubric.assess(TASK, answer, {}), tiers=tuple(reversed(TIERS)), **how
        ),
        "robustness": robustness(RECIPE.robustness, TASK, judged, ask, **how),
        "fairness": fairness(RECIPE.fairness, TASK, judged, ask, say=lambda words: None, show_texts=True, **how),
        "forgetting": forgetting({NASTY: asked}, max_drop=0.05),
        "lm_eval": {
            "version": "0.4.13",
            "limit": None,
            "tasks": {NASTY: {"n": 90, "metrics": {"acc": {"base": {"value": 0.5, "stderr": 0.1}}}}},
        },
        "production": {"seconds_per_answer": 0.031, "peak_memory_bytes": 3 << 30, "device": NASTY},
        "tokenizer": tokenizer.judge(judged, small_tokenizers.tokenizer("bytes"), **how),
    }


@cache
def full() -> dict[str, Any]:
    return document()
