"""How fast rows are answered, against mlx-lm or transformers' `generate`, and against what arithmetic allows.

    python scripts/bench_inference.py --quick                      both shapes on a smaller model, under 8 minutes on 2 cores
    python scripts/bench_inference.py --json inference.json        full size, half an hour a turn on 2 cores
    python scripts/bench_inference.py --shape long --rival "mlx-lm best" --repeat 5 --threads 1
    python scripts/bench_inference.py --rival xgrammar --peers FOLDER        FOLDER: where `pip install --target FOLDER xgrammar` put it
    python scripts/bench_inference.py --quick --backend torch      against transformers' generate; vLLM's engine where it is installed

The same rows, the same random-weights base (Qwen2's layout, float32, heads of 128, the quickstart's tokenizer), the same task: eight
scores, a choice and a flag. Answered by ours in both modes, and by the backend's rivals (bench.mlx_lm_answers and bench.generate_answers
say what they are), each in a process of its own that loads, warms up and then answers once; the processes take turns, and ratios are taken
within a turn. The best of the rivals is tuned on the shape's own rows first. The limit is arithmetic (bench.flops).

A shape is written prefix/article/answer rows×1, in tokens; `long` and `short` are those of the targets. Before anything is timed, tokens
that rivals decode are compared with those that our session chooses with any token allowed: it fails where one differs that is no tie.

--quick takes a hidden size of 768 instead of 1,024, and 3/4 of the tokens of every part: attention keeps its share of the work.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import answer_results, command, questions
from bench.alone import Failed, alone
from bench.asked import SETTINGS, Asked
from bench.model import Sizes, write_base
from bench.results import Row, clock_of, seconds
from bench.shapes import Shape, parse

from mlx_distill.task.prompt import load_tokenizer

SHAPES = {"long": answer_results.LONG, "short": answer_results.SHORT}
OURS = tuple(map(answer_results.called, answer_results.OURS))
FREE = {"mlx": ("mlx-lm default", "mlx-lm best"), "torch": ("generate default", "generate best", "generate prefix cached")}
"""By backend. Greedy and without a grammar: they must decode what our session would."""
PEERS = {"mlx": ("xgrammar", "outlines"), "torch": ("vllm",)}
"""They are no dependency of the project: `--peers` says where they lie, if not in this environment."""
TUNED = {"mlx": ("mlx-lm best", "xgrammar"), "torch": ("generate best", "generate prefix cached")}
"""The first is tuned; the others take its settings."""
COMPARED_ROWS, COMPARED_TOKENS = 8, 16
TIE = 1e-3
"""Log probability: two tokens that are nearer than this may change places with the order of a sum."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is answered."""

    sizes: Sizes
    divisor: float
    """Of the tokens of every part of a row."""
    repeat: int


FULL = Scale(Sizes(hidden=1024, intermediate=2816, layers=6, heads=8, kv_heads=2, vocabulary=32000), divisor=1, repeat=3)
QUICK = Scale(Sizes(hidden=768, intermediate=2112, layers=3, heads=6, kv_heads=2, vocabulary=24000), divisor=4 / 3, repeat=1)


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    return command.run(partial(measure, args), args.json, lambda document: answer_results.tables(document["rows"], document["failed"]))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    repeat = f"turns of all (default: {FULL.repeat}, quick: {QUICK.repeat})"
    parser = command.parser(__doc__, shape=shape, shapes=f"{', '.join(SHAPES)}, or prefix/article/answer rows×1", repeat=repeat)
    every = [name for names in (*FREE.values(), *PEERS.values()) for name in names]
    parser.add_argument(
        "--rival", choices=every, action="append", help="may be repeated (default: the backend's own, and with --peers all)"
    )
    parser.add_argument("--peers", type=folder, metavar="FOLDER", help="where xgrammar, outlines, vllm and what they need were installed")
    args = parser.parse_args(argv)
    args.rival = args.rival or rivals(args.backend, args.peers)
    if strange := [name for name in args.rival if name not in (*FREE[args.backend], *PEERS[args.backend])]:
        parser.error(f"{strange[0]} is no rival of {args.backend}; there are {', '.join((*FREE[args.backend], *PEERS[args.backend]))}")
    return args


def rivals(backend: str, peers: Path | None) -> Sequence[str]:
    """Whom ours is compared with, if nobody is named; a peer that is looked for in this environment and not there is said to be skipped."""
    if peers:
        return (*FREE[backend], *PEERS[backend])
    if backend == "mlx":
        return FREE[backend]
    there = [name for name in PEERS[backend] if find_spec(name) is not None]
    for name in PEERS[backend]:
        if name not in there:
            print(f"{name} is not installed: skipped", file=sys.stderr, flush=True)
    return (*FREE[backend], *there)


def shape(text: str) -> Shape:
    return command.shape(SHAPES.get(text, text))


def folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder; pip install --target {text} xgrammar makes it")
    return Path(text).resolve()


def measure(args: argparse.Namespace, folder: Path) -> Iterator[command.Document]:
    """The document after each shape. Raises Failed."""
    scale = QUICK if args.quick else FULL
    base = folder / "base"
    prepared(base, scale.sizes)
    threads = command.threads_of(args)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for shape in args.shape or map(parse, SHAPES.values()):
        bench = Bench(shape, scale, base, args.backend, threads, args.peers)
        done = bench.trial(args.rival, args.repeat or scale.repeat)
        rows += answer_results.rows(done)
        failed |= bench.failed
        document = command.document(rows, scale.sizes, done.turns[0]["matmul"], threads, command.PACKAGES[args.backend])
        document["versions"] |= versions(args.peers)
        yield document | {"targets": answer_results.targets(rows), "failed": failed}


