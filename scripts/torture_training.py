"""Can a training be killed? The real command, killed at random moments of its life, gone on with each time, and compared with one in peace.

    .venv/bin/python scripts/torture_training.py                          50 times SIGKILL
    .venv/bin/python scripts/torture_training.py --signal TERM            the same with SIGTERM: it saves, and its exit code is 130
    .venv/bin/python scripts/torture_training.py --disk-full --kills 12   a disk of its own (needs root) that is full, 12 times

After each death the run's folder must be whole (tests/runs.py says what that is), and in the end it must be, byte for byte, the folder of
the run in peace. A run that ends before all deaths were died is compared, and another one is begun. A fifth of the deaths fall into the
start, for which the converted base is taken away too; the others into training, most of whose time here is writing checkpoints. Exit code
1 where anything differs. tests/training/test_killed.py does the same for every single moment, in one process.
"""

from __future__ import annotations

import argparse
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
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))
from tests.checkpoints import make_checkpoint
from tests.runs import differences, faults, leftovers, newest
from tests.students import recipe, water, write_lines

COMMAND = Path(sys.executable).with_name("mlx-distill")
TRAIN = {"epochs": 12, "batch_size": 2, "accumulate": 2, "checkpoint_every": 1, "validate_every": 9}
IN_THE_START = 0.2
"""Share of the deaths."""
LONGEST = 300.0
"""Seconds, of any one life."""


@dataclass(frozen=True)
class Death:
    number: int
    moment: float
    """Seconds after the command was begun."""
    where: str
    """What it had said last."""
    writing: bool
    """Something lay there that was not whole yet."""
    step: int
    """Of the newest checkpoint."""
    code: int
    faults: list[str]


class Place:
    """A recipe with its rows, its checkpoint and its own cache; `peace` is the run that nobody disturbed."""

    def __init__(self, folder: Path):
        self.folder, self.cache, self.peace = folder, folder / "cache", folder / "peace" / "run"
        make_checkpoint(folder / "checkpoint", num_hidden_layers=1)
        write_lines(folder / "rows.jsonl", water(60))
        self.recipe = recipe(folder / "recipe.yaml", base={"model": "checkpoint"}, train=TRAIN)
        self.start, self.life = 0.0, 0.0

    def begin(self, run: Path) -> subprocess.Popen[bytes]:
        run.parent.mkdir(parents=True, exist_ok=True)
        command = [COMMAND, "train", self.recipe, "--out", run, "--resume"]
        environment = {**os.environ, "MLX_DISTILL_CACHE": str(self.cache), "HF_HUB_OFFLINE": "1"}
        with self.said(run).open("wb") as said:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)

    def said(self, run: Path) -> Path:
        return self.folder / f"{run.parent.name}.stderr"

    def measure(self) -> None:
        """Run in peace, twice: how long the start takes until the first step, and the whole."""
        for again in (False, True):
            shutil.rmtree(self.peace.parent, ignore_errors=True)
            began, clock = time.time(), time.monotonic()
            child = self.begin(self.peace)
            while not again and not events(self.peace) and child.poll() is None:
                time.sleep(0.005)
            self.start = self.start or time.time() - began
            if child.wait(LONGEST):
                raise SystemExit(f"the run in peace failed:\n{self.said(self.peace).read_text()}")
            self.life = time.monotonic() - clock

    def where(self, run: Path) -> str:
        """The last event, or before the first what was last said."""
        lines = self.said(run).read_text("utf-8", "replace").strip().splitlines()
        told = events(run)
        if told and any(line.startswith(("going on", "from step")) for line in lines):
            return f"after {told[-1]['name']} {told[-1].get('step', '')}".strip()
        return lines[-1][:40] if lines else "Python starts"


def events(run: Path) -> list[dict[str, Any]]:
    try:
        lines = (run / "events.jsonl").read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def reached(run: Path) -> int:
    found = newest(run)
    return int(found.name[5:]) if found else 0


