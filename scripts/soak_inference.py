"""Does a job grow? `mlx-distill infer` in one process for as long as told; its memory and its pace, a line a minute.

    .venv/bin/python scripts/soak_inference.py --minutes 20                   rows on standard input until the time is over
    .venv/bin/python scripts/soak_inference.py --minutes 1440 --run RUN --texts texts.jsonl     a run and texts of your own, over and over
    .venv/bin/python scripts/soak_inference.py --minutes 2 --every 5          a line every 5 seconds
    .venv/bin/python scripts/soak_inference.py --backend torch                answered by PyTorch
    .venv/bin/python scripts/soak_inference.py --rows 200000                  two jobs: 20,000 rows and 200,000, whose peaks are compared

Without --run, a tiny model of random weights answers made-up texts of 199 lengths, of which a fifth is bad: no JSON, no such column, not
UTF-8, an id that was there before. Exit code 1 on growth, and where the job fails or loses a row.

Growth. The first quarter of the time is warm-up: caches fill, kernels are compiled. The rest is cut into quarters of its own, each with
its peak of resident memory (asked every half second). A job grows if a later quarter's peak lies above 1.05 times the first's; or, which
finds a slow leak, if the lines' peaks rise in the second half of the time (Mann and Kendall's test, z > 3) at a pace (Theil and Sen's: the
median of the slopes between any two) that has added 0.5 % there and would add 25 % in 24 hours. With --rows, each job's own peak, as the
system kept it (ru_maxrss): the large job's at most 1.05 times the small one's. On a Mac, a GPU's memory counts in what `infer` reports,
and not here.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))
from tests.answers import rejects_of
from tests.jobs import COMMAND, environment, row, tiny_run

LIMIT = 1.05
"""Of a later peak, to the first."""
WARM_UP = 0.25
"""Share of the time."""
A_DAY = 24 * 60.0
LEAK_IN_A_DAY, LEAK = 0.25, 0.005
"""Shares of what there is, which a leak would add in a day and has added in half of the time: less than this is a cache that fills."""
SURE = 3.0
"""Standard deviations: by chance once in 700."""
FEWEST = 12
"""Lines of a soak."""
SECONDS = 0.5
"""Between two looks at the memory."""
MIB = 1 << 20
LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class Line:
    """What is printed of one interval."""

    minute: float
    """At its end."""
    resident: int
    """Bytes, the largest seen."""
    rows: int
    """Answered or rejected in it."""


# What is growth


def growth(lines: Sequence[Line]) -> list[str]:
    """Why this is growth; nothing where it is none."""
    assert len(lines) >= FEWEST
    warm = lines[round(WARM_UP * len(lines)) :]
    quarters = [warm[len(warm) * i // 4 : len(warm) * (i + 1) // 4] for i in range(4)]
    first, *later = (max(line.resident for line in quarter) for quarter in quarters)
    found = []
    if max(later) > LIMIT * first:
        found.append(f"the peak rose from {first / MIB:.1f} to {max(later) / MIB:.1f} MiB, {max(later) / first:.3f} times")
    half = lines[len(lines) // 2 :]
    slope, z = trend(half)
    added = slope * (half[-1].minute - half[0].minute)
    if z > SURE and added > LEAK * first and slope * A_DAY > LEAK_IN_A_DAY * first:
        found.append(f"memory rises steadily (z = {z:.1f}), by {slope * A_DAY / MIB:,.0f} MiB in 24 hours")
    return found


def trend(lines: Sequence[Line]) -> tuple[float, float]:
    """Theil and Sen's slope, bytes a minute, and Mann and Kendall's z, without a correction for ties (which only lowers it).

    >>> trend([Line(minute, 100 + 3 * minute, 0) for minute in range(10)])
    (3.0, 3.9354796403996297)
    """
    pairs = list(itertools.combinations(lines, 2))
    slope = median((two.resident - one.resident) / (two.minute - one.minute) for one, two in pairs)
    signs = sum((two.resident > one.resident) - (two.resident < one.resident) for one, two in pairs)
    n = len(lines)
    spread = (n * (n - 1) * (2 * n + 5) / 18) ** 0.5
    return slope, (signs - (signs > 0) + (signs < 0)) / spread


# One job


class Job:
    """`infer` as a child over a file, or over what is fed to it, and what it has written so far: counted in constant memory."""

    def __init__(self, run: Path, folder: Path, source: Path | None = None, *, backend: str = "auto"):
        self.output = folder / f"answers-{source.stem if source else 'fed'}.jsonl"
        self._stderr = folder / "stderr"
        self._read: dict[Path, int] = {}
        self.rows = 0
        """Answered or rejected."""
        command: list[str | Path] = [COMMAND, "infer", run, source or "-", self.output, "--format", "jsonl", "--json"]
        command += ["--backend", backend]
        pipe = subprocess.DEVNULL if source else subprocess.PIPE
        with self._stderr.open("wb") as said:
            self.child = subprocess.Popen(command, stdin=pipe, stdout=subprocess.PIPE, stderr=said, env=environment(folder))

    def resident(self) -> int:
        """Bytes at this moment; 0 where it has ended."""
        if LINUX:
            status = Path(f"/proc/{self.child.pid}/status").read_text()
            return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmRSS:")), 0)
        said = subprocess.run(["ps", "-o", "rss=", "-p", str(self.child.pid)], capture_output=True, text=True, check=False).stdout
        return int(said.strip() or 0) << 10

    def count(self) -> int:
        for path in (self.output, rejects_of(self.output)):
            if path.exists():
                with path.open("rb") as file:
                    file.seek(self._read.get(path, 0))
                    while block := file.read(MIB):
                        self.rows += block.count(b"\n")
                    self._read[path] = file.tell()
        return self.rows

    def is_alive(self) -> bool:
        """It is not waited for: what it has used is asked for in the end."""
        return os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def feed(self, rows: Iterator[bytes], seconds: float) -> int:
        """Rows into its standard input for so long; how many. Its death ends it too."""
        assert self.child.stdin is not None
        fed, until = 0, time.monotonic() + seconds
        with contextlib.suppress(BrokenPipeError), self.child.stdin as pipe:
            while time.monotonic() < until:
                pipe.write(next(rows))
                fed += 1
        return fed

    def end(self) -> tuple[dict[str, Any], int]:
        """What it printed, and its peak of resident memory in bytes: its parent's before it was begun, if that is larger."""
        assert self.child.stdout is not None
        printed = self.child.stdout.read()
        _, status, used = os.wait4(self.child.pid, 0)
        self.child.returncode = os.waitstatus_to_exitcode(status)
        if self.child.returncode:
            raise SystemExit(f"infer failed ({self.child.returncode}):\n{self._stderr.read_text('utf-8', 'replace')[-2000:]}")
        return json.loads(printed), used.ru_maxrss * (1024 if LINUX else 1)


