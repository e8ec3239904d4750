"""A training by several processes: the first of them leads, the others do as it does and leave nothing behind.

A launcher starts the same command several times. The leader alone reads the recipe and the data, makes the base and begins the run; what
is wrong is said once. Meanwhile the others wait. Then each of them gets a copy of the run's folder as the leader has it, and trains in
that, in step with the leader: from the same checkpoint, on the same batches. They need no disk in common; data and base each finds where
the recipe says, and a copy whose lock speaks of other data is refused as any resumed run is. The copy vanishes with its process.

What could differ between machines is decided by the leader (the student's answers to validation rows, `train.keep`) or by all (Ctrl-C). How
rows are shared and sums added up is the backend's business.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mlx_distill.backends.base import Ranks
from mlx_distill.errors import DistillError, Interrupted
from mlx_distill.files import atomic_file
from mlx_distill.training.validation import Exam

PIECE = 1 << 24
"""Bytes of a file that are sent at once."""


class Together:
    """The processes of one training, as this one sees them; `ranks` None: it is alone, and nothing here does anything."""

    def __init__(self, ranks: Ranks | None) -> None:
        self.ranks = ranks
        self._awaited = ranks is not None and self.leads

    @property
    def leads(self) -> bool:
        return self.ranks is None or self.ranks.rank == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Whoever still waits for the leader is let go, with its exit code."""
        if self.ranks is not None and self._awaited:
            self.ranks.told(json.dumps({"code": _code(error)}).encode())

    def begun(self, run: Path) -> None:
        """The leader's run is whole enough to go on with: give it to those who wait."""
        if self.ranks is None or not self._awaited:
            return
        self._awaited = False
        files = {path.relative_to(run).as_posix(): path for path in sorted(run.rglob("*")) if path.is_file() and path.name[0] != "."}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        self.ranks.told(json.dumps({"files": sizes}).encode())
        for name, path in files.items():
            with path.open("rb") as file:
                for size in _pieces(sizes[name]):
                    self.ranks.told(file.read(size))

    @contextmanager
    def copy(self) -> Iterator[Path]:
        """Wait for the leader's run, and have a copy of it for a while. Ends the process where the leader ends before it has one."""
        assert self.ranks is not None and not self.leads
        with tempfile.TemporaryDirectory(prefix="mlx-distill-") as folder:
            run = Path(folder) / "run"
            said = json.loads(self.ranks.told(None))
            if "code" in said:
                raise SystemExit(said["code"])  # why, the leader has said
            for name, bytes_ in said["files"].items():
                with atomic_file(run / name) as file:
                    for _ in _pieces(bytes_):
                        file.write(self.ranks.told(None))
            yield run

    def agreed(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Whether anyone was asked to stop: else one would wait for ever for who has stopped."""
        ranks = self.ranks
        return stop if ranks is None else lambda: ranks.any(stop())

    def examined(self, exam: Exam | None) -> Exam | None:
        """By the leader alone."""
        return exam if self.ranks is None or exam is None else _Told(exam, self.ranks)


class _Told:
    """An exam of which the leader tells the outcome."""

    def __init__(self, exam: Exam, ranks: Ranks) -> None:
        self.lower_is_better = exam.lower_is_better
        self._exam, self._ranks = exam, ranks

    def metrics(self) -> Mapping[str, float]:
        found: dict[str, float] = self._told(lambda: dict(self._exam.metrics()))
        return found

    def samples(self) -> Sequence[Mapping[str, Any]]:
        found: list[dict[str, Any]] = self._told(lambda: list(self._exam.samples()))
        return found

    def _told(self, find: Callable[[], Any]) -> Any:
        return json.loads(self._ranks.told(json.dumps(find()).encode() if self._ranks.rank == 0 else None))


def _pieces(size: int) -> Iterator[int]:
    return (min(PIECE, size - at) for at in range(0, size, PIECE))


def _code(error: BaseException | None) -> int:
    """What the process will end with."""
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.exit_code
    return error.exit_code if isinstance(error, DistillError) else 0 if error is None else 1
