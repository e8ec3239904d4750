"""Does a row's answer depend on its neighbours? The same texts together, shuffled, and one by one, in each type of number.

    .venv/bin/python scripts/bench_invariance.py runs/quickstart recipes/quickstart/crisis_t26.csv --rows 300

In exact arithmetic nothing depends on the batch. In float32 what differs is rounding; in 16 bits a matmul of one row and one of many may
round so differently that a close choice tips. Printed: the share of answers that are the same, field by field, and how far confidences
move. Computed on MLX's default device; on CPUs 16-bit matmuls are slow, so keep the rows few.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

TYPES = ("float32", "bfloat16", "float16")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = [measured(asked.run, asked.texts, asked.rows, kind) for kind in asked.types]
    print("| type | answers the same, shuffled | one by one | fields that differ | largest move of a confidence | mean |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        same, alone = (f"{row[way]['same']} of {row['rows']}" for way in ("shuffled", "alone"))
        fields = f"{row['alone']['fields']} of {row['fields']}"
        print(f"| {row['type']} | {same} | {alone} | {fields} | {row['alone']['largest']:.1e} | {row['alone']['mean']:.1e} |")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    return 0


def measured(place: Path, texts: Path, number: int, kind: str) -> dict[str, Any]:
    import numpy as np

    from mlx_distill.backends.choose import choose

    choose("mlx")
    from mlx_distill.backends.mlx.student import MlxStudent
    from mlx_distill.data.examples import Reader
    from mlx_distill.data.read import by_name, read
    from mlx_distill.inference.engine import Engine
    from mlx_distill.records import Example, Prediction
    from mlx_distill.task.prompt import load_tokenizer
    from mlx_distill.training.run import Run
    from mlx_distill.workflows.bases import base_of_run
    from mlx_distill.workflows.setting import Setting

    run = Run(place)
    recipe, facts = run.open_learned()
    base = base_of_run(_setting(Setting), run, recipe, facts, choose("mlx"))
    student = MlxStudent(base, {"run": run.adapter}, cast=kind)
    rows = Reader(recipe.task, None).examples(read(by_name(texts), texts))
    examples = list(islice((row for row in rows if isinstance(row, Example)), number))
    settings: dict[str, Any] = {"answer": recipe.answer, "max_tokens": recipe.train.max_tokens, "adapter": "run"}
    engine = Engine(student, recipe.task, load_tokenizer(base), **settings)

    def answered(chosen: Sequence[Example]) -> dict[str, Prediction]:
        return {str(row.id): row for row in engine.answers(chosen) if isinstance(row, Prediction)}

    together = answered(examples)
    order = np.random.default_rng(0).permutation(len(examples))
    shuffled = answered([examples[i] for i in order])
    alone = {name: row for example in examples for name, row in answered([example]).items()}
    ways = {"shuffled": compared(together, shuffled), "alone": compared(together, alone)}
    return {"type": kind, "rows": len(together), "fields": sum(len(row.answer) for row in together.values()), **ways}


def compared(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    pairs = [(row, other[name]) for name, row in one.items()]
    moves = [abs(a.confidence[field] - b.confidence[field]) for a, b in pairs for field in a.answer if a.answer[field] == b.answer[field]]
    return {
        "same": sum(a.answer == b.answer for a, b in pairs),
        "fields": sum(a.answer[field] != b.answer[field] for a, b in pairs for field in a.answer),
        "largest": max(moves),
        "mean": sum(moves) / len(moves),
    }


def _setting(kind: Any) -> Any:
    from mlx_distill.cli.options import cache_folder
    from mlx_distill.observe.progress import Progress

    return kind(Progress(quiet=True), cache_folder())


if __name__ == "__main__":
    sys.exit(main())
