"""infer: a file of texts becomes a file of answers, by one student or by several in one reading."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.data.fingerprint import Fingerprint, fingerprint
from mlx_distill.data.read import by_name, files, read, suffix
from mlx_distill.data.sources import STANDARD_INPUT
from mlx_distill.errors import DataError, Interrupted
from mlx_distill.files import exclusive
from mlx_distill.inference import identity, job, parquet
from mlx_distill.inference.output import STOOD, Places, as_it_stood, refuse
from mlx_distill.inference.row import Counts
from mlx_distill.inference.tally import Tally
from mlx_distill.observe.progress import amount
from mlx_distill.recipe.layers import neighbour
from mlx_distill.recipe.schema import Recipe, SourceSpec
from mlx_distill.records import BadRow, Example
from mlx_distill.task.prompt import columns
from mlx_distill.workflows.setting import Document, Setting, peak_memory
from mlx_distill.workflows.staff import Staff, staffed, workers_of
from mlx_distill.workflows.students import Asking, Chosen, cascade, choose_students, require_deferral

DEFAULT_FORMAT = "jsonl"
"""Of standard input."""


@dataclass(frozen=True, slots=True)
class Input:
    path: Path
    spec: SourceSpec
    files: Sequence[Fingerprint] | None
    """None of standard input and pipes."""

    @property
    def folder(self) -> Path | None:
        return self.path if self.files is not None and self.path.is_dir() else None

    @property
    def rows(self) -> int | None:
        counts = [file.rows for file in self.files or ()]
        known = [count for count in counts if count is not None]
        return sum(known) if counts and len(known) == len(counts) else None


@dataclass(frozen=True, slots=True)
class Came:
    """What students had to do, and the bytes that they took at most: all that is left of them when they are closed."""

    counts: Counts
    peak: int

    @classmethod
    def of(cls, staff: Staff) -> Came:
        return cls(sum((it.counts for it in staff.engines.values()), Counts()), staff.peak())

    def __add__(self, other: Came) -> Came:
        return Came(self.counts + other.counts, max(self.peak, other.peak))


def infer(
    setting: Setting,
    students: Path | Sequence[Path],
    source: Path,
    output: Path,
    *,
    resume: bool,
    delimiter: str | None = None,
    format: str | None = None,
    asking: Asking | None = None,
    distributions: bool = False,
    max_rejects: int | None = None,
    workers: int | None = 1,
    deferred: Path | None = None,
    then: Path | None = None,
) -> Document:
    """Answers every text of a file. Rejects alone are no failure; more than `max_rejects` are. Raises DataError, OutputError, ...

    `workers`: processes that answer; None: one for each GPU (see `staff`). Who of them answers a row changes no result.
    `then`: a student that answers what the first defers. `deferred`: rows that are deferred in the end, with their columns, for the judge.
    """
    started = time.monotonic()
    asking = asking or Asking()
    refuse(source, output, resume=resume, apart=deferred)
    chosen = choose_students(setting, [students] if isinstance(students, Path) else students)
    last = cascade(setting, chosen, then) if then is not None else None
    _require(chosen, last, asking, deferred=deferred, then=then, max_rejects=max_rejects)
    number = workers_of(setting, workers)
    names = [it.name for it in (*chosen, *(last or ()))]
    spec = source_of(source, chosen[0].recipe, delimiter, format=format)
    places = Places(output, deferred)
    typed = _typed([*chosen, *(last or ())], asking, distributions=distributions, by=last is not None) if places.is_parquet else None
    with exclusive(output):
        places.settle()
        before = identity.read(places)
        given = _input(setting, source, spec, before)
        options = dataclasses.asdict(asking) | {"distributions": distributions, "kind": spec.kind, "delimiter": spec.delimiter}
        options |= {"deferred": deferred.name} if deferred is not None else {}
        known = {it.name: it.identity() for it in chosen} | {f"--then {it.name}": it.identity() for it in last or ()}
        now = identity.document(known, options, given.files, folder=given.folder is not None)
        begun = identity.begin(places, now, before, given.files, resume=resume)
        for remark in begun.remarks:
            setting.progress.say(f"note: {remark}")
        if begun.finished is not None:
            places.waiting.unlink(missing_ok=True)  # a kill may have come in between
            rows, results, rejected = (begun.finished[name] for name in ("rows", "results", "rejected"))
            before_it = job.Done(rows, skipped=results, rejected_before=rejected, deferred=begun.finished.get("deferred", 0))
            return _document(before_it, names, places, started, _warnings(setting, before_it, places))
        wanted = job.Wanted(distributions, max_rejects, given.folder, number)
        if last is not None:
            came, done, warnings = _cascade(setting, chosen, last, asking, given, places, wanted)
        else:
            came, done, warnings = _stage(setting, chosen, asking, given, places, wanted)
        _finish(setting, places, typed, now, done)
    return _document(done, names, places, started, warnings, came, number)


def _require(
    chosen: Sequence[Chosen],
    last: Sequence[Chosen] | None,
    asking: Asking,
    *,
    deferred: Path | None,
    then: Path | None,
    max_rejects: int | None,
) -> None:
    """Raises DataError, RecipeError where they cannot answer as asked."""
    asking.require([*chosen, *(last or ())])
    if then is not None:
        require_deferral(chosen, asking, f"--then {then}")
    if deferred is not None:
        require_deferral(last or chosen, asking, f"--deferred {deferred}")
    if max_rejects is not None and max_rejects < 0:
        raise DataError(f"--max-rejects {max_rejects}: 0 stops at the first", hint="--max-rejects 100, or leave it out for any number")


def _finish(setting: Setting, places: Places, typed: Any, now: Document, done: job.Done) -> None:
    """Results become what they are to be, and the job's document says that they are whole."""
    if typed is not None:
        _merge(setting, places, typed)
    results = done.done + done.rejected + done.skipped
    counts = {"rows": done.rows, "results": results, "rejected": done.rejected + done.rejected_before, "deferred": done.deferred}
    identity.finish(places, now, counts)
    if typed is not None:
        places.lines.unlink(missing_ok=True)
    places.waiting.unlink(missing_ok=True)


