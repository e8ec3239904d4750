"""From a recipe to what is learned: its rows, who trains, and every row in tokens; and what the run will cost, said beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_distill.catalog import nearest
from mlx_distill.data import examples, replay
from mlx_distill.data.balance import Balance
from mlx_distill.data.batches import steps_per_epoch
from mlx_distill.data.tokens import Lesson, Lessons, lessons
from mlx_distill.errors import DataError
from mlx_distill.evaluation import slices
from mlx_distill.observe.progress import amount
from mlx_distill.recipe.schema import Recipe
from mlx_distill.records import BadRow, Example
from mlx_distill.task.answer import AnswerPlan
from mlx_distill.task.fields import ABSENT, follow
from mlx_distill.task.plan import plan
from mlx_distill.task.prompt import Prompt, load_tokenizer
from mlx_distill.task.slots import SlotPlan
from mlx_distill.workflows.setting import size


@dataclass(slots=True)
class Prepared:
    recipe: Recipe
    rows: dict[str, Example]
    bad: list[BadRow]
    sha256: str
    split: dict[str, list[str]]
    limit: int | None = None
    tokenizer: Any = None
    prompt: Prompt = field(init=False)
    answers: AnswerPlan | SlotPlan = field(init=False)
    lessons: dict[str, Lessons] = field(default_factory=dict)
    general: replay.General | None = None
    replay: replay.Replay | None = None

    @classmethod
    def of(cls, recipe: Recipe, *, limit: int | None = None) -> Prepared:
        """Read and split the data. `limit`: so many rows, chosen by the hash of their ids. Raises DataError."""
        path = Path(recipe.data.source.path)
        loaded = examples.load(recipe.task, recipe.data, path)
        rows = loaded.rows
        if limit is not None:
            rows = sorted(rows, key=lambda row: hashlib.sha256(row.id.encode("utf-8", "surrogatepass")).digest())[:limit]
        split = examples.divide(recipe.task, recipe.data.split, rows, path)
        split["train"] = examples.taken(split["train"], recipe.data.take, path)
        slices.require(recipe.evaluate.slices, rows, recipe.task, path)
        _require_columns(recipe, rows, path)
        return cls(recipe, {row.id: row for row in rows}, loaded.bad, loaded.sha256, split, limit)

    def recall(self) -> None:
        """Read the general data, where the recipe has some. Raises DataError."""
        spec = self.recipe.data.replay
        if spec is not None:
            self.general = replay.load(spec, Path(spec.source.path), max_bad_share=self.recipe.data.max_bad_share)

    def read(self, base: Path) -> None:
        """Tokenize with the tokenizer of a base, or of the checkpoint it is made of. Raises DataError where nothing can be learned."""
        self.tokenizer = load_tokenizer(base)
        self.prompt = Prompt(self.recipe.task, self.tokenizer)
        self.answers = plan(self.recipe.answer, self.recipe.task.fields, self.tokenizer)
        balance = Balance.of(self.recipe.data.balance, self.recipe.task.fields, [self.rows[i].labels for i in self.split["train"]])
        for name in ("train", "valid"):
            rows = (self.rows[i] for i in self.split[name])
            self.lessons[name] = lessons(rows, self.prompt, self.answers, self.recipe.train.max_tokens, balance)
        if not self.lessons["train"].rows:
            rejected = self.lessons["train"].rejected
            why = f"; the first: {rejected[0].reason}" if rejected else f": none has a label{self._first}"
            hint = "raise train.max_tokens" if rejected else "put a field that most rows have first" if self._first else None
            raise DataError(f"no row is left to train on{why}", file=self.recipe.data.source.path, hint=hint)
        self._tokenize_general()

    @property
    def _first(self) -> str:
        """Where a label must stand for a row to teach anything: in json, in the first field; in slots in any that is closed."""
        return "" if self.recipe.answer == "slots" else f" in the first field, {next(iter(self.recipe.task.fields))}"

    def _tokenize_general(self) -> None:
        spec, train = self.recipe.data.replay, self.recipe.train
        if spec is not None and self.general is not None:
            settings: dict[str, Any] = {"max_tokens": train.max_tokens, "seed": train.seed, "taken": self.rows}
            self.replay = replay.tokenize(self.general, spec, self.tokenizer, **settings)

    @property
    def tokens(self) -> int:
        """Of one epoch, the shared prefix not counted."""
        return sum(len(lesson.row.tokens) for lesson in self.lessons["train"].rows)

    @property
    def steps(self) -> int:
        train = self.recipe.train
        return train.epochs * steps_per_epoch(len(self.lessons["train"].rows), train.batch_size, train.accumulate)

    def facts(self) -> dict[str, Any]:
        """What the lock keeps of the data."""
        data = {"sha256": self.sha256, "rows": len(self.rows), "bad": len(self.bad), "split": {k: len(v) for k, v in self.split.items()}}
        data |= {"limit": self.limit} if self.limit is not None else {}
        general = self.general and {"sha256": self.general.sha256, "rows": len(self.general.rows), "bad": len(self.general.bad)}
        return {"data": data | ({"replay": general} if general else {})}

    def plan(self, base: Path, card: Mapping[str, Any]) -> Iterator[str]:
        """What training will do, in lines for a person."""
        train, recipe = self.lessons["train"], self.recipe
        counts = ", ".join(f"{len(ids)} {name}" for name, ids in self.split.items())
        yield f"{recipe.name}: {amount(len(self.rows), 'rows')} ({counts}), {len(self.bad)} bad"
        trimmed = sum(lesson.trimmed for lesson in train.rows)
        for number, what in (
            (len(train.rejected), f"rejected, too long for train.max_tokens {recipe.train.max_tokens}"),
            (train.unlabelled, f"teach nothing: no label{self._first}, or `loss: 0`"),
            (trimmed, "lose the middle of their text"),
        ):
            if number:
                yield f"  of those to train, {number} {what}"
        learned = sum(len(lesson.row.targets) for lesson in train.rows)
        yield (
            f"{amount(recipe.train.epochs, 'epochs')}, {amount(self.steps, 'steps')} of {recipe.train.batch_size} x "
            f"{recipe.train.accumulate} rows; an epoch has {self.tokens:,} tokens, {learned:,} of them learned, "
            f"behind a shared prefix of {len(self.prompt.prefix)}"
        )
        if self.replay is not None:
            general, share = self.replay, self.replay.share
            out = f", {len(general.rejected)} more are too long" if general.rejected else ""
            yield f"beside them {general.due(len(train.rows))} of {len(general.rows)} general rows an epoch, a share of {share:g}{out}"
        yield f"base: {card['parameters']:,} parameters, {size(_weight_bytes(base))} on disk"


def _require_columns(recipe: Recipe, rows: Sequence[Example], path: Path) -> None:
    """Those that the report will look for: before the training, not in the report after it."""
    wanted = [("fairness.groups", column) for column in (recipe.fairness.groups if recipe.fairness else ())]
    wanted += [(f"task.fields.{name}.raters", column) for name, spec in recipe.task.fields.items() for column in spec.raters or ()]
    for where, column in wanted:
        if all(follow(row.record, column) is ABSENT for row in rows):
            there = list(map(str, rows[0].record))
            raise DataError(f"{where} names {column!r}, and there is no such column", file=path, hint=nearest(column, there))


def open_config(base: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((base / "config.json").read_text(encoding="utf-8"))
    return config


def _weight_bytes(base: Path) -> int:
    return sum(path.stat().st_size for path in base.glob("*.safetensors"))


def example_rows(prepared: Prepared, number: int) -> list[dict[str, Any]]:
    """The first rows as the student will see them: prompt, what is learned behind it, and how many tokens each has."""
    out = []
    for lesson in prepared.lessons["train"].rows[:number]:
        row, prefix = lesson.row, prepared.prompt.prefix if lesson.shared else prepared.prompt.prefix[:0]
        own = lesson.prompt - len(prefix)
        out.append(
            {
                "id": row.id,
                "prompt": prepared.tokenizer.decode([*prefix, *row.tokens[:own]]),
                "learned": _learned(prepared, lesson),
                "tokens": {"prefix": len(prefix), "own": own, "learned": len(row.targets)},
                "trimmed": lesson.trimmed,
            }
        )
    return out


def _learned(prepared: Prepared, lesson: Lesson) -> str:
    """The answer's text; of slots, each placeholder with the code that is learned behind it, and its meaning, then the texts."""
    plan, decode, targets = prepared.answers, prepared.tokenizer.decode, lesson.row.targets
    if not isinstance(plan, SlotPlan):
        return str(decode(targets))
    labelled = [place for place in plan.places if place.name in prepared.rows[lesson.row.id].labels]
    shown = [
        f"{decode([place.token])} -> {decode([code])} ({place.name}: {place.values[place.codes.tolist().index(code)]})"
        for place, code in zip(labelled, targets.tolist(), strict=False)
    ]
    texts = targets[len(labelled) :]
    return ", ".join([*shown, *([str(decode(texts))] if len(texts) else [])])