def prepared(base: Path, sizes: Sizes) -> None:
    """Random weights, and the quickstart's tokenizer."""
    write_base(base, sizes)
    for name in questions.TOKENIZER:
        shutil.copy(questions.QUICKSTART / "base" / name, base / name)


def versions(peers: Path | None) -> dict[str, str]:
    """Of the peers that are there."""
    return (
        {found.name: found.version for found in distributions(path=[str(peers)]) if found.name in sum(PEERS.values(), ())} if peers else {}
    )


class Bench:
    """One shape: who answers it, in which order, and what is asked of whom."""

    def __init__(self, shape: Shape, scale: Scale, base: Path, backend: str, threads: int | None, peers: Path | None):
        self._shape, self._answered, self._scale, self._base = shape, shape.divided(scale.divisor), scale, base
        self._backend, self._threads = backend, threads
        self._environment = {"PYTHONPATH": str(peers)} if peers else {}
        self._settings: dict[str, Mapping[str, int]] = {}
        self._questions = questions.draw(self._answered, load_tokenizer(base))
        self.failed: dict[str, str] = {}
        """Why a peer could not run."""

    def trial(self, rivals: Sequence[str], repeat: int) -> answer_results.Trial:
        """The same answers first, then the tuning, then everybody in turn, `repeat` times."""
        same = self.same([name for name in FREE[self._backend] if name in rivals])
        self._tune([name for name in TUNED[self._backend] if name in rivals])
        turns: list[dict[str, Any]] = []
        for turn in range(1, repeat + 1):
            turns.append({"matmul": self._run("matmul")})
            for name in (*OURS, *rivals):
                if name not in self.failed and (measured := self.measured(name)):
                    turns[-1][name] = measured
                    self._say(f"{turn}/{repeat}", name, measured)
        return answer_results.Trial(
            shape=self._shape,
            answered=self._answered,
            sizes=self._scale.sizes,
            prefix=len(self._questions.prefix),
            articles=[len(article) for article in self._questions.articles],
            answer={"json": self._questions.answer, "slots": len(self._questions.task.fields)},
            turns=turns,
            settings=self._settings,
            valid={name: self._valid(measured) for name, measured in turns[0].items() if name != "matmul"},
            same=same,
        )

    def measured(self, name: str) -> dict[str, Any] | None:
        """None where a peer cannot run here: then `failed` says why, and the others go on."""
        try:
            return self._run(name)
        except Failed as error:
            if name not in PEERS[self._backend]:
                raise
            self.failed[name] = str(error).strip().splitlines()[-1]
            print(f"{self._shape}  {name} cannot run: {self.failed[name]}", file=sys.stderr, flush=True)
            return None

    def same(self, rivals: Sequence[str]) -> dict[str, Mapping[str, int]]:
        """Rows compared token by token with what our session chooses. Raises Failed where they are not the same."""
        ours = self.decoded("ours free") if rivals else {}
        return {name: compared(self._shape, name, ours, self.decoded(name)) for name in rivals}

    def decoded(self, kind: str) -> dict[str, Any]:
        """Some tokens of some rows, without a grammar."""
        return self._run(kind, rows=COMPARED_ROWS, tokens=COMPARED_TOKENS)

    def _tune(self, rivals: Sequence[str]) -> None:
        """The settings of the best rival, which are those of all that use its batches."""
        if not rivals:
            return
        clock = clock_of(self._run("matmul")["machine"])
        tried: list[tuple[float, Mapping[str, int]]] = []
        for settings in SETTINGS[self._backend]:
            measured = self._run(TUNED[self._backend][0], settings=dict(settings))
            tried.append((seconds(measured, clock), settings))
            self._say("tuning", " ".join(map(str, settings.values())), measured)
        _, chosen = min(tried, key=lambda each: each[0])
        self._settings = dict.fromkeys(rivals, chosen)

    def _run(self, kind: str, **asked: Any) -> dict[str, Any]:
        out = self._base.parent / str(self._shape).replace("/", "_") / kind
        asked = {"settings": dict(self._settings.get(kind, {})), **asked}
        job = Asked(kind=kind, shape=str(self._answered), base=str(self._base), out=str(out), backend=self._backend, **asked)
        return alone("bench.answering", job, self._threads, self._environment if kind in PEERS[self._backend] else None)

    def _say(self, turn: str, name: str, measured: Mapping[str, Any]) -> None:
        took = seconds(measured, "cpu"), seconds(measured, "wall"), measured["peak_memory"] / 1e9
        print("{}  {}  {:<14}  {:.2f} CPU s  {:.2f} s  {:.2f} GB".format(self._shape, turn, name, *took), file=sys.stderr, flush=True)

    def _valid(self, measured: Mapping[str, Any]) -> float:
        texts = measured["texts"].values()
        return sum(questions.valid(text, self._questions.task.fields) for text in texts) / len(texts)


def compared(shape: Shape, rival: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, int]:
    """Rows, and those in which both decoded the same. A difference at a tie ends a row, and is no fault; any other raises Failed."""
    same = 0
    for name, tokens in ours["ids"].items():
        at = next((i for i, (own, other) in enumerate(zip(tokens, theirs["ids"][name], strict=True)) if own != other), None)
        same += at is None
        if at is not None and not ours["margins"][name][at] < TIE:
            own, other, margin = tokens[at], theirs["ids"][name][at], ours["margins"][name][at]
            raise Failed(
                f"{shape}: token {at} of {name} is {other} by {rival}, {own} by ours, {margin:.3f} ahead: they do not compute the same"
            )
    return {"rows": len(ours["ids"]), "same": same}


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the process that is running, and removes the folder, as Ctrl-C does
    sys.exit(main())