def _typed(chosen: Sequence[Chosen], asking: Asking, *, distributions: bool, by: bool) -> Any:
    known = [it.confidence for it in chosen if it.confidence is not None]
    sets, defer = any(it.sets for it in known), any(it.threshold is not None for it in known)
    return parquet.schema([it.fields(asking) for it in chosen], distributions=distributions, sets=sets, defer=defer, by=by)


def _cascade(
    setting: Setting, first: Sequence[Chosen], last: Sequence[Chosen], asking: Asking, given: Input, places: Places, wanted: job.Wanted
) -> tuple[Came, job.Done, list[str]]:
    """The first student answers what it is sure of; what it defers waits on the disk until the last has the memory to itself.

    A job that was broken off goes on in the stage that it was in: what waits, and what is answered, is all on the disk.
    """
    small, large = first[0].name, last[0].name
    stage = dataclasses.replace(wanted, instead=True, by=small)
    came, done, warnings = _stage(setting, first, asking, given, Places(places.output), stage)
    if not done.deferred:
        return came, done, warnings
    setting.progress.say(f"{small} is not sure enough of {amount(done.deferred, 'rows')}: {large} answers them")
    waiting = Input(places.waiting, by_name(places.waiting, format="jsonl", delimiter=None), None)
    then, more, found = _stage(setting, last, asking, waiting, places, dataclasses.replace(wanted, by=large))
    answered, rejected = done.done + more.done, done.rejected + more.rejected
    both = dataclasses.replace(
        done,
        done=answered,
        rejected=rejected,
        rejected_rows=done.rejected_rows + more.rejected_rows,
        rejected_before=done.rejected_before + more.rejected_before,
        skipped=done.rows - answered - rejected,
        deferred=more.deferred,
        rows_per_hour=_together(answered, (done.done + done.deferred, done.rows_per_hour), (more.done, more.rows_per_hour)),
    )
    return came + then, both, [*warnings, *found]


def _together(answered: int, *stages: tuple[int, int | None]) -> int | None:
    """Rows an hour of a cascade, from what each stage answered, and how fast.

    >>> _together(100, (100, 1000), (50, 250))  # 6 minutes and 12
    333
    """
    hours = sum(rows / rate for rows, rate in stages if rows and rate)
    return round(answered / hours) if answered and hours else None


def _stage(
    setting: Setting, chosen: Sequence[Chosen], asking: Asking, given: Input, places: Places, wanted: job.Wanted
) -> tuple[Came, job.Done, list[str]]:
    """Students opened, every row answered, and closed again: whoever comes next has the memory."""
    with staffed(setting, chosen, asking, whole=wanted.distributions, workers=wanted.workers) as staff:
        done, warnings = _answer(setting, staff, chosen, asking, given, places, wanted)
        return Came.of(staff), done, warnings


def source_of(path: Path, recipe: Recipe, delimiter: str | None, *, format: str | None = None) -> SourceSpec:
    """A file of texts by its name; a CSV without a delimiter of its own has that of the recipe's data. Raises DataError."""
    if path == STANDARD_INPUT:
        return by_name(path, format=format or DEFAULT_FORMAT, delimiter=delimiter)
    if not path.exists():
        raise DataError("there is no such file", file=path, hint=neighbour(path))
    known = recipe.data.source
    spec = by_name(path, format=format, delimiter=delimiter)
    if spec.kind != "csv" and delimiter is not None:
        raise DataError(f"a {spec.kind} file has no delimiter", file=path, hint="leave --delimiter out")
    fits = spec.kind == known.kind == "csv" and suffix(path) == suffix(Path(known.path))
    return dataclasses.replace(spec, delimiter=known.delimiter) if fits and delimiter is None else spec