def endless(texts: Path | None) -> Iterator[bytes]:
    """Rows made up, or a file's over and over, each time under new ids."""
    if texts is None:
        yield from map(row, itertools.count())
        return
    number = itertools.count()
    while True:
        with texts.open(encoding="utf-8") as file:
            yield from (json.dumps({**json.loads(line), "id": str(next(number))}).encode() + b"\n" for line in file)


# The two ways


def soak(run: Path, folder: Path, minutes: float, every: float, texts: Path | None, *, backend: str = "auto") -> dict[str, Any]:
    """One job for so long. Raises SystemExit where it fails, or has lost a row."""
    job, fed = Job(run, folder, backend=backend), [0]
    feeder = threading.Thread(target=lambda: fed.append(job.feed(endless(texts), 60 * minutes)), daemon=True)
    feeder.start()
    lines = list(watch(job, minutes, every))
    feeder.join()
    document, peak = job.end()
    if (rows := job.count()) != fed[-1] or document["rows"] != fed[-1]:
        raise SystemExit(f"{fed[-1]:,} rows went in; it says {document['rows']:,}, and {rows:,} came out")
    print(f"{fed[-1]:,} rows: {document['done']:,} answered, {document['rejected']:,} rejected; peak {peak / MIB:.1f} MiB")
    slope, z = trend(lines[len(lines) // 2 :])
    print(f"second half: {slope * 60 / MIB:+.2f} MiB an hour (z = {z:.1f})")
    return {"lines": [*map(asdict, lines)], "rows": fed[-1], "peak": peak, "bytes_a_minute": slope, "z": z, "growth": growth(lines)}


def watch(job: Job, minutes: float, every: float) -> Iterator[Line]:
    """A line every so many seconds, while rows are fed. The last rows, for which nobody waits any more, are in none."""
    began, before = time.monotonic(), 0
    print("  minute   resident MiB      rows   rows a second")
    for number in range(1, int(60 * minutes / every) + 1):
        resident = 0
        while time.monotonic() < began + number * every and job.is_alive():
            resident = max(resident, job.resident())
            time.sleep(min(SECONDS, every))
        rows = job.count() - before
        before += rows
        line = Line((time.monotonic() - began) / 60, resident, rows)
        print(f"{line.minute:8.2f}  {line.resident / MIB:13.1f}  {line.rows:8,}  {line.rows / every:14.1f}", flush=True)
        yield line


def compare(run: Path, folder: Path, rows: int, texts: Path | None = None, *, backend: str = "auto") -> dict[str, Any]:
    """A job of a tenth of the rows and one of all, one after the other."""
    peaks = {}
    for number in (rows // 10, rows):
        source = folder / f"{number}.jsonl"
        with source.open("wb") as file:
            file.writelines(itertools.islice(endless(texts), number))
        job, began = Job(run, folder, source, backend=backend), time.monotonic()
        document, peaks[number] = job.end()
        seconds = time.monotonic() - began
        if document["rows"] != number or job.count() != number:
            raise SystemExit(f"{number:,} rows went in; it says {document['rows']:,}, and {job.rows:,} came out")
        print(f"{number:9,} rows: peak {peaks[number] / MIB:7.1f} MiB, {seconds:7.1f} s", flush=True)
    ratio = peaks[rows] / peaks[rows // 10]
    print(f"ratio {ratio:.4f}, at most {LIMIT}")
    found = [f"{rows:,} rows take {ratio:.3f} times the memory of {rows // 10:,}"] if ratio > LIMIT else []
    return {"peaks": {str(number): peak for number, peak in peaks.items()}, "ratio": ratio, "growth": found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="how long (20)")
    parser.add_argument("--every", type=float, default=60, metavar="SECONDS", help="of a line (60)")
    parser.add_argument("--rows", type=int, metavar="N", help="compare two jobs instead: N rows and a tenth of them")
    parser.add_argument("--run", type=Path, help="a run of your own (default: a tiny one of random weights)")
    parser.add_argument("--texts", type=Path, help="JSON lines of your own, with the columns that its task names")
    parser.add_argument("--answer", choices=("json", "slots"), default="json", help="of the tiny run (json)")
    parser.add_argument("--backend", choices=("auto", "mlx", "torch"), default="auto", help="that answers (auto)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what is printed")
    given = parser.parse_args()
    if (given.run is None) != (given.texts is None):
        parser.error("--run and --texts go together")
    if not given.rows and given.minutes * 60 < FEWEST * given.every:
        parser.error(f"at least {FEWEST} lines are needed: more --minutes, or a shorter --every")
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        run = given.run or tiny_run(folder, answer=given.answer)
        if given.rows:
            found = compare(run, folder, given.rows, given.texts, backend=given.backend)
        else:
            found = soak(run, folder, given.minutes, given.every, given.texts, backend=given.backend)
    print("\n".join(f"GROWTH: {why}" for why in found["growth"]) or "no growth")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if found["growth"] else 0


if __name__ == "__main__":
    sys.exit(main())
