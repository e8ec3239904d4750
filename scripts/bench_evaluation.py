"""How fast stored answers are judged: every figure with its interval, over all rows and over slices, against one call a resample.

    python scripts/bench_evaluation.py                             20,000 rows, 3 slices, 1,000 resamples
    python scripts/bench_evaluation.py --quick                     2,000 rows: the same in a second or two
    python scripts/bench_evaluation.py --rows 20000 --values 100   slices of a hundred values each
    python scripts/bench_evaluation.py --threads 1 --json evaluation.json

The rows are synthetic, what judges them is `evaluation.judge.judge` itself: 3 choices, 3 flags, 8 scores, a text, an overall and tiers. The
rival draws rows and calls scikit-learn and scipy for each field's accuracy, macro-F1, κ, MAE, RMSE and Spearman, a part of what ours
measures; a few resamples of it are timed, over all rows alone, and stand for the rest. Before that, its figures and ours are compared: it
fails where they differ. The limit is what the project promises: 20 seconds for 20,000 rows. Ratios are of CPU seconds, which a busy machine
leaves as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIMIT, PROMISED = 20.0, 20_000
"""Seconds for so many rows; more rows may take more."""
TIERS = ("low", "mid", "high")
TIMED = 3
"""Resamples of the rival that are timed."""
PACKAGES = ("mlx-distill", "numpy", "scikit-learn", "scipy")


def main() -> int:
    args = arguments()
    if args.threads:
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    document = {
        "machine": f"{platform.system()}, {platform.machine()}, {os.cpu_count()} cores, {args.threads or 'all'} thread(s)",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "rows": [measured(args.rows, args.values, args.bootstrap)],
    }
    if args.json:
        args.json.write_text(json.dumps(document, indent=2), encoding="utf-8")
    print(table(document))
    return 0 if document["rows"][0]["share_of_limit"] <= 1 else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--rows", type=int, help="default: 20,000")
    parser.add_argument("--values", type=int, default=6, help="of each slice (default: 6)")
    parser.add_argument("--bootstrap", type=int, default=1000, help="resamples (default: 1,000)")
    parser.add_argument("--threads", type=int, help="of the BLAS (default: as many as it takes)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    args.rows = args.rows or (2_000 if args.quick else 20_000)
    return args


def fields() -> dict[str, Any]:
    from mlx_distill.recipe.schema import FieldSpec

    scores = {f"score{i}": FieldSpec(kind="score", weight=0.125) for i in range(8)}
    choices = {f"choice{i}": FieldSpec(kind="choice", choices=tuple(f"value {j}" for j in range(4 + 3 * i))) for i in range(3)}
    flags = {f"flag{i}": FieldSpec(kind="flag") for i in range(3)}
    return {**scores, **choices, **flags, "why": FieldSpec(kind="text")}


def made(number: int, values: int) -> list[Any]:
    """Rows of a student that is right in about 7 of 10 cases, and about as sure as that."""
    import numpy as np

    from mlx_distill.evaluation.judge import Judged
    from mlx_distill.task.fields import closed_values

    random, specs = np.random.default_rng(0), fields()
    words = np.array([f"word{i}" for i in range(500)])
    closed = {name: found for name, spec in specs.items() if (found := closed_values(spec)) is not None}
    spread = {name: random.dirichlet(np.ones(len(own)), size=number) for name, own in closed.items()}
    answered = {name: shares.argmax(axis=1) for name, shares in spread.items()}
    other = {name: random.integers(0, len(own), size=number) for name, own in closed.items()}
    right = {name: random.random(number) < 0.7 for name in closed}
    texts = [[" ".join(line) for line in random.choice(words, size=(number, 25))] for _ in range(2)]
    rows = []
    for i in range(number):
        answer = {name: own[answered[name][i]] for name, own in closed.items()}
        reference = {name: answer[name] if right[name][i] else own[other[name][i]] for name, own in closed.items()}
        overalls = [round(sum(float(side[f"score{j}"]) for j in range(8)) / 8, 2) for side in (reference, answer)]
        tiers = [TIERS[int(overall > 4) + int(overall > 6)] for overall in overalls]
        rows.append(
            Judged(
                id=f"row {i}",
                split="test",
                reference={**reference, "why": texts[0][i]},
                answer={**answer, "why": texts[1][i]},
                confidence={name: float(shares[i].max()) for name, shares in spread.items()},
                probabilities={name: shares[i].tolist() for name, shares in spread.items()},
                reference_overall=overalls[0],
                overall=overalls[1],
                reference_tier=tiers[0],
                tier=tiers[1],
                slices={name: str(int(value)) for name, value in zip("abc", random.integers(0, values, size=3), strict=True)},
                nll=30.0 * random.random(),
                nll_tokens=20.0,
                tokens=200,
            )
        )
    return rows


def measured(number: int, values: int, bootstrap: int) -> dict[str, Any]:
    from mlx_distill.evaluation.judge import judge

    rows = made(number, values)
    before = peak()
    found, wall, cpu = timed(lambda: judge(rows, fields(), bootstrap=bootstrap, slices=("a", "b", "c"), tiers=TIERS))
    memory = peak() - before
    rival = Rival(rows)
    compared(found["metrics"], rival.figures(range(number)))
    theirs = timed(lambda: [rival.figures(draw) for draw in rival.draws(TIMED)])[2] / TIMED * bootstrap
    return {
        "shape": f"{number} rows, 3 choices + 3 flags + 8 scores + 1 text, 3 slices of {values}, {bootstrap} resamples",
        "rival": "scikit-learn and scipy, a call a resample, no slices",
        "ours": "judge",
        "figures": len(found["metrics"]) + sum(len(entry["metrics"]) for entries in found["slices"].values() for entry in entries),
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "rival_seconds": theirs,
        "time_ratio": theirs / cpu,
        "peak_memory": memory,
        "share_of_limit": cpu / (LIMIT * max(1.0, number / PROMISED)),
    }


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, wall seconds, CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def peak() -> int:
    """Bytes of this process at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Rival:
    """The same figures as anyone would get them: a call of scikit-learn or scipy on the rows that were drawn."""

    def __init__(self, rows: Sequence[Any]):
        import numpy as np

        self._sides = {
            name: [np.array([getattr(row, side)[name] for row in rows]) for side in ("reference", "answer")]
            for name, spec in fields().items()
            if spec.kind != "text"
        }
        self._number, self._random = len(rows), np.random.default_rng(0)

    def draws(self, times: int) -> list[Any]:
        return [self._random.integers(0, self._number, size=self._number) for _ in range(times)]

    def figures(self, drawn: Any) -> dict[str, float]:
        from scipy.stats import spearmanr
        from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, mean_absolute_error, root_mean_squared_error

        rows, found = list(drawn), {}
        for name, (reference, answer) in self._sides.items():
            pair = reference[rows], answer[rows]
            if name.startswith("score"):
                found[f"mae.{name}"] = mean_absolute_error(*pair)
                found[f"rmse.{name}"] = root_mean_squared_error(*pair)
                found[f"spearman.{name}"] = spearmanr(*pair).statistic
                found[f"kappa.{name}"] = cohen_kappa_score(*pair, weights="quadratic", labels=range(11))
            else:
                found[f"accuracy.{name}"] = accuracy_score(*pair)
                found[f"macro_f1.{name}"] = f1_score(*pair, average="macro")
                found[f"cohen_kappa.{name}"] = cohen_kappa_score(*pair)
        return found


def compared(ours: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, float]) -> None:
    for name, figure in theirs.items():
        if abs(ours[name]["value"] - figure) > 1e-9:
            raise SystemExit(f"{name} is {ours[name]['value']} by us, {figure} by the rival")


def table(document: Mapping[str, Any]) -> str:
    """For a person."""
    lines = [f"{document['machine']}; {', '.join(f'{name} {number}' for name, number in document['versions'].items())}", ""]
    lines += ["| rows | figures | seconds | CPU | of the limit | rival | ratio | memory |", "| --- " * 8 + "|"]
    for row in document["rows"]:
        times = f"{row['wall_seconds']:.1f} | {row['cpu_seconds']:.1f} | {row['share_of_limit']:.0%}"
        rival = f"{row['rival_seconds']:.0f} s | {row['time_ratio']:.0f} | {row['peak_memory'] / 2**20:.0f} MiB"
        lines.append(f"| {row['shape']} | {row['figures']:,} | {times} | {rival} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
