"""One function per verb: each composes the parts of the package, and returns the document that the command prints.

A workflow reads what the stage before wrote and writes its own. It parses no flags and prints nothing but through `progress`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_distill.backends.base import Backend, LoraShape, Student
from mlx_distill.errors import CheckpointError, DataError, DistillError, Interrupted, OutputError
from mlx_distill.observe.progress import Progress
from mlx_distill.recipe.check import check as check_recipe
from mlx_distill.recipe.check import require
from mlx_distill.recipe.load import Loaded, load
from mlx_distill.recipe.problem import Problem
from mlx_distill.recipe.schema import Recipe, SourceSpec
from mlx_distill.training.run import Run

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What every workflow is given by the command line: where to say things, where bases are kept, which backend."""

    progress: Progress
    cache: Path
    backend: str = "auto"
    environment: Mapping[str, str] = field(default_factory=dict)

    def load(self, path: Path, sets: Sequence[str]) -> Loaded:
        return load(path, sets, environment=self.environment)

    def choose(self) -> Backend:
        from mlx_distill.backends.choose import choose

        backend = choose(self.backend)
        if note := backend.machine().note:
            self.progress.say(f"note: {note}")
        return backend


# check


def check(setting: Setting, recipes: Sequence[Path], sets: Sequence[str], *, show: int = 0) -> Document:
    """Every problem at once: shape, sense, and whether data and base are there and fit the task."""
    problems: list[Problem] = []
    shown: list[Document] = []
    for path in recipes:
        loaded = setting.load(path, sets)
        found = check_recipe(loaded)
        if not found and loaded.recipe is not None:
            rows, found = _fit(loaded, loaded.recipe, show)
            shown += rows
        problems += found
    document: Document = {"problems": [dataclasses.asdict(problem) for problem in problems]}
    return document | ({"rows": shown} if show else {})


def _fit(loaded: Loaded, recipe: Recipe, show: int) -> tuple[list[Document], list[Problem]]:
    from mlx_distill.catalog import nearest
    from mlx_distill.models.checkpoint import open_checkpoint
    from mlx_distill.models.hub import locate
    from mlx_distill.workflows.preparation import Prepared, example_rows

    problems: list[Problem] = []
    rows: list[Document] = []
    prepared: Prepared | None = None
    try:
        prepared = Prepared.of(recipe)
    except DistillError as error:
        problems.append(_as_problem(loaded, "data.source", error))
    try:
        source = locate(recipe.base.model, recipe.base.revision)
        known = list(open_checkpoint(source).family.PROJECTIONS)
        for name in (name for name in recipe.lora.targets if name not in known):
            problems.append(loaded.problem("lora.targets", f"this base has no projection {name!r}", nearest(name, known)))
        if prepared is not None:
            prepared.read(source)
            rows = example_rows(prepared, show)
    except DistillError as error:
        problems.append(_as_problem(loaded, "base.model", error))
    return rows, problems


def _as_problem(loaded: Loaded, path: str, error: DistillError) -> Problem:
    if error.file is not None and error.line is not None:
        return Problem(error.file, error.line, path, error.message, error.hint)
    where = f" ({error.file})" if error.file else ""
    return loaded.problem(path, error.message + where, error.hint)


# convert


def convert(
    setting: Setting, model: str, out: Path, *, bits: int | None, group_size: int, dtype: str | None, revision: str | None
) -> Document:
    from mlx_distill.convert import convert as write
    from mlx_distill.models.hub import commit_of, locate

    with setting.progress.step(f"convert {model}") as step:
        source = locate(model, revision)
        made = write(
            source, out, backend=setting.choose(), bits=bits, group_size=group_size, dtype=dtype, origin=model, revision=commit_of(source)
        )  # fmt: skip
        step.advance(0, bits_per_weight=made.bits_per_weight, MB=made.bytes / 1e6)
    setting.progress.say(f"next: base: {{model: {model}}} in a recipe, then mlx-distill run RECIPE --out RUN")
    return {**dataclasses.asdict(made), "out": str(made.out)}