def _input(setting: Setting, source: Path, spec: SourceSpec, before: Document | None) -> Input:
    """The input, read once through for what identifies it: a fraction of the time that answering it takes."""
    with setting.progress.step("hash the input") if _is_large(source) else nullcontext():
        names = [file.name for file in files(spec, source)]
        return Input(source, spec, fingerprint(spec, source, identity.sizes(before, names)))


def _is_large(source: Path) -> bool:
    return source.is_file() and source.stat().st_size > 1 << 30


def _answer(
    setting: Setting, staff: Staff, students: Sequence[Chosen], asking: Asking, given: Input, places: Places, wanted: job.Wanted
) -> tuple[job.Done, list[str]]:
    """What was done, and warnings. Raises Interrupted where a signal ends it."""
    progress, terminal = setting.progress, setting.progress.is_terminal
    tally = Tally({it.name: list(it.recipe.task.tiers) for it in students}, given.rows, apart=terminal, memory=staff.memory)
    rows = itertools.tee(read(given.spec, given.path), len(students))  # a turn's rows are held, no more
    asked = [
        job.Asked(it.name, staff.engines[it.name], it.fields(asking), _as_it_stood(it.reader().examples(own)))
        for it, own in zip(students, rows, strict=True)
    ]
    with progress.showing(_Board(tally)), progress.step("infer", given.rows, unit="rows") as bar:
        try:
            done = job.run(asked, places, tally, bar, wanted)
        except KeyboardInterrupt as error:
            raise _interrupted(tally.answers, len(students), places) from error
        finally:
            _tell(setting, tally, places)
    return done, _warnings(setting, done, places, tally, students)


def _as_it_stood(rows: Iterable[Example | BadRow]) -> Iterator[Example | BadRow]:
    """Rows that waited for the second student of a cascade know where they stood in the input."""
    return (as_it_stood(row) if isinstance(row, Example) and STOOD in row.record else row for row in rows)


def _interrupted(answers: int, students: int, places: Places) -> Interrupted:
    what = amount(answers, "rows" if students == 1 else "answers")
    answered = "answered" if students == 1 else "written"
    kept = f"{what} {'is' if answers == 1 else 'are'} {answered}, in {places.lines}" if answers else "nothing was answered yet"
    return Interrupted(f"broken off; {kept}", hint="the same command with --resume goes on")


class _Board:
    """What stands above the bar on a terminal: the tiers' shares so far."""

    def __init__(self, tally: Tally):
        self._tally = tally

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text("\n".join(f"  tiers  {line}" for line in self._tally.tiers()))


def _tell(setting: Setting, tally: Tally, places: Places) -> None:
    """What was drawn and is gone, and why rows were rejected."""
    if setting.progress.is_terminal and (tiers := tally.tiers()):
        setting.progress.say("\n".join(f"tiers: {line}" for line in tiers))
    if tally.reasons.total:
        lines = [f"{tally.reasons.total:,} rejected: {places.rejects}", *(f"  {line}" for line in tally.reasons.lines())]
        setting.progress.say("\n".join(lines))


def _warnings(setting: Setting, done: job.Done, places: Places, tally: Tally | None = None, students: Sequence[Chosen] = ()) -> list[str]:
    """Nothing at all was answered: that is hardly what anybody wanted, though no single row is more than a reject.

    Without `tally` the work was done before, and why is not known any more.
    """
    if done.done or done.answered_before or done.deferred:
        return []
    mend = "mend the input and run the same command again"
    if not done.rejected and not done.rejected_before:
        found = "not one row was answered: there is none in the input"
    elif tally is None or not tally.reasons.total:
        found = f"not one row was answered. All {done.rows:,} had been rejected before, see {places.rejects}; {mend}"
    else:
        asked = " and ".join(
            f"{{{name}}}" for name in dict.fromkeys(it for student in students for it in columns(student.recipe.task.input))
        )
        why = "for the same reason" if len(tally.reasons.found) == 1 else "most often"
        all_of = f"All {tally.reasons.total:,} were" if tally.reasons.total > 1 else "The only one was"
        found = f"not one row was answered. {all_of} rejected, {why}: {tally.reasons.lines()[0]}; the task reads {asked}; {mend}"
    setting.progress.warn(f"WARNING: {found}")
    return [found]


def _merge(setting: Setting, places: Places, typed: Any) -> None:
    """The lines become Parquet. Lines that are in it already (a kill came in between) are no news."""
    if places.lines.exists() or not places.output.exists():
        with setting.progress.step(f"write {places.output.name}"):
            parquet.merge(places.output, places.lines, typed)


def _document(
    done: job.Done, names: Sequence[str], places: Places, started: float, warnings: list[str], came: Came | None = None, workers: int = 1
) -> Document:
    """`came`: None where there was nothing to do."""
    came = came or Came(Counts(), peak_memory(None))
    return {
        **dataclasses.asdict(done),
        "students": names,
        "output": str(places.output),
        "seconds": time.monotonic() - started,
        "tokens": dataclasses.asdict(came.counts),
        "peak_memory_bytes": came.peak,
        "warnings": warnings,
        **({"workers": workers} if workers > 1 else {}),
    }
