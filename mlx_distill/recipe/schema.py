"""Every setting of a recipe, declared once: its default, its meaning, its unit and its limits stand together here.

`load` builds these classes from YAML and reports where a value has the wrong shape (type, limits, unknown key). `problems()` of a section
says what does not make sense in a value of the right shape; it yields (path within the section, message, hint).
It knows nothing of YAML, files, machines or models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar, Literal

Problem = tuple[str, str, str | None]


def setting(
    default: Any = MISSING,
    meaning: str = "",
    *,
    unit: str | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] | None = None,
    later: tuple[str, ...] | None = None,
    key: str | None = None,
) -> Any:
    """A dataclass field with all that is known of it.

    `low` and `high` are inclusive limits, `above` an exclusive one. `later`: legal values that do not work yet ("*": any value but the
    default); `check` refuses them as "not supported yet". `key`: its name in YAML, where Python reserves it.
    """
    metadata = {"meaning": meaning, "unit": unit, "low": low, "high": high, "above": above, "choices": choices, "later": later, "key": key}
    if isinstance(default, (dict, list)) or (callable(default) and not isinstance(default, str)):
        factory = default if callable(default) else lambda: type(default)(default)
        return field(default_factory=factory, metadata=metadata)
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


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
    choices: tuple[str, ...] | None = setting(None, "choice: the legal values; list: the legal items, where they are known")
    max_chars: int | None = setting(None, "text: at most so many characters (default 400); list: of one item (default 80)", low=1)
    max_items: int | None = setting(None, "list: at most so many items (default 8)", low=1)

    OWN: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "score": ("min", "max", "step", "weight", "gate"),
        "choice": ("choices",),
        "flag": (),
        "text": ("max_chars",),
        "list": ("choices", "max_chars", "max_items"),
    }

    def problems(self) -> Iterator[Problem]:
        for name in ("min", "max", "step", "weight", "gate", "choices", "max_chars", "max_items"):
            if getattr(self, name) is not None and name not in self.OWN.get(self.kind, ()):
                yield name, f"a {self.kind} has no {name}", f"a {self.kind} takes {', '.join(self.OWN[self.kind]) or 'nothing more'}"
        if self.kind == "choice" and (self.choices is None or len(self.choices) < 2):
            yield "choices", "a choice needs at least two choices", "choices: [first, second]"
        if self.choices is not None and len(set(self.choices)) < len(self.choices):
            twice = sorted({choice for choice in self.choices if self.choices.count(choice) > 1})
            yield "choices", f"{', '.join(map(repr, twice))} stands twice among the choices", None
        if self.choices is not None and any(choice == "" for choice in self.choices):
            yield "choices", "an empty text is no choice: an empty label means that there is none", None
        if self.kind == "score":
            low, high, step = self.min or 0.0, 10.0 if self.max is None else self.max, self.step or 1.0
            if low >= high:
                yield "max", f"max must be above min; got min {low:g}, max {high:g}", None
            elif abs((high - low) / step - round((high - low) / step)) > 1e-6:
                yield "step", f"from {low:g} to {high:g} is no whole number of steps of {step:g}", None
            elif (high - low) / step > 1000:
                yield "step", f"{round((high - low) / step) + 1} values between {low:g} and {high:g}; at most 1001", "take a larger step"


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

    def problems(self) -> Iterator[Problem]:
        if not self.fields:
            yield "fields", "a task needs at least one field", "fields: {relevant: {type: flag}}"
        weights = {name: spec.weight for name, spec in self.fields.items() if spec.weight is not None}
        if weights and abs(sum(weights.values()) - 1) > 0.01 + 1e-9:
            yield "fields", f"the weights sum to {sum(weights.values()):.4g}; they must sum to 1 (give or take 0.01)", None
        for thing in ("tiers", "caps"):
            if getattr(self, thing) and not weights:
                yield thing, f"{thing} need an overall, and no field has a weight", "give the scores weights that sum to 1"
        for name, spec in self.fields.items():
            if spec.gate is not None and not weights:
                yield f"fields.{name}.gate", "a gate caps the overall, and no field has a weight", None
        if "{" not in self.input.replace("{{", ""):
            yield "input", "the template names no column", 'input: "{text}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    kind: str = setting(meaning="how to read it", choices=("jsonl", "csv", "parquet", "hf"))
    path: str = setting(meaning="file, or folder of such files; relative to the recipe. hf: a local folder or a hub id")
    split: str | None = setting(None, "hf: which split of the dataset (default train)")
    revision: str | None = setting(None, "hf: which revision of the dataset")
    delimiter: str | None = setting(None, "csv: what separates the columns (default: a comma, or a tab in .tsv)")

    OWN: ClassVar[Mapping[str, str]] = {"split": "hf", "revision": "hf", "delimiter": "csv"}

    def problems(self) -> Iterator[Problem]:
        for name, owner in self.OWN.items():
            if getattr(self, name) is not None and self.kind != owner:
                yield name, f"a {self.kind} source has no {name}; {owner} has", "leave it out, or change the kind"
        if self.delimiter is not None and len(self.delimiter) != 1:
            yield "delimiter", f"must be one character; got {self.delimiter!r}", r'a tab is "\t"'
        if not self.path:
            yield "path", "is empty", "name a file"


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSpec:
    train: float = setting(0.8, "share of the rows that are learned", above=0, high=1)
    valid: float = setting(0.1, "share that chooses the best adapter", low=0, high=1)
    test: float = setting(0.1, "share that is judged once, at the end", low=0, high=1)
    group_by: str | None = setting(None, "column; rows of one value stay in one split")
    stratify_by: str | None = setting(None, "column, field, or `tier`; every split gets its share of each value")
    seed: int = setting(0, "draws the split; the order of the rows does not matter", low=0)

    def problems(self) -> Iterator[Problem]:
        if abs(self.train + self.valid + self.test - 1) > 1e-6:
            yield (
                "",
                f"the shares sum to {self.train + self.valid + self.test:.4g}; they must sum to 1",
                "train: 0.8, valid: 0.1, test: 0.1",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySpec:
    source: SourceSpec = setting(meaning="general data")
    share: float = setting(0.2, "share of each effective batch", above=0, high=0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    source: SourceSpec = setting(meaning="the labelled texts")
    split: SplitSpec = setting(SplitSpec, "who trains, who validates, who tests")
    missing: tuple[str, ...] = setting((), "values that are no labels (an empty one never is)")
    max_bad_share: float = setting(0.01, "more bad rows than this, and the run stops with their list", low=0, high=1)
    replay: ReplaySpec | None = setting(None, "general data against forgetting", later=("*",))


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSpec:
    model: str = setting(meaning="a checkpoint: a local folder, or a hub id")
    revision: str | None = setting(None, "commit, tag or branch of the hub id")
    bits: int | None = setting(4, "bits a weight, or `none`: unquantized", choices=("2", "3", "4", "5", "6", "8", "none"))
    group_size: int = setting(64, "weights that share a scale", choices=("32", "64", "128"))
    dtype: str | None = setting(
        None, "type of what is not quantized (default: the checkpoint's)", choices=("float32", "float16", "bfloat16")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    rank: int = setting(16, "columns of the adapter", low=1, high=1024)
    alpha: float = setting(32.0, "the adapter is scaled by alpha / rank", above=0)
    dropout: float = setting(0.0, "share of the adapter's inputs that are dropped", low=0, high=0.9)
    targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), "projections that are adapted, by the family's names"
    )

    def problems(self) -> Iterator[Problem]:
        if not self.targets:
            yield "targets", "an adapter needs at least one projection", "targets: [q_proj, v_proj]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    kind: Literal["cosine", "linear", "constant"] = setting(
        "cosine", "how the learning rate falls", choices=("cosine", "linear", "constant")
    )
    warmup: float = setting(0.1, "share of all steps spent rising", low=0, high=1)
    floor: float = setting(0.0, "the learning rate never falls below this, after the warm-up", low=0)
    cycles: int = setting(1, "cosine: how often it starts anew", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingSpec:
    patience: int = setting(3, "validations without an improvement before it stops", low=1)
    min_delta: float = setting(0.0, "an improvement is at least this, in nats a token", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    epochs: int = setting(3, "times that every row is learned", low=1)
    batch_size: int = setting(4, "rows of a micro-batch", low=1)
    accumulate: int = setting(4, "micro-batches of one step", low=1)
    learning_rate: float = setting(2e-4, "at the end of the warm-up", above=0)
    schedule: ScheduleSpec = setting(ScheduleSpec, "how the learning rate rises and falls")
    early_stopping: StoppingSpec | None = setting(None, "stop when validation improves no more")
    max_tokens: int = setting(2048, "longest row, prompt and answer; a longer text loses its middle", unit="tokens", low=16)
    seed: int = setting(0, "draws the adapter's start, the batches and the dropout", low=0)
    optimizer: str = setting(
        "adamw", "what turns gradients into steps", choices=("adamw", "adafactor", "lion"), later=("adafactor", "lion")
    )
    weight_decay: float = setting(0.0, "AdamW's, decoupled", low=0)
    clip_norm: float | None = setting(1.0, "longest gradient; `none`: as long as it is", above=0)
    validate_every: int | None = setting(None, "steps between validations (default: once an epoch)", unit="steps", low=1)
    checkpoint_every: int | None = setting(None, "steps between checkpoints (default: at every validation)", unit="steps", low=1)
    keep: str = setting("valid_loss", "the adapter that is kept is the best by this", choices=("valid_loss",))
    memory_limit: float | None = setting(None, "what the backend may use (default: what the machine lends)", unit="GiB", above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSpec:
    slices: tuple[str, ...] = setting((), "columns; each of their values gets a row of its own in the report")
    bootstrap: int = setting(1000, "resamples behind each 95 % interval", low=100)
    baselines: bool = setting(True, "majority class and TF-IDF + linear model, trained on the same rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    name: str = setting(meaning="what the student is called")
    task: TaskSpec = setting(meaning="what to ask, and what an answer looks like")
    data: DataSpec = setting(meaning="labelled texts, and who sees which")
    base: BaseSpec = setting(meaning="the checkpoint that is taught")
    lora: LoraSpec = setting(LoraSpec, "the adapter; `none`: all weights are trained", later=("none",))
    train: TrainSpec = setting(TrainSpec, "the training")
    answer: str = setting(
        "json", "json: written field after field; slots: every value read at once (closed fields only)", choices=("json", "slots")
    )
    evaluate: EvaluateSpec = setting(EvaluateSpec, "what the report shows")
    targets: dict[str, float] = setting(dict, "metric: the value to reach")