class Torture:
    def __init__(self, place: Place, deaths: int, number: signal.Signals, seed: int):
        self.place, self.deaths, self.signal, self.random = place, deaths, number, random.Random(seed)
        self.died: list[Death] = []
        self.ended: list[list[str]] = []
        """Of each run that came to its end: what differs."""

    def torture(self) -> None:
        while len(self.died) < self.deaths:
            run = self.place.folder / f"run{len(self.ended)}" / "run"
            while len(self.died) < self.deaths and not self._live(run):
                pass
            self._end(run)

    def _live(self, run: Path) -> bool:
        """One life, to a moment that is drawn. True where it came to its end before that."""
        began, told = time.monotonic(), len(events(run))
        in_start = self.random.random() < IN_THE_START
        if in_start:
            shutil.rmtree(self.place.cache, ignore_errors=True)
        child = self.place.begin(run)
        if in_start:
            moment = self.random.uniform(0, self.place.start)
        else:  # from the first event on; so long that one run dies about as often as is asked for
            while child.poll() is None and len(events(run)) == told:
                time.sleep(0.002)
            moment = self.random.uniform(0, 2 * (self.place.life - self.place.start) / self.deaths)
        try:
            child.wait(moment)
        except subprocess.TimeoutExpired:
            child.send_signal(self.signal)
        moment = time.monotonic() - began
        code = child.wait(LONGEST)
        if code == 0:
            return True
        self.died.append(self._look(run, moment, code))
        print(line(self.died[-1]), flush=True)
        return False

    def _look(self, run: Path, moment: float, code: int) -> Death:
        hidden = [path for path in (*run.rglob(".*"), *self.place.cache.rglob(".*")) if not path.name.endswith(".lock")]
        said = self.place.said(run).read_text("utf-8", "replace")
        found = faults(run) + list(self._unexpected(run, code, said))
        if hidden and self.signal != signal.SIGKILL:
            found.append(f"it left {hidden[0].name}")
        return Death(len(self.died) + 1, round(moment, 3), self.place.where(run), bool(hidden), reached(run), code, found)

    def _unexpected(self, run: Path, code: int, said: str) -> Iterator[str]:
        """SIGKILL asks nobody. Another signal is exit code 130, but while Python itself starts, which has answers of its own."""
        if self.signal == signal.SIGKILL:
            known = code == -signal.SIGKILL
        elif "read the data" in said or "mlx_distill/" in said:
            known = code == 130 and "Traceback" not in said
        else:
            known = code in (130, -self.signal, 1)
        if not known:
            yield f"its exit code is {code}: {said[-300:]}"
        if "stopped after step" in said and f"stopped after step {reached(run)};" not in said:
            yield f"it says {said.splitlines()[-1]!r}, and its newest checkpoint is of step {reached(run)}"

    def _end(self, run: Path) -> None:
        code = self.place.begin(run).wait(LONGEST)
        found = [f"its exit code is {code}: {self.place.said(run).read_text()[-300:]}"] if code else []
        found += faults(run) + [f"{name} is left" for name in leftovers(run)]
        found += [f"{name} differs" for name in differences(run, self.place.peace)] if not found else []
        self.ended.append(found)
        print(f"run {len(self.ended)} came to its end: {'; '.join(found) or 'the same bytes as in peace'}", flush=True)


class FullDisk(Torture):
    """A death is a disk that is full: of a size that is drawn, on which the run does not fit."""

    def _live(self, run: Path) -> bool:
        room = sum(path.stat().st_size for path in self.place.peace.rglob("*") if path.is_file())
        with disk(run.parent, 8 * room) as ballast:
            free = self.random.randrange(4096, room * 3 // 2)
            ballast.write_bytes(bytes(max(0, shutil.disk_usage(run.parent).free - free)))
            code = self.place.begin(run).wait(LONGEST)
            if code == 0:
                ballast.unlink()
                self._end(run)
                return False
            said, found = self.place.said(run).read_text("utf-8", "replace"), faults(run)
            last = said.strip().splitlines()[-1]
            if code != 2 or "the disk is full" not in last or str(run) not in last or "Traceback" in said:
                found.append(f"its exit code is {code}: {said[-300:]}")
            found += [f"{name} is left" for name in leftovers(run)]
            self.died.append(Death(len(self.died) + 1, float(free), self.place.where(run), False, reached(run), code, found))
            print(line(self.died[-1], "bytes free"), flush=True)
            ballast.unlink()
            self._end(run)
        return False

    def torture(self) -> None:
        while len(self.died) < self.deaths:
            self._live(self.place.folder / "full" / "run")


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of so many bytes, and a file on it that may take room."""
    folder.mkdir(parents=True, exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False).returncode:
        raise SystemExit("a disk can be mounted by root alone; without root, tests/training/test_killed.py does the same in one process")
    try:
        yield folder / "ballast"
    finally:
        subprocess.run(["umount", folder], check=True)


def line(death: Death, unit: str = "s") -> str:
    verdict = "; ".join(death.faults) or "whole"
    moment = f"{death.moment:8.2f} s" if unit == "s" else f"{death.moment:8,.0f} {unit}"
    return f"{death.number:3}  {moment}  {death.where:42} {'writing' if death.writing else '':8} step {death.step:4}  {verdict}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how many deaths (50)")
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--disk-full", action="store_true", help="a full disk instead of a signal")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what the table shows")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        place = Place(Path(folder))
        place.measure()
        print(f"in peace: {place.life:.1f} s, of which {place.start:.1f} s until the first step; {reached(place.peace)} steps")
        kind = FullDisk if given.disk_full else Torture
        torture = kind(place, given.kills, getattr(signal, f"SIG{given.signal}"), given.seed)
        torture.torture()
    bad = [death for death in torture.died if death.faults] + [found for found in torture.ended if found]
    writing, kinds = sum(death.writing for death in torture.died), Counter(death.where.split()[0] for death in torture.died)
    print(f"{len(torture.died)} deaths ({writing} within a write), {len(torture.ended)} runs came to their end; {len(bad)} of them bad")
    print(", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    if given.json:
        document = {"signal": "full disk" if given.disk_full else given.signal, "seed": given.seed, "deaths": [*map(asdict, torture.died)]}
        given.json.write_text(json.dumps(document | {"ended": torture.ended}, indent=2) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
