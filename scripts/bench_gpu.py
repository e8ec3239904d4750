"""What one GPU makes of the work: training against PEFT, answering, the matmul that dequantizes, memory. No network, at most 8 minutes.

    python scripts/bench_gpu.py --json gpu.json
    python scripts/bench_gpu.py --part learning --part memory
    python scripts/bench_gpu.py --device cpu --quick              tiny shapes, to see that everything runs

Random weights of Qwen2.5's shapes (1.5B, 3B, 7B), 4-bit and unquantized, made on the card (bench.gpu.bases). The parts are `products`,
`learning`, `answering` and `memory`; bench.gpu has a module for each that says what it measures. Each runs in a process of its own, within
its share of the time; what it has measured by then counts. What fails is named with its reason, the rest goes on, and the exit code is 1.

Figures for an RTX 4090 are estimates: the shares of the limits that were measured here, of that card's limits.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

from bench import command
from bench.alone import SCRIPTS
from bench.gpu.asked import Asked, Row
from bench.gpu.part import PARTS

from mlx_distill.errors import Interrupted
from mlx_distill.files import write_json

MINUTES = 8.0
SHARES = {"products": 0.12, "learning": 0.36, "answering": 0.28, "memory": 0.24}
"""Of the time."""
ENDING = 0.9
"""Share of a part's time after which it begins nothing new; when all of it is over, it is ended."""


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    rows: list[Row] = []
    code = 0
    try:
        with tempfile.TemporaryDirectory() as folder:
            for part in args.part:
                for row in measured(part, args, Path(folder)):
                    rows.append(row)
                if args.json:
                    write_json(args.json, document(rows))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = Interrupted.exit_code
    if rows:
        from bench.gpu.report import tables

        print(heading(document(rows)), tables(rows), sep="\n\n")
    return code or int(any("failed" in row for row in rows))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--quick", action="store_true", help="tiny shapes: nothing that is worth reading is measured")
    made.add_argument("--part", choices=PARTS, action="append", help="may be repeated (default: all)")
    made.add_argument("--minutes", type=float, default=MINUTES, help=f"for all of it (default: {MINUTES:g})")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the document there, after each part")
    args = made.parse_args(argv)
    if args.minutes <= 0:
        made.error("--minutes is above 0")
    if args.device == "cpu" and not args.quick:
        made.error("--device cpu goes with --quick: the real shapes take a GPU")
    args.part = args.part or list(PARTS)
    return args


def measured(part: str, args: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """A part's rows; the last says why it ended, where it did not end by itself."""
    from bench.gpu.report import estimated

    seconds = 60 * args.minutes * SHARES[part] / sum(SHARES[name] for name in args.part)
    out = folder / part
    out.mkdir()
    asked = Asked(part, args.quick, ENDING * seconds, str(out), time.time())
    write_json(out / "asked.json", asdict(asked))
    print(f"{part}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
    why = run(out, seconds, args.device)
    rows = json.loads((out / "rows.json").read_text(encoding="utf-8")) if (out / "rows.json").is_file() else []
    yield from map(estimated, rows) if args.device == "cuda" else rows
    if why:
        yield {"part": part, "what": part, "failed": why}


def run(out: Path, seconds: float, device: str) -> str | None:
    """Why the part ended before it was done; None where it was done."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    # Installed or not, the part finds the sources.
    where = {"PYTHONPATH": os.pathsep.join([str(SCRIPTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])}
    with (out / "log").open("w+", encoding="utf-8") as log:
        command = [sys.executable, "-m", "bench.gpu.part", str(out / "asked.json")]
        process = subprocess.Popen(
            command, cwd=SCRIPTS, env={**os.environ, **hidden, **where}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"its {seconds:.0f} seconds were over"
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        said = log.read()
        if "Traceback" in said:
            print(said[-3000:], file=sys.stderr, flush=True)
        return f"exit code {code}: {said.strip().splitlines()[-1] if said.strip() else ''}" if code else None


def document(rows: Sequence[Row]) -> dict[str, Any]:
    from bench.gpu.report import targets

    card = next((row for row in rows if row.get("what") == "card"), {})
    return {
        "machine": f"{platform.system()}, {card.get('name', 'card not measured')}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **versions()},
        "card": card,
        "rows": [row for row in rows if row is not card],
        "targets": targets(rows),
        "failed": {row["what"]: row["failed"] for row in rows if "failed" in row},
    }


def versions() -> dict[str, str]:
    """A card's machine may have the sources alone, and no rival."""
    found: dict[str, str] = {}
    for name in command.PACKAGES["torch"]:
        try:
            found |= command.versions([name])
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def heading(document: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    card = document["card"]
    lines = [f"{document['machine']}; {document['date']}", versions]
    if "bandwidth" in card:
        lines.append(f"measured: {card['bandwidth'] / 1e9:,.0f} GB/s, {card['flops'] / 1e12:,.1f} TFLOP/s ({card['dtype']})")
    return "\n".join(lines)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the part that is running, and removes the folder, as Ctrl-C does
    sys.exit(main())
