"""Students that answer new texts: one, or several that share a base; from a Run or a bundle; for a job, or from Python.

from mlx_distill.workflows import open_student

student = open_student("runs/crisis")
for prediction in student.answers([{"id": "1", "text": "The river rose above the bridge."}]):
    print(prediction.id, prediction.answer)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.backends import full
from mlx_distill.backends.base import Student as Opened
from mlx_distill.data.examples import Reader
from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError, OutputError, RecipeError
from mlx_distill.files import sha256
from mlx_distill.inference.engine import Engine
from mlx_distill.inference.identity import flat
from mlx_distill.recipe.lock import recipe_hash, resolved
from mlx_distill.recipe.schema import FieldSpec, Recipe
from mlx_distill.records import BadRow, Prediction
from mlx_distill.task.confidence import FILE, Confidence
from mlx_distill.task.plan import without_texts
from mlx_distill.task.prompt import columns, load_tokenizer
from mlx_distill.training.run import MAY_CHANGE, PLACES, Run
from mlx_distill.workflows.bases import base_of_run
from mlx_distill.workflows.known import known
from mlx_distill.workflows.setting import Document, Setting, in_bytes


@dataclass(frozen=True, slots=True)
class Asking:
    """How students are to answer. `samples` > 1: so many answers at `temperature`, drawn with `seed`, whose vote or mean is the answer."""

    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    texts: bool = True
    """Whether open fields (texts, lists) are answered too."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What makes no sense by itself, and the way out."""
        if self.samples < 1:
            yield f"--samples {self.samples}: at least one answer is needed", "--samples 5 --temperature 0.7"
        elif not 0 <= self.temperature < float("inf"):
            yield f"--temperature {self.temperature:g}: a temperature is a number from 0 on", "--temperature 0.7"
        elif self.seed < 0:
            yield f"--seed {self.seed}: a seed is 0 or more", "--seed 0"
        elif self.samples > 1 and not self.temperature:
            yield f"--samples {self.samples} at temperature 0 would be one answer {self.samples} times", "add --temperature 0.7"
        elif self.samples == 1 and (self.temperature or self.seed):
            given = f"--temperature {self.temperature:g}" if self.temperature else f"--seed {self.seed}"
            yield f"{given} is for several samples; a single answer is the likeliest", "add --samples 5, or leave it out"

    def require(self, chosen: Sequence[Chosen]) -> None:
        """Raises DataError or RecipeError where these students cannot answer so."""
        for message, hint in self.problems():
            raise DataError(message, hint=hint)
        for student in chosen:
            if self.samples > 1 and student.recipe.answer == "slots":
                message = f"{student.name} reads its values' probabilities exactly (answer: slots): samples could only blur them"
                raise DataError(message, hint="leave --samples out; --distributions shows the probabilities", file=student.run.path)
            student.fields(self)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A student that is not opened yet."""

    run: Run
    recipe: Recipe
    facts: Mapping[str, Any]
    confidence: Confidence | None = None
    """What was found out about how sure it really is. None: nothing, or of other weights than these."""

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def base(self) -> str:
        """The key of the base that it was trained on."""
        return str(self.facts.get("base", {}).get("key"))

    def fields(self, asking: Asking) -> dict[str, FieldSpec]:
        """The fields that it is to answer. Raises RecipeError where texts cannot be left out."""
        fields = self.recipe.task.fields
        return fields if asking.texts else {name: fields[name] for name in without_texts(self.recipe.answer, fields)}

    def reader(self) -> Reader:
        """What makes its examples of a source's rows."""
        return Reader(self.recipe.task, None, empty=False)

    def identity(self) -> Document:
        """What its answers follow from: weights and recipe, but for the settings that a resumed training may change as well."""
        settings = flat(resolved(self.recipe))
        kept = {key: value for key, value in settings.items() if not (key in MAY_CHANGE + PLACES or key.startswith(_SECTIONS))}
        order = {"order of task.fields": ", ".join(self.recipe.task.fields)}
        hashes = {"adapter_sha256": self.run.adapter_hash(), "recipe_sha256": recipe_hash(self.recipe), "base": self.base}
        known = {"calibration_sha256": sha256(self.run.adapter / FILE)} if self.confidence is not None else {}
        return hashes | known | {"recipe": kept | order}


