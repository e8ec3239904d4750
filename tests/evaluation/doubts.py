"""Rows of a student whose doubts are known: it draws the judge's answer from one distribution and says another, surer one."""

from __future__ import annotations

import numpy as np

from mlx_distill.evaluation.sheet import Judged
from mlx_distill.recipe.schema import BaseSpec as Base
from mlx_distill.recipe.schema import DataSpec, DeferSpec, EvaluateSpec, FieldSpec, Recipe, SourceSpec, SplitSpec, TargetsSpec, TaskSpec
from mlx_distill.task import rubric
from mlx_distill.task.decision import decide, place
from mlx_distill.task.fields import closed_values

FIELDS = {
    "kind": FieldSpec(kind="choice", choices=("fire", "flood", "quake", "other")),
    "urgent": FieldSpec(kind="flag"),
    "risk": FieldSpec(kind="score", max=5, weight=0.5),
    "reach": FieldSpec(kind="score", max=5, weight=0.5, estimate="mean"),
}
TASK = TaskSpec(input="{text}", fields=FIELDS, tiers={"high": 3.5, "middle": 2.0, "low": 0.0})


def recipe(
    *,
    task: TaskSpec = TASK,
    defer: DeferSpec | None = None,
    coverage: float | None = None,
    calibrate: str = "auto",
    group: str | None = None,
) -> Recipe:
    return Recipe(
        name="doubts",
        task=task,
        data=DataSpec(source=SourceSpec(kind="jsonl", path="x.jsonl"), split=SplitSpec(group_by=group)),
        base=Base(model="tiny"),
        evaluate=EvaluateSpec(calibrate=calibrate, coverage=coverage, bootstrap=100),
        targets=TargetsSpec(defer=defer),
    )


def rows(n: int, seed: int, *, sharper: float = 2.5, prefix: str = "r", concentration: float = 0.6, task: TaskSpec = TASK) -> list[Judged]:
    """The judge's labels come from distributions whose probabilities the student says to the power of `sharper`."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(n):
        reference, answer, said, confidence = {}, {}, {}, {}
        for name, spec in task.fields.items():
            values = closed_values(spec) or []
            true = random.dirichlet(np.full(len(values), concentration))
            reference[name] = values[int(random.choice(len(values), p=true))]
            sharp = np.maximum(true, 1e-9) ** sharper
            said[name] = (sharp / sharp.sum()).tolist()
            answer[name] = decide(spec, values, said[name])
            confidence[name] = said[name][place(spec, values, answer[name])]
        (judge, judge_tier), (overall, tier) = rubric.assess(task, reference), rubric.assess(task, answer)
        made.append(
            Judged(
                id=f"{prefix}{i}",
                split="test",
                reference=reference,
                answer=answer,
                confidence=confidence,
                probabilities=said,
                reference_overall=judge,
                overall=overall,
                reference_tier=judge_tier,
                tier=tier,
                record={"source": f"s{i % 3}"},
            )
        )
    return made
