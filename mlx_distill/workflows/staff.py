"""Who answers a job's rows: students opened in this very process, or in several workers, one a GPU.

A worker opens them by the same function as one process alone; this process then opens none, and imports no tensor library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

from mlx_distill.backends import present
from mlx_distill.backends.choose import decide
from mlx_distill.errors import DataError
from mlx_distill.inference.crew import Crew
from mlx_distill.inference.job import Answering
from mlx_distill.inference.posts import VISIBLE, named, posts, sharing
from mlx_distill.inference.worker import Opened
from mlx_distill.memory import resident_bytes
from mlx_distill.observe.progress import Progress
from mlx_distill.workflows.bases import base_of_run
from mlx_distill.workflows.setting import Setting, peak_memory
from mlx_distill.workflows.students import Asking, Chosen, choose_students, open_chosen

CROWD = 8
"""Workers to a core, or to a GPU, at most: more only take memory from each other."""


@dataclass(frozen=True, slots=True)
class Staff:
    """`engines`: by student. `peak`: bytes that the job has taken at most; `memory`: that it has now."""

    engines: Mapping[str, Answering]
    peak: Callable[[], int]
    memory: Callable[[], int | None]


@dataclass(frozen=True, slots=True)
class Opens:
    """Opens the students in a worker: `worker.Opening`."""

    runs: Sequence[Path]
    cache: Path
    backend: str
    asking: Asking
    whole: bool
    sharing: int

    def __call__(self) -> Opened:
        said = StringIO()
        setting = Setting(Progress(stream=said), self.cache, self.backend)
        students = open_chosen(setting, choose_students(setting, self.runs), self.asking, whole=self.whole, sharing=self.sharing)
        engines, opened = {it.name: it.engine for it in students}, students[0].opened
        return Opened(engines, partial(peak_memory, opened), opened.notes, said.getvalue().strip())


@contextmanager
def staffed(setting: Setting, chosen: Sequence[Chosen], asking: Asking, *, whole: bool, workers: int) -> Iterator[Staff]:
    """The students opened, wherever that is. `workers`: processes; 1 is this one alone. Workers have the environment of `setting`.

    Raises what opening them raises, BackendError where no worker begins.
    """
    if workers == 1:
        opened = open_chosen(setting, chosen, asking, whole=whole)
        yield Staff({it.name: it.engine for it in opened}, partial(peak_memory, opened[0].opened), resident_bytes)
        for note in opened[0].opened.notes():
            setting.progress.say(f"note: {note}")
        return
    base_of_run(setting, chosen[0].run, chosen[0].recipe, chosen[0].facts, None)  # if it must be made, then once
    devices = _devices(setting)
    opens = Opens([it.run.path for it in chosen], setting.cache, setting.backend, asking, whole, sharing(workers, devices))
    places = posts(workers, setting.environment, devices=devices, cores=_cores())
    with Crew(opens, places, say=setting.progress.say) as crew:
        yield Staff({it.name: crew.desk(it.name) for it in chosen}, crew.peak_memory, crew.memory)


def workers_of(setting: Setting, asked: int | None) -> int:
    """`asked` None: one for each CUDA device that the backend will compute on; one where there is none.

    Raises DataError for none, and for more than the machine could carry; BackendError.
    """
    if asked is not None and asked < 1:
        raise DataError(f"--workers {asked}: at least one process answers", hint="--workers 2, or leave it out for one a GPU")
    devices = _devices(setting)
    if asked is not None and asked > (most := CROWD * max(_cores(), len(devices))):
        raise DataError(f"--workers {asked}: each is a process with a model of its own; here are at most {most}", hint=f"--workers {most}")
    return asked or max(1, len(devices))


def _devices(setting: Setting) -> list[str]:
    """CUDA devices, by the names that a worker's environment has for them."""
    if decide(setting.backend).name != "torch" or present.cuda_of_torch() is None:
        return []
    return named(setting.environment.get(VISIBLE), present.cuda_devices())


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