_SECTIONS = tuple(f"{name}." for name in MAY_CHANGE)


@dataclass(frozen=True, slots=True)
class Student:
    """A student that answers. Several may share one base in memory."""

    name: str
    recipe: Recipe
    engine: Engine
    opened: Opened
    fields: Mapping[str, FieldSpec]

    def answers(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Prediction | BadRow]:
        """A Prediction for each record, as they are finished, and a BadRow for one that cannot be answered (its `line`: which record).

        `records` may be endless, good or bad: a window of them is in memory. A record without `id` is called by the hash of its content.
        """
        rows = (self._row(number, record) for number, record in enumerate(records, start=1))
        yield from self.engine.stream(Reader(self.recipe.task, None, empty=False).examples(rows))

    def _row(self, number: int, record: object) -> SourceRow | BadRow:
        """A list of bare texts is an easy mistake, and one record of another kind no reason to end an endless stream."""
        if isinstance(record, Mapping):
            return SourceRow(number, {str(name): value for name, value in record.items()})
        asked = ", ".join(f'"{name}": ...' for name in columns(self.recipe.task.input))
        return BadRow(f"record {number} is {_kind(record)}, not a mapping of columns: {{{asked}}}", number)


def choose_students(setting: Setting, places: Sequence[Path]) -> list[Chosen]:
    """The students behind paths of Runs and of bundles. Raises OutputError, RecipeError also where they cannot share a base."""
    chosen = [_chosen(setting, place) for place in places]
    if len(chosen) == 1:
        return chosen
    for name, count in Counter(student.name for student in chosen).items():
        if count > 1:
            first, second = [student.run.path for student in chosen if student.name == name][:2]
            hint = "results carry the recipe's name: name one anew, mlx-distill train RECIPE --out RUN --resume --set name=..."
            raise RecipeError(f"{first} and {second} are both called {name}", hint=hint)
    for student in chosen:
        if full.is_full(student.run.adapter):
            hint = "let it answer alone: infer RUN INPUT OUTPUT"
            message = f"all weights of {student.name} were trained: it shares no base with others"
            raise OutputError(message, file=student.run.path, hint=hint)
        if student.base != chosen[0].base:
            keys = f"{chosen[0].name} has {chosen[0].base[:12]}, {student.name} has {student.base[:12]}"
            hint = "let them answer one after another: infer RUN INPUT OUTPUT"
            raise OutputError(f"they were trained on two bases, and only one is opened: {keys}", file=student.run.path, hint=hint)
    return chosen


def open_chosen(setting: Setting, chosen: Sequence[Chosen], asking: Asking, *, whole: bool = True, sharing: int = 1) -> list[Student]:
    """One base in memory, an adapter and an engine for each. Raises DataError where they cannot answer as asked.

    `whole`: each closed field's whole distribution is wanted, which costs more than the answer. `sharing`: so many processes do the same
    beside each other, and share what memory there is.
    """
    asking.require(chosen)
    backend = setting.choose()
    first = chosen[0]
    base = base_of_run(setting, first.run, first.recipe, first.facts, backend)
    limits = [student.recipe.train.memory_limit for student in chosen]
    least = min((limit for limit in limits if limit is not None), default=None)
    limit = in_bytes(least)
    if sharing > 1:
        limit = (limit or backend.machine().memory) // sharing
    opened = backend.open(base, adapters={student.name: student.run.adapter for student in chosen}, memory_limit=limit)
    tokenizer = load_tokenizer(base)
    engines = [_engine(it, opened, tokenizer, asking, whole=whole) for it in chosen]
    return [Student(it.name, it.recipe, engine, opened, it.fields(asking)) for it, engine in zip(chosen, engines, strict=True)]