# train


def train(setting: Setting, recipe: Path, out: Path, sets: Sequence[str], *, resume: bool, limit: int | None = None) -> Document:
    """Its `stopped` may be interrupted: then everything is saved, and `resume` goes on."""
    from mlx_distill.files import exclusive

    wanted = require(setting.load(recipe, sets))
    run = Run(out)
    run.refuse_foreign()
    if run.exists() and not resume:
        raise OutputError("there is a run already", file=out, hint="--resume goes on with it; or name another --out")
    with exclusive(out):
        return _train(setting, wanted, run, limit)


def _train(setting: Setting, recipe: Recipe, run: Run, limit: int | None) -> Document:
    from mlx_distill.observe.events import Events
    from mlx_distill.observe.interrupts import deferred
    from mlx_distill.training.loop import Training

    prepared, student = _learning(setting, recipe, run, limit)
    with Events(run.events) as events:
        lessons = prepared.lessons
        training = Training(student, lessons["train"].rows, lessons["valid"].rows, prepared.prompt.prefix, recipe.train, run.path, events)
        resumed = training.resume()
        begun = training.position.step
        if training.position.finished is None:
            estimate = _estimate(student, prepared, recipe) * (training.steps - begun)
            setting.progress.say(f"{'going on at' if resumed else 'from'} step {begun} of {training.steps}; about {_minutes(estimate)}")
            with deferred() as stop, setting.progress.step("train", total=training.steps, unit="steps") as bar:
                trained = training.run(bar, stop)
            events.emit("trained", **dataclasses.asdict(trained))
        else:
            trained = training.run(_SILENT, lambda: False)
            setting.progress.say(f"train: done already, {trained.steps} steps")
    return _trained_document(run, trained, student)


def _learning(setting: Setting, recipe: Recipe, run: Run, limit: int | None) -> tuple[Any, Student]:
    """Data, base and lock of a run, and its student prepared to learn."""
    from mlx_distill.workflows.preparation import Prepared

    with setting.progress.step("read the data") as step:
        prepared = Prepared.of(recipe, limit=limit)
        step.advance(0, rows=len(prepared.rows), bad=len(prepared.bad))
    backend = setting.choose()
    base, card = base_of(setting, recipe, backend)
    with setting.progress.step("tokenize") as step:
        prepared.read(base)
        step.advance(0, tokens=prepared.tokens)
    facts = prepared.facts() | {"base": card, "backend": backend.machine().backend, "versions": versions(), "seed": recipe.train.seed}
    if run.exists():
        run.require_same(recipe, facts)
    else:
        for line in prepared.plan(base, card):
            setting.progress.say(line)
    student = backend.open(base, memory_limit=_bytes(recipe.train.memory_limit))
    shape = LoraShape(recipe.lora.rank, recipe.lora.alpha, recipe.lora.dropout, recipe.lora.targets)
    train = recipe.train
    student.prepare(shape, optimizer=train.optimizer, weight_decay=train.weight_decay, initial=None, seed=train.seed)
    if run.exists():
        run.relock(recipe)
    else:
        run.begin(recipe, facts, prepared.split)
    return prepared, student


def base_of(setting: Setting, recipe: Recipe, backend: Backend) -> tuple[Path, Document]:
    """The recipe's base in the cache, converted where it is not there yet, and what identifies it."""
    import json

    from mlx_distill.convert import CARD, cached_base
    from mlx_distill.models.hub import commit_of, locate

    spec = recipe.base
    with setting.progress.step("base") as step:
        source = locate(spec.model, spec.revision)
        folder, made = cached_base(
            source, bits=spec.bits, group_size=spec.group_size, dtype=spec.dtype, backend=backend,
            origin=spec.model, revision=commit_of(source), cache=setting.cache / "bases",
        )  # fmt: skip
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        step.advance(0, converted="now" if made else "before", parameters=card["parameters"])
    kept = ("source", "revision", "source_hash", "family", "parameters", "bits", "group_size", "bits_per_weight")
    return folder, {"key": folder.name, **{name: card.get(name) for name in kept}}


