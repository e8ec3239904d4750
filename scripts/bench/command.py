"""What the benchmarks' command lines share: their options' types, the document's head, and how a run ends.

A document is kept after each shape, so that what was measured is not lost when the rest is interrupted.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.alone import Failed
from bench.model import Sizes
from bench.results import Row
from bench.shapes import Shape, parse
from mlx_distill.errors import DistillError, Interrupted
from mlx_distill.files import write_json

PACKAGES = {
    "mlx": ("mlx-distill", "mlx", "mlx-lm", "numpy"),
    "torch": ("mlx-distill", "torch", "transformers", "peft", "numpy"),
}
"""Whose versions a document names, by backend."""
Document = dict[str, Any]


def run(measure: Callable[[Path], Iterator[Document]], out: Path | None, show: Callable[[Document], str]) -> int:
    """The exit code. `measure` gets a folder of its own, and yields the document after each shape."""
    document: Document | None = None
    code = 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            for document in measure(Path(folder)):
                if out:
                    write_json(out, document)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = Interrupted.exit_code
    except DistillError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    if document:
        print(heading(document), show(document), sep="\n\n")
    return code


def document(
    rows: Sequence[Row], sizes: Sizes, rate: Mapping[str, Any], threads: int | None, packages: Sequence[str] = PACKAGES["mlx"]
) -> Document:
    return {
        "machine": machine(rate, threads),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **versions(packages)},
        "model": asdict(sizes),
        "rows": rows,
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    return {name: version(name) for name in packages}


def machine(rate: Mapping[str, Any], threads: int | None) -> str:
    return f"{platform.system()}, {rate['machine']}, BLAS: {rate['blas'] or 'its own'}" + (f", {threads} thread(s)" if threads else "")


def heading(document: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    return f"{document['machine']}; {document['date']}\n{versions}\nmodel: {document['model']}"


def parser(description: str | None, *, shape: Callable[[str], Shape], shapes: str, repeat: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a smaller model and fewer tokens, in the same proportions")
    made.add_argument(
        "--backend", choices=tuple(PACKAGES), default="mlx", help="what ours computes with, and against whose rivals (default: mlx)"
    )
    made.add_argument("--shape", type=shape, action="append", help=f"{shapes}; may be repeated")
    made.add_argument("--repeat", type=positive, help=repeat)
    made.add_argument("--threads", type=positive, help="of the BLAS (default: as many as it takes; torch on a CPU: 1)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the document there, after each shape")
    return made


def threads_of(args: argparse.Namespace) -> int | None:
    """PyTorch's threads wait for one another at work, so that CPU seconds of several say less than those of one."""
    counted: int | None = args.threads
    return counted or (1 if args.backend == "torch" else None)


def shape(text: str) -> Shape:
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
