"""What to ask, and what an answer looks like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mlx_distill.recipe.schema.setting import Problem, plain_spelling, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSpec:
    below: float = setting(meaning="a score under this trips the gate")
    cap: float = setting(meaning="and then the overall is at most this")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSpec:
    """One typed field of the answer, under a name of your choice. Settings marked with a type are of that type alone."""

    kind: str = setting(meaning="what its values are", key="type", choices=("score", "choice", "flag", "text", "list"))
    source: str | None = setting(None, "the column of its label, a dotted path into a nested record", key="from")
    loss: float = setting(1.0, "how much its tokens count in the loss", low=0)
    min: float | None = setting(None, "score: the lowest value (default 0)")
    max: float | None = setting(None, "score: the highest value (default 10)")
    step: float | None = setting(None, "score: distance between two values (default 1)", above=0)
    weight: float | None = setting(None, "score: its share of the overall", low=0)
    gate: GateSpec | None = setting(None, "score: below a threshold, caps the overall")
    estimate: str | None = setting(
        None,
        "score: which number of its distribution is the answer (default mode). mode: the likeliest value, oftenest exactly the judge's; "
        "median: the value with half of the probability on either side, least off on average; mean: the expectation, mostly between two "
        "steps, with the least squared error",
        choices=("mode", "median", "mean"),
    )
    choices: tuple[str, ...] | None = setting(None, "choice: the legal values; list: the legal items, where they are known")
    aliases: dict[str, tuple[str, ...]] | None = setting(
        None, "choice, list: other spellings of its choices, {choice: [spelling, ...]}; case and white space never matter in them"
    )
    raters: tuple[str, ...] | None = setting(
        None, "columns with other raters' labels of the same row (or the judge's, asked again): how far they agree is the ceiling"
    )
    max_chars: int | None = setting(None, "text: at most so many characters (default 400); list: of one item (default 80)", low=1)
    max_items: int | None = setting(None, "list: at most so many items (default 8)", low=1)

    OWN: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "score": ("min", "max", "step", "weight", "gate", "estimate"),
        "choice": ("choices", "aliases"),
        "flag": (),
        "text": ("max_chars",),
        "list": ("choices", "aliases", "max_chars", "max_items"),
    }

    def problems(self) -> Iterator[Problem]:
        for name in ("min", "max", "step", "weight", "gate", "estimate", "choices", "aliases", "max_chars", "max_items"):
            if getattr(self, name) is not None and name not in self.OWN.get(self.kind, ()):
                yield name, f"a {self.kind} has no {name}", f"a {self.kind} takes {', '.join(self.OWN[self.kind]) or 'nothing more'}"
        if self.kind == "choice" and (self.choices is None or len(self.choices) < 2):
            yield "choices", "a choice needs at least two choices", "choices: [first, second]"
        if self.choices is not None and len(set(self.choices)) < len(self.choices):
            twice = sorted({choice for choice in self.choices if self.choices.count(choice) > 1})
            yield "choices", f"{', '.join(map(repr, twice))} stands twice among the choices", None
        if self.choices is not None and any(choice == "" for choice in self.choices):
            yield "choices", "an empty text is no choice: an empty label means that there is none", None
        yield from self._alias_problems()
        if self.kind == "score":
            low, high, step = self.min or 0.0, 10.0 if self.max is None else self.max, self.step or 1.0
            if low >= high:
                yield "max", f"max must be above min; got min {low:g}, max {high:g}", None
            elif abs((high - low) / step - round((high - low) / step)) > 1e-6:
                yield "step", f"from {low:g} to {high:g} is no whole number of steps of {step:g}", None
            elif (high - low) / step > 1000:
                yield "step", f"{round((high - low) / step) + 1} values between {low:g} and {high:g}; at most 1001", "take a larger step"

    def _alias_problems(self) -> Iterator[Problem]:
        meant: dict[str, str] = {}
        for choice, spellings in (self.aliases or {}).items():
            if choice not in (self.choices or ()):
                yield f"aliases.{choice}", f"{choice!r} is none of the choices", f"there is {', '.join(self.choices or ())}"
            for spelling in spellings:
                if (other := meant.setdefault(plain_spelling(spelling), choice)) != choice:
                    yield f"aliases.{choice}", f"{spelling!r} stands for {other!r} already", "a spelling stands for one choice"
                if any(plain_spelling(spelling) == plain_spelling(other) for other in self.choices or () if other != choice):
                    yield f"aliases.{choice}", f"{spelling!r} is a choice of its own", "leave it out, here or there"


@dataclass(frozen=True, slots=True, kw_only=True)
class CapSpec:
    """Where every condition of `when` holds, the overall is at most `cap`.

    A condition is a value, a list of values, or {below: x} / {at_least: x}; its key is a field of the task or a column of the record.
    """

    when: dict[str, Any] = setting(meaning="field or column: value, list of values, {below: x} or {at_least: x}; all must hold")
    cap: float = setting(meaning="the overall is at most this")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    input: str = setting(meaning="template of a row's text; {column} is replaced; {{ and }} are braces")
    fields: dict[str, FieldSpec] = setting(meaning="the answer's fields, in the order in which the student answers them")
    instructions: str = setting("", "what the judge was asked, the same for every row")
    tiers: dict[str, float] = setting(dict, "name: lowest overall; the first that the overall reaches, from above")
    caps: tuple[CapSpec, ...] = setting((), "conditions that cap the overall, after the gates")

    @property
    def tiers_upwards(self) -> list[str]:
        """The tiers' names from the lowest to the highest."""
        return sorted(self.tiers, key=lambda name: self.tiers[name])

    def problems(self) -> Iterator[Problem]:
        if not self.fields:
            yield "fields", "a task needs at least one field", "fields: {relevant: {type: flag}}"
        weights = {name: spec.weight for name, spec in self.fields.items() if spec.weight is not None}
        if weights and abs(sum(weights.values()) - 1) > 0.01 + 1e-9:
            yield "fields", f"the weights sum to {sum(weights.values()):.4g}; they must sum to 1 (give or take 0.01)", None
        for thing in ("tiers", "caps"):
            if getattr(self, thing) and not weights:
                yield thing, f"{thing} need an overall, and no field has a weight", "give the scores weights that sum to 1"
        if self.fields and all(spec.loss == 0 for spec in self.fields.values()):
            yield "fields", "every field has `loss: 0`: nothing would be learned", "leave `loss` out where a field is to be learned"
        for name, spec in self.fields.items():
            if spec.gate is not None and not weights:
                yield f"fields.{name}.gate", "a gate caps the overall, and no field has a weight", None
        if "{" not in self.input.replace("{{", ""):
            yield "input", "the template names no column", 'input: "{text}"'