def base_of_run(setting: Setting, run: Run, recipe: Recipe, facts: Mapping[str, Any], backend: Backend) -> Path:
    """The very base that a run was trained on, out of the cache; made again where the cache has lost it. Raises CheckpointError."""
    from mlx_distill.convert import CARD

    locked = facts.get("base", {}).get("key")
    folder = setting.cache / "bases" / str(locked)
    if (folder / CARD).is_file():
        return folder
    folder, card = base_of(setting, recipe, backend)
    if card["key"] != locked:
        hint = "the adapter fits that base alone: bring it back, or train anew"
        raise CheckpointError(f"{recipe.base.model} is no longer the checkpoint that the run was trained on", file=run.lock, hint=hint)
    return folder


def _estimate(student: Student, prepared: Any, recipe: Recipe) -> float:
    """Seconds a step: the forward pass of one micro-batch, timed, times 3 for the backward pass."""
    from mlx_distill.data.batches import groups

    size = recipe.train.batch_size
    rows = sorted(prepared.lessons["train"].rows, key=lambda lesson: len(lesson.row.tokens))
    middle = max(0, len(rows) // 2 - size // 2)
    sample = groups([rows[middle : middle + size]], prepared.prompt.prefix)
    student.loss(sample)
    started = time.monotonic()
    student.loss(sample)
    return (time.monotonic() - started) * 3 * recipe.train.accumulate


def _trained_document(run: Run, trained: Any, student: Student) -> Document:
    import math

    valid = trained.valid_loss
    return {
        "run": str(run.path),
        **{name: getattr(trained, name) for name in ("steps", "epochs", "train_loss", "valid_loss", "tokens", "seconds", "stopped")},
        "perplexity": None if valid is None else math.exp(valid),
        "tokens_per_second": trained.tokens / trained.seconds if trained.seconds else None,
        "peak_memory_bytes": peak_memory(student),
    }


# evaluate


def evaluate(setting: Setting, out: Path, *, data: Path | None = None, delimiter: str | None = None) -> Document:
    """Answers the run's valid and test rows (or those of `data`), judges them, writes the report. Its `verdict` may be missed."""
    from mlx_distill.files import exclusive

    run = Run(out)
    recipe, facts = run.open_learned()
    source = None if data is None else source_of(data, recipe, delimiter)
    with exclusive(out):
        return _evaluate(setting, run, recipe, facts, source)


def _evaluate(setting: Setting, run: Run, recipe: Recipe, facts: Mapping[str, Any], data: SourceSpec | None) -> Document:
    from mlx_distill.workflows.judgement import Judgement

    backend = setting.choose()
    base = base_of_run(setting, run, recipe, facts, backend)
    student = backend.open(base, adapters={"run": run.adapter}, memory_limit=_bytes(recipe.train.memory_limit))
    judgement = Judgement(run, recipe, facts, base, student, setting.progress, data)
    with setting.progress.step("answer", total=judgement.total, unit="rows") as bar:
        judgement.answer(bar)
    with setting.progress.step("report"):
        document = judgement.report()
    setting.progress.say("\n".join(judgement.words()))
    return document


# run


def run(setting: Setting, recipe: Path, out: Path, sets: Sequence[str], *, limit: int | None = None) -> Document:
    """The main job: train (going on where it was), evaluate, report. What is done already is not done again."""
    from mlx_distill.files import exclusive

    wanted = require(setting.load(recipe, sets))
    if not wanted.data.split.test:
        raise DataError("the main job needs rows to judge by: data.split.test is 0", file=recipe, hint="test: 0.1; or use `train` alone")
    place = Run(out)
    place.refuse_foreign()
    with exclusive(out):
        trained = _train(setting, wanted, place, limit)
        if trained["stopped"] == "interrupted":
            raise Interrupted(f"stopped after step {trained['steps']}; it is saved", hint="the same command goes on")
        _, facts = place.open()
        document = _reported(place, wanted)
        if document is not None:
            setting.progress.say(f"evaluate: done already\n{document['report']}")
        else:
            document = _evaluate(setting, place, wanted, facts, None)
    setting.progress.say(f"next: open {document['report']}\n      mlx-distill infer {out} TEXTS.csv ANSWERS.jsonl")
    return document


def _reported(run: Run, recipe: Recipe) -> Document | None:
    """The report of this very adapter under this very recipe, where there is one."""
    import json

    from mlx_distill.recipe.lock import recipe_hash

    try:
        document: Document = json.loads((run.path / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    lineage = document.get("lineage", {})
    same = lineage.get("adapter_sha256") == run.adapter_hash() and lineage.get("recipe_sha256") == recipe_hash(recipe)
    return document if same else None


# infer


def infer(setting: Setting, student: Path, source: Path, output: Path, *, resume: bool, delimiter: str | None = None) -> Document:
    """Answers every text of a file. Rejects alone are no failure."""
    from mlx_distill.data.examples import Reader
    from mlx_distill.data.read import read
    from mlx_distill.files import exclusive
    from mlx_distill.inference.engine import Engine
    from mlx_distill.inference.job import refuse, rejects_of
    from mlx_distill.inference.job import run as run_job
    from mlx_distill.task.prompt import load_tokenizer

    started = time.monotonic()
    run = Run(student)
    recipe, facts = run.open_learned()
    refuse(source, output, resume=resume)
    rows = Reader(recipe.task, None).examples(read(source_of(source, recipe, delimiter), source))
    with exclusive(output):
        backend = setting.choose()
        base = base_of_run(setting, run, recipe, facts, backend)
        opened = backend.open(base, adapters={"run": run.adapter}, memory_limit=_bytes(recipe.train.memory_limit))
        tokenizer = load_tokenizer(base)
        engine = Engine(opened, recipe.task, tokenizer, answer=recipe.answer, max_tokens=recipe.train.max_tokens, adapter="run")
        with setting.progress.step("infer", unit="rows") as bar:
            done = run_job(rows, engine, output, bar, resume=resume)
    seconds = time.monotonic() - started
    if done.rejected:
        setting.progress.say(f"{done.rejected} rows were rejected: {rejects_of(output)}")
    return {
        **dataclasses.asdict(done),
        "output": str(output),
        "seconds": seconds,
        "rows_per_hour": round(done.done / seconds * 3600) if seconds else None,
        "tokens": dataclasses.asdict(engine.counts),
        "peak_memory_bytes": peak_memory(opened),
    }


# shared


def source_of(path: Path, recipe: Recipe, delimiter: str | None) -> SourceSpec:
    """A file of texts by its name; a CSV without a delimiter of its own has that of the recipe's data. Raises DataError."""
    from mlx_distill.data.read import by_name
    from mlx_distill.recipe.layers import neighbour

    if not path.exists():
        raise DataError("there is no such file", file=path, hint=neighbour(path))
    known = recipe.data.source
    spec = by_name(path, delimiter=delimiter)
    if spec.kind != "csv" and delimiter is not None:
        raise DataError(f"a {spec.kind} file has no delimiter", file=path, hint="leave --delimiter out")
    fits = spec.kind == known.kind == "csv" and path.suffix.lower() == Path(known.path).suffix.lower()
    return dataclasses.replace(spec, delimiter=known.delimiter) if fits and delimiter is None else spec


class _Silent:
    """A bar that nobody sees."""

    def advance(self, n: int = 1, /, **figures: Any) -> None:
        pass


_SILENT: Any = _Silent()


def peak_memory(student: Student) -> int:
    """Bytes: the process's peak, or the device's where that is larger (unified memory does not all count as the process's)."""
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(peak if sys.platform == "darwin" else peak * 1024, student.peak_memory())


def versions() -> dict[str, str]:
    """Of Python and of the packages that figures may depend on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("mlx-distill", "mlx", "mlx-lm", "numpy", "scikit-learn", "tokenizers", "transformers", "llguidance"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)


def _minutes(seconds: float) -> str:
    from mlx_distill.observe.progress import duration

    return duration(seconds)
