"""Can a job be killed? The real command, killed at random moments of its life, gone on with each time, and compared with one in peace.

    .venv/bin/python scripts/torture_inference.py                           50 times SIGKILL, half of them while it writes Parquet
    .venv/bin/python scripts/torture_inference.py --output jsonl --kills 10
    .venv/bin/python scripts/torture_inference.py --signal TERM             the same with SIGTERM: its exit code is 130
    .venv/bin/python scripts/torture_inference.py --workers 2               two processes answer; they are killed too, and the job goes on

After each death the files must be what tests/answers.py says: every line but a torn last one is JSON and a legal answer, none stands there
twice, a Parquet file is whole or not there. In the end no row is lost, none doubled, each reject is there once; answers are those of the
job in peace, and confidences too, to 0.001. A job that ends before all deaths were died is compared, and another one is begun. A fifth of
the deaths fall into the start, a fifth into the last tenth of a job, where what was written is brought together. Of several workers, none
may outlive its job; about every other life loses one or two, each killed at a moment that is drawn. Exit code 1 on any fault.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))
from tests.answers import answered, differences, faults, lines, rejects_of, results, unmerged
from tests.jobs import COMMAND, environment, row, task_of, tiny_run
from tests.processes import children, runs

IN_THE_START, IN_THE_END = 0.2, 0.2
"""Shares of the deaths."""
LAST = 0.9
"""Where the end begins: so much has been answered."""
LONGEST = 300.0
"""Seconds, of any one life."""
LINGERING = 10.0
"""Seconds that a worker may outlive its job: a machine that is busy takes a while to tell it."""
KILLED_TOO = (0, 0, 1, 2)
"""Workers that are killed in a life; one is drawn."""


@dataclass(frozen=True)
class Death:
    number: int
    output: str
    phase: str
    """start, middle or end"""
    moment: float
    """Seconds after the command was begun."""
    answered: int | None
    """Rows that are answered afterwards; None where the files are not what they must be."""
    code: int
    faults: list[str]


class Place:
    """A run and texts to answer, bad ones among them; `peace` is the output of the job that nobody disturbed."""

    def __init__(self, folder: Path, suffix: str, rows: int, workers: int):
        self.folder, self.suffix, self.run, self.workers = folder, suffix, folder / "run", workers
        self.input, self.peace = folder / "texts.jsonl", folder / "peace" / f"answers{suffix}"
        self.start = self.life = 0.0
        """Seconds until the first answers, and in all."""
        self.written = 0
        if not self.run.exists():
            self.input.write_bytes(b"".join(map(row, range(rows))))
            tiny_run(folder)
        self.task = task_of(self.run)

    def begin(self, output: Path) -> subprocess.Popen[bytes]:
        output.parent.mkdir(parents=True, exist_ok=True)
        with (self.folder / "stderr").open("wb") as said:
            command: list[str | Path] = [COMMAND, "infer", self.run, self.input, output, "--resume", "--workers", str(self.workers)]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment(self.folder))

    def said(self) -> str:
        return (self.folder / "stderr").read_text("utf-8", "replace")

    def measure(self) -> None:
        """A job in peace, the second of two: when its first answers stand in the file, how long it lives, how much it writes."""
        for _ in range(2):
            shutil.rmtree(self.peace.parent, ignore_errors=True)
            began, child = time.monotonic(), self.begin(self.peace)
            self.wait_for(child, self.peace, 1)
            self.start = time.monotonic() - began
            while child.poll() is None:
                self.written = max(self.written, written(self.peace))
                time.sleep(0.002)
            self.life = time.monotonic() - began
            if child.returncode or (found := faults(self.peace, self.task)):
                raise SystemExit(f"the job in peace failed: {self.said() if child.returncode else found[:5]}")

    def wait_for(self, child: subprocess.Popen[bytes], output: Path, size: int) -> None:
        """Until there are so many bytes of answers, or nobody is left to write them."""
        while child.poll() is None and written(output) < size:
            time.sleep(0.002)


def written(output: Path) -> int:
    """Bytes of answers that are lines."""
    lines = unmerged(output) if output.suffix == ".parquet" else output
    try:
        return lines.stat().st_size
    except FileNotFoundError:
        return 0


class Torture:
    def __init__(self, place: Place, deaths: int, number: signal.Signals, seed: int, before: int):
        self.place, self.deaths, self.signal, self.before = place, deaths, number, before
        self.random = random.Random(f"{seed} {place.suffix}")
        self.died: list[Death] = []
        self.killed_workers = 0
        self.ended: list[list[str]] = []
        """Of each job that came to its end: what differs."""
        self.late, self.end = self._late(), 2 * (1 - LAST) * (place.life - place.start)

    def torture(self) -> None:
        while len(self.died) < self.deaths:
            output = self._new()
            if self._end_is_due():
                shutil.copytree(self.late, output.parent)
                # Nobody knows how long an end takes: one that was survived was shorter than the time to die in it.
                self.end *= 0.7 if self._live(output, "end") else 1
            else:
                alive = True
                while alive and len(self.died) < self.deaths and not self._end_is_due():
                    alive = not self._live(output, self._phase())
            self._end(output)

    def _end_is_due(self) -> bool:
        return sum(death.phase == "end" for death in self.died) + 1 <= IN_THE_END * len(self.died)

    def _phase(self) -> str:
        # Deaths in the end are died by jobs of their own: these here are the others, of which the start has its share.
        return "start" if self.random.random() < IN_THE_START / (1 - IN_THE_END) else "middle"

    def _new(self) -> Path:
        return self.place.folder / f"job{self.place.suffix}{len(self.ended)}" / f"answers{self.place.suffix}"

    def _late(self) -> Path:
        """A folder in which a job died when it had almost ended; each death in the end begins with a copy of it."""
        output = self.place.folder / f"late{self.place.suffix}" / f"answers{self.place.suffix}"
        for share in (LAST, 0.7, 0.5, 0.3):
            shutil.rmtree(output.parent, ignore_errors=True)
            child = self.place.begin(output)
            self.place.wait_for(child, output, int(share * self.place.written))
            child.kill()
            if child.wait(LONGEST):
                return output.parent
        raise SystemExit("a job ends before it can be killed: more --rows")

    def _live(self, output: Path, phase: str) -> bool:
        """One life, to a moment that is drawn. True where it came to its end before that."""
        before, began = written(output), time.monotonic()
        child = self.place.begin(output)
        if phase != "start":
            self.place.wait_for(child, output, before + 1)
        self._live_on(child, self.random.uniform(0, self._longest(phase)))
        workers = children(child.pid)
        if child.poll() is None:
            child.send_signal(self.signal)
        moment, code = time.monotonic() - began, child.wait(LONGEST)
        left = list(_left(workers))
        if code == 0 and not left:
            return True
        found = faults(output, self.place.task) + list(self._unexpected(code)) + left
        rows = None if found else answered(output)
        self.died.append(Death(self.before + len(self.died) + 1, self.place.suffix[1:], phase, round(moment, 3), rows, code, found))
        print(line(self.died[-1]), flush=True)
        return False

    def _live_on(self, child: subprocess.Popen[bytes], seconds: float) -> None:
        """For so long, or to its end; workers are killed meanwhile."""
        until = time.monotonic() + seconds
        number = self.random.choice(KILLED_TOO) if self.place.workers > 1 else 0
        for moment in [*sorted(until - self.random.uniform(0, seconds) for _ in range(number)), None]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, (until if moment is None else moment) - time.monotonic()))
            workers = sorted(children(child.pid)) if moment is not None else []
            if workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.random.choice(workers), signal.SIGKILL)
                    self.killed_workers += 1

    def _longest(self, phase: str) -> float:
        """Seconds; but in the start, after the first answers. In the middle so many that a job has died its share when an end is due."""
        middle = 2 * IN_THE_END * (self.place.life - self.place.start)
        return {"start": self.place.start, "middle": middle, "end": self.end}[phase]

    def _unexpected(self, code: int) -> Iterator[str]:
        """SIGKILL asks nobody. Another signal is exit code 130, but while Python itself starts, which has answers of its own."""
        said = self.place.said()
        if self.signal == signal.SIGKILL:
            known = code == -signal.SIGKILL
        else:
            known = "Traceback" not in said if code == 130 else code in (-self.signal, 1) and "infer" not in said
        if not known:
            yield f"its exit code is {code}: {said[-300:]}"

    def _end(self, output: Path) -> None:
        """Go on to the end, and once more: finished work is not done again."""
        found = list(self._unlike_in_peace(output))
        ended = output.read_bytes() if output.exists() else b""
        found += self._unlike_in_peace(output)
        found += ["finished work was done again"] if output.exists() and output.read_bytes() != ended else []
        self.ended.append(list(dict.fromkeys(found)))
        shown = "; ".join(self.ended[-1][:3]) + (f" and {len(self.ended[-1]) - 3} more" if len(self.ended[-1]) > 3 else "")
        print(f"      {self.place.suffix[1:]} job {len(self.ended)} came to its end: {shown or 'the same as in peace'}", flush=True)

    def _unlike_in_peace(self, output: Path) -> Iterator[str]:
        child = self.place.begin(output)
        self._live_on(child, self.place.life)
        if code := child.wait(LONGEST):
            yield f"its exit code is {code}: {self.place.said()[-300:]}"
            return
        yield from faults(output, self.place.task) or differences(output, self.place.peace)
        there = {path.name for path in output.parent.iterdir()} - {path.name for path in self.place.peace.parent.iterdir()}
        yield from (f"{name} is left" for name in sorted(there))


def _left(workers: set[int]) -> Iterator[str]:
    """Those that are still there."""
    until = time.monotonic() + LINGERING
    while any(map(runs, workers)) and time.monotonic() < until:
        time.sleep(0.01)
    yield from (f"worker {pid} has outlived its job" for pid in workers if runs(pid))


def line(death: Death) -> str:
    verdict = "; ".join(death.faults[:3]) or "whole"
    rows = "?" if death.answered is None else f"{death.answered} rows"
    return f"{death.number:4}  {death.output:8} {death.phase:8} {death.moment:8.2f} s  {rows:>10}  {verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many deaths (50)")
    parser.add_argument(
        "--output", choices=("jsonl", "parquet", "both"), default="both", help="what is written (both, half of the deaths each)"
    )
    parser.add_argument("--rows", type=int, default=3000, help="of the input (3000)")
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--workers", type=int, default=1, help="processes that answer, and are killed too where they are several (1)")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what the table shows")
    given = parser.parse_args()
    kinds = ["jsonl", "parquet"] if given.output == "both" else [given.output]
    died: list[Death] = []
    ended: list[list[str]] = []
    killed_workers = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        for left, kind in zip(range(len(kinds), 0, -1), kinds, strict=True):
            place = Place(Path(folder), f".{kind}", given.rows, given.workers)
            place.measure()
            there = f"{len(results(place.peace))} answers, {len(lines(rejects_of(place.peace)))} rejects"
            print(f"in peace ({kind}): {place.life:.1f} s, of which {place.start:.1f} s start; {there}", flush=True)
            torture = Torture(place, (given.kills - len(died)) // left, getattr(signal, f"SIG{given.signal}"), given.seed, len(died))
            torture.torture()
            died, ended = died + torture.died, ended + torture.ended
            killed_workers += torture.killed_workers
    bad = [death for death in died if death.faults] + [found for found in ended if found]
    phases = Counter(death.phase for death in died)
    print(f"{len(died)} deaths ({', '.join(f'{phases[phase]} in the {phase}' for phase in ('start', 'middle', 'end'))}), {len(ended)} jobs")
    print(f"came to their end; {len(bad)} of them bad" + (f"; {killed_workers} workers were killed beside" if given.workers > 1 else ""))
    if given.json:
        document = {"signal": given.signal, "seed": given.seed, "rows": given.rows, "deaths": [*map(asdict, died)], "ended": ended}
        document |= {"workers": given.workers, "killed_workers": killed_workers}
        given.json.write_text(json.dumps(document, indent=2) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