def open_students(
    setting: Setting, places: Sequence[Path], *, samples: int = 1, temperature: float = 0.0, seed: int = 0, texts: bool = True
) -> list[Student]:
    """Students of Runs or bundles that share one base."""
    return open_chosen(setting, choose_students(setting, places), Asking(samples, temperature, seed, texts))


def open_student(
    path: Path | str,
    *,
    cache: Path | None = None,
    backend: str = "auto",
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    texts: bool = True,
) -> Student:
    """The student of a Run or a bundle. `cache`: where bases are kept, of the command line that of the user (~/.cache/mlx-distill)."""
    from mlx_distill.observe.progress import Progress

    setting = Setting(Progress(quiet=True), cache or Path.home() / ".cache" / "mlx-distill", backend)
    return open_students(setting, [Path(path)], samples=samples, temperature=temperature, seed=seed, texts=texts)[0]


def _chosen(setting: Setting, place: Path) -> Chosen:
    if place.is_file():
        from mlx_distill.bundle import opened

        place = opened(place, setting.cache)
    run = Run(place)
    recipe, facts = run.open_learned()
    return Chosen(run, recipe, facts, known(run, recipe, setting.progress))


def cascade(setting: Setting, first: Sequence[Chosen], then: Path) -> list[Chosen]:
    """The student that answers what the first defers. Raises DataError where they do not answer alike."""
    if len(first) > 1:
        raise DataError(f"--then goes on from one student; here are {len(first)}", hint="infer RUN --then RUN INPUT OUTPUT")
    last = choose_students(setting, [then])
    ours, theirs = (it[0].recipe.task.fields for it in (first, last))
    if differing := [name for name in dict.fromkeys((*ours, *theirs)) if ours.get(name) != theirs.get(name)]:
        message = f"it does not answer as {first[0].name} does: {', '.join(differing)} differ"
        raise DataError(message, file=last[0].run.path, hint="a cascade is of two students of one task")
    if first[0].name == last[0].name:
        hint = "results say who answered: name one anew, mlx-distill train RECIPE --out RUN --resume --set name=..."
        raise RecipeError(f"both students of the cascade are called {first[0].name}", file=last[0].run.path, hint=hint)
    return last


def require_deferral(chosen: Sequence[Chosen], asking: Asking, asked: str) -> None:
    """Raises DataError where rows are to go on, or apart, that nobody defers. `asked`: the option that wants it."""
    if asking.samples > 1:
        message = f"{asked}: how sure several samples are is not known; the threshold was found for single answers"
        raise DataError(message, hint="leave --samples out")
    for student in chosen:
        if student.confidence is None or student.confidence.threshold is None:
            hint = f"mlx-distill evaluate {student.run.path} finds one, where its recipe has targets.defer and data.split.calibrate"
            raise DataError(f"{asked}: {student.name} has no threshold to defer by", file=student.run.path, hint=hint)


def _engine(chosen: Chosen, opened: Opened, tokenizer: Any, asking: Asking, *, whole: bool) -> Engine:
    recipe = chosen.recipe
    ask: dict[str, Any] = {
        "samples": asking.samples,
        "temperature": asking.temperature,
        "seed": asking.seed,
        "texts": asking.texts,
        "whole": whole,
    }
    ask["confidence"] = chosen.confidence if asking.samples == 1 else None
    return Engine(opened, recipe.task, tokenizer, answer=recipe.answer, max_tokens=recipe.train.max_tokens, adapter=chosen.name, **ask)


def _kind(record: object) -> str:
    """For people.

    >>> _kind("a text"), _kind(7), _kind(None)
    ('a str', 'an int', 'None')
    """
    name = type(record).__name__
    return "None" if record is None else f"an {name}" if name[0] in "aeiou" else f"a {name}"
