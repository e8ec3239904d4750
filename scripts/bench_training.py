"""How fast a student learns, against mlx-lm or against transformers and PEFT, and against what arithmetic allows.

    python scripts/bench_training.py --quick                       all four shapes on a small model, under 8 minutes on 2 cores
    python scripts/bench_training.py --json training.json          full size, some hours on 2 cores
    python scripts/bench_training.py --shape "600/200-900/40-120 4x4" --repeat 5
    python scripts/bench_training.py --quick --backend torch       against PEFT's trainer; TRL's and Unsloth's where they are installed

The same rows on the same random-weights base (proportions of Qwen2.5-1.5B, float32), from the same adapter, by ours and by the backend's
rivals: `mlx-lm default` and `mlx-lm best`, or `peft` and `trl` (bench.mlx_lm_rival and bench.peft_rival say what they are). Each trains in
a process of its own, one effective batch to warm up and then those that are measured; the processes take turns, and ratios are taken within
a turn. The limit is arithmetic (bench.flops), the losses are judged by one plain evaluation (bench.judge). It fails where a trainer's loss
before training is not the same as ours: then it did not train the same.

--quick divides the hidden size by 4 against Qwen2.5-1.5B's, and the tokens of every part by 4 too: attention keeps its share of the work.
Without it the tokens are those of the shape behind a hidden size of 512: attention has three times its share there, and the limit is lower.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import command, results
from bench.alone import Failed, alone
from bench.job import Job
from bench.model import Sizes, proportioned, write_adapter, write_base
from bench.shapes import Shape, parse

SHAPES = ("none/640/80 4x1", "600/200-900/40-120 4x4", "1200/200-900/40-120 8x2", "600/40-150/20-60 16x1")
RIVALS = {
    "mlx": ("mlx-lm best", "mlx-lm default"),
    "torch": ("peft best", "peft default", "trl sorted", "trl packed", "unsloth"),
}
"""By backend, in the order of their turns, which ours begins."""
INSTALLED = ("trl", "unsloth")
"""No dependencies of the project: who is not installed is skipped."""
PADDED_TO = 32
"""What mlx-lm pads rows to a multiple of."""
AGREE = 1e-4
"""Relative: how far apart two trainers' losses may be before anything is learned."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is trained."""

    hidden: int
    layers: int
    divisor: int
    """Of the tokens of every part of a row."""
    micro_batches: int
    """Measured in one process, at least."""
    repeat: int

    def batches(self, shape: Shape) -> int:
        return -(-self.micro_batches // shape.accumulate)


FULL = Scale(hidden=512, layers=6, divisor=1, micro_batches=4, repeat=3)
QUICK = Scale(hidden=384, layers=6, divisor=4, micro_batches=2, repeat=2)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    return command.run(partial(measure, args), args.json, lambda document: results.tables(by_shape(document["rows"])))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    repeat = f"turns of every trainer (default: {FULL.repeat}, quick: {QUICK.repeat})"
    shapes = "prefix/article/answer micro×accumulate"
    parser = command.parser(__doc__, shape=command.shape, shapes=shapes, repeat=repeat)
    every = [name for names in RIVALS.values() for name in names]
    parser.add_argument("--rival", choices=every, action="append", help="may be repeated (default: all of the backend)")
    args = parser.parse_args(argv)
    args.rival = args.rival or RIVALS[args.backend]
    if strange := [name for name in args.rival if name not in RIVALS[args.backend]]:
        parser.error(f"{strange[0]} is no rival of {args.backend}; there are {', '.join(RIVALS[args.backend])}")
    return args


def present(rivals: Sequence[str]) -> list[str]:
    """Those that can run here; why another cannot is said."""
    found = []
    for name in rivals:
        package = name.partition(" ")[0]
        if package in INSTALLED and find_spec(package) is None:
            print(f"{package} is not installed: {name} is skipped", file=sys.stderr, flush=True)
        elif package == "unsloth" and not cuda():
            print("unsloth needs a CUDA GPU: skipped", file=sys.stderr, flush=True)
        else:
            found.append(name)
    return found


def cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def measure(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """The document after each shape: what was measured is not lost when the rest is interrupted. Raises Failed."""
    scale = QUICK if args.quick else FULL
    sizes = proportioned(scale.hidden, scale.layers)
    rivals, threads = present(args.rival), command.threads_of(args)
    write_base(folder / "base", sizes)
    write_adapter(folder / "adapter", sizes)
    rows: list[results.Row] = []
    for shape in args.shape or map(parse, SHAPES):
        done = trial(shape, scale, sizes, args.backend, rivals, args.repeat or scale.repeat, threads, folder)
        rows += results.rows(done)
        document = command.document(rows, sizes, done.repetitions[0]["matmul"], threads, packages(args.backend, rivals))
        yield document | {"targets": results.targets(rows)}


def packages(backend: str, rivals: Sequence[str]) -> list[str]:
    return [*command.PACKAGES[backend], *(name for name in INSTALLED if any(rival.startswith(name) for rival in rivals))]


def trial(
    shape: Shape, scale: Scale, sizes: Sizes, backend: str, rivals: Sequence[str], repeat: int, threads: int | None, folder: Path
) -> results.Trial:
    """Every trainer in turn, `repeat` times, and the judge on the adapters of the last turn."""
    trained, batches = shape.divided(scale.divisor), scale.batches(shape)
    turns: list[dict[str, Any]] = []
    outs = {name: folder / f"{shape}".replace("/", "_") / name for name in ("ours", *rivals)}

    def run(kind: str, out: Path, adapters: Mapping[str, Path] | None = None) -> dict[str, Any]:
        named = {name: str(path) for name, path in (adapters or {}).items()}
        job = Job(
            kind=kind,
            shape=str(trained),
            batches=batches,
            vocabulary=sizes.vocabulary,
            multiple=max(1, PADDED_TO // scale.divisor),
            base=str(folder / "base"),
            adapter=str(folder / "adapter"),
            out=str(out),
            adapters=named,
            backend=backend,
        )
        return alone("bench.child", job, threads)

    for turn in range(1, repeat + 1):
        turns.append({"matmul": run("matmul", folder / "matmul")})
        for name in outs:
            turns[-1][name] = measured = run(name, outs[name])
            took = results.seconds(measured, "cpu"), results.seconds(measured, "wall"), measured["peak_memory"] / 1e9
            print(
                "{}  {}/{}  {:<14}  {:.2f} CPU s  {:.2f} s  {:.2f} GB".format(shape, turn, repeat, name, *took), file=sys.stderr, flush=True
            )
        agree(shape, turns[-1])
    judged = run("judge", folder / "judge", {"initial": folder / "adapter", **outs})
    return results.Trial(shape, trained, batches, sizes, turns, judged)


def agree(shape: Shape, turn: Mapping[str, Any]) -> None:
    """Raises Failed unless every trainer saw the same loss over the same rows before it learned."""
    ours = turn["ours"]["first_loss"]
    for name in turn.keys() - {"ours", "matmul"}:
        theirs = turn[name]["first_loss"]
        if not abs(theirs - ours) <= AGREE * abs(ours):
            raise Failed(f"{shape}: before training, {name} has a loss of {theirs:.6f} and ours {ours:.6f}: they do not train the same")


def by_shape(rows: Sequence[results.Row]) -> list[list[results.Row]]:
    return [[row for row in rows if row["shape"] == shape] for shape in dict.fromkeys(row["shape"] for row in rows)]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the process that is running, and removes the folder, as Ctrl-C does
    sys.exit(main())
