"""Every setting of a recipe, declared once: its default, its meaning, its unit and its limits stand together here.

`load` builds these classes from YAML and reports where a value has the wrong shape (type, limits, unknown key). `problems()` of a section
says what does not make sense in a value of the right shape; it yields (path within the section, message, hint).
It knows nothing of YAML, files, machines or models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar, Literal

Problem = tuple[str, str, str | None]
ALL_LINEAR = ("all-linear",)
"""`lora.targets`: every projection of the base's family."""


def plain_spelling(text: str) -> str:
    """What two spellings of one choice have in common: neither case nor white space matter.

    >>> plain_spelling("  EU  Digital Services ACT ")
    'eu digital services act'
    """
    return " ".join(text.casefold().split())


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
    words: tuple[str, ...] = (),
    key: str | None = None,
    rest: bool = False,
) -> Any:
    """A dataclass field with all that is known of it.

    `low` and `high` are inclusive limits, `above` an exclusive one. `later`: legal values that do not work yet ("*": any value but the
    default); `check` refuses them as "not supported yet". `words`: what may stand for a whole list, read as the list of that word alone.
    `key`: its name in YAML, where Python reserves it. `rest`: a mapping that takes every key of the section which is no setting's name.
    """
    metadata = {
        "meaning": meaning, "unit": unit, "low": low, "high": high, "above": above, "choices": choices, "later": later, "words": words,
        "key": key, "rest": rest,
    }  # fmt: skip
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
                if spelling in (self.choices or ()) and spelling != choice:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    kind: str = setting(meaning="how to read it", choices=("jsonl", "csv", "parquet", "hf"))
    path: str = setting(
        meaning="file, or folder of such files; relative to the recipe. jsonl, csv: packed too (.gz, .zst). hf: a local folder or a hub id"
    )
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
    calibrate: float = setting(
        0.0, "share that serves nothing but what needs a guarantee: the threshold of targets.defer, sets and intervals", low=0, high=1
    )
    group_by: str | None = setting(None, "column; rows of one value stay in one split")
    stratify_by: str | None = setting(None, "column, field, or `tier`; every split gets its share of each value")
    seed: int = setting(0, "draws the split; the order of the rows does not matter", low=0)

    def problems(self) -> Iterator[Problem]:
        if abs((total := sum(self.shares().values())) - 1) > 1e-6:
            hint = "train: 0.7, valid: 0.1, calibrate: 0.1, test: 0.1" if self.calibrate else "train: 0.8, valid: 0.1, test: 0.1"
            yield "", f"the shares sum to {total:.4g}; they must sum to 1", hint

    def shares(self) -> dict[str, float]:
        """By the name of the split; `calibrate` only where it has one."""
        own = {"calibrate": self.calibrate} if self.calibrate else {}
        return {"train": self.train, "valid": self.valid, "test": self.test} | own


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySpec:
    """General data beside the task's, so that the student forgets less of what its base could do.

    To the task's rows of each step come general ones, so that of all rows `share` are general: 16 and 4 for 0.2. Over the run the share is
    exact to a row, steps whose own would be no whole number take turns. A general row counts in the loss as much as a task's row, however
    long its output: the weights of its tokens are scaled by one factor, the task's mean weight a row / the general data's mean tokens a
    row. So `share` is the share of rows and of the loss; of the tokens it is whatever the lengths make it. Every general row is learned
    once before any is learned twice. One that is longer than train.max_tokens is left out.
    """

    source: SourceSpec = setting(meaning="general data: any rows with something to read and something to say")
    input: str = setting("{instruction}\n\n{input}", "template of what is read, as a user's turn; an empty column leaves nothing behind")
    output: str = setting("{output}", "template of what is learned, over the whole vocabulary")
    share: float = setting(0.2, "share of the rows of each step, and of the loss", above=0, high=0.9)

    def problems(self) -> Iterator[Problem]:
        for name in ("input", "output"):
            if "{" not in getattr(self, name).replace("{{", ""):
                yield name, "the template names no column", f'{name}: "{{{name}}}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceSpec:
    """How much rows of rare labels count in the loss of a field, in training and in validation.

    A label that n of the training rows have, where the field's most common one has N, is worth min((N / n) ^ p, most), with p 1/2 for sqrt
    and 1 for inverse; divided by the mean over the training rows that have a label, so that the field's mean weight is 1 and the learning
    rate means what it meant. The loss of every token of the value is multiplied by it. A score's label is its nearest step.
    """

    kind: str = setting(
        "none", "none: every row counts the same; inverse: every label does; sqrt: between them", choices=("none", "sqrt", "inverse")
    )
    fields: tuple[str, ...] | None = setting(None, "fields that are balanced (default: every choice and flag)")
    most: float = setting(10.0, "how many times as much as the most common label the rarest may count", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    source: SourceSpec = setting(meaning="the labelled texts")
    split: SplitSpec = setting(SplitSpec, "who trains, who validates, who tests")
    missing: tuple[str, ...] = setting((), "values that are no labels (an empty one never is)")
    max_bad_share: float = setting(0.01, "more bad rows than this, and the run stops with their list", low=0, high=1)
    replay: ReplaySpec | None = setting(None, "general data against forgetting")
    balance: BalanceSpec = setting(BalanceSpec, "what rare labels count")


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
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "projections that are adapted, by the family's names; `all-linear`: every one that it has",
        words=ALL_LINEAR,
    )
    layers: str = setting("all", "which layers are adapted: `all`, or `last N`, those nearest to the answer")
    rslora: bool = setting(False, "scale by alpha / sqrt(rank) instead: for ranks of 64 and more")
    dora: bool = setting(False, "learn each output's magnitude beside the direction: a little better at low ranks, and slower")

    LAST: ClassVar[re.Pattern[str]] = re.compile(r"last ([1-9][0-9]*)")

    @property
    def last(self) -> int | None:
        """So many of the last layers; None: all."""
        found = self.LAST.fullmatch(self.layers)
        return int(found[1]) if found else None

    def problems(self) -> Iterator[Problem]:
        if not self.targets:
            yield "targets", "an adapter needs at least one projection", "targets: [q_proj, v_proj]"
        if len(self.targets) > 1 and set(ALL_LINEAR) & set(self.targets):
            yield "targets", "all-linear stands for every projection, and others stand beside it", "targets: all-linear"
        if self.layers != "all" and self.last is None:
            number = self.layers if self.layers.isdecimal() and int(self.layers) else 16
            yield "layers", f"must be all, or last N; got {self.layers!r}", f"layers: last {number}"


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
    min_delta: float = setting(0.0, "an improvement is at least this: nats a token, or the unit of the metric that train.keep names", low=0)


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
        "adamw",
        "what turns gradients into steps; adafactor: hardly any memory of its own, for `lora: none`; lion: half of adamw's, and wants a "
        "learning rate of a fifth to a tenth of adamw's",
        choices=("adamw", "adafactor", "lion"),
    )
    weight_decay: float = setting(0.0, "a step takes learning_rate * weight_decay, a share, off each trained weight", low=0)
    clip_norm: float | None = setting(1.0, "longest gradient; `none`: as long as it is", above=0)
    validate_every: int | None = setting(None, "steps between validations (default: once an epoch)", unit="steps", low=1)
    checkpoint_every: int | None = setting(None, "steps between checkpoints (default: at every validation)", unit="steps", low=1)
    keep: str = setting(
        "valid_loss",
        "the adapter that is kept is the best by this, and early stopping judges it: valid_loss, or a metric of the task such as "
        "tier_agreement or macro_f1.FIELD, measured on the student's answers to the validation rows",
    )
    sample_every: int | None = setting(
        None, "steps between sample answers: three validation rows beside the reference (default: none)", unit="steps", low=1
    )
    max_skipped: int = setting(
        3, "steps in a row whose loss or gradient was not finite (none of them is applied), and the run stops", unit="steps", low=1
    )
    checkpoint_activations: str = setting(
        "auto",
        "layers keep their inputs alone and are forwarded again in the backward pass: a fraction of the memory, a third more time; auto: "
        "where memory asks for it",
        choices=("auto", "always", "never"),
    )
    memory_limit: float | None = setting(None, "what the backend may use (default: what the machine lends)", unit="GiB", above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSpec:
    slices: tuple[str, ...] = setting(
        (),
        "what the report is sliced by: columns, fields, `tier`, `length` (quartiles of the text's), or expressions over them such as "
        "`year >= 2020`, `quartile(views)`, `'fire' in text`",
    )
    bootstrap: int = setting(1000, "resamples behind each 95 % interval", low=100)
    baselines: bool = setting(True, "the most common answer, TF-IDF + linear model, and the untrained base, on the same rows")
    again: SourceSpec | None = setting(None, "the judge's answers to the same rows, asked again (same `id`): how far it agrees with itself")
    calibrate: str = setting(
        "auto",
        "how confidences are set right, on rows that were not learned. auto: whichever of these predicts best by cross-validation; "
        "temperature: one number a field; beta: three; isotonic: a staircase; none: as the student says them",
        choices=("auto", "none", "temperature", "beta", "isotonic"),
    )
    coverage: float | None = setting(
        None, "share of rows whose set of choices, or interval of a score, is to hold the judge's answer: 0.9", above=0, high=0.999
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteSpec:
    """Rows that someone wrote to try the student, each with a behaviour that is expected of it.

    What is expected stands in `expect`, for all rows, or in a column of that name: `same_answer` (as to the row that the column `of`
    names), `defer`, `refuse` (no answer, or deferred), `flag: NAME` (that flag is true), `answer` (the labels of the row's own columns).
    """

    source: SourceSpec = setting(meaning="the rows; they have the columns that the task's template names")
    expect: str | None = setting(None, "what is expected of every row (default: the column `expect`, else `answer`)")
    labels: dict[str, str] = setting(dict, "answer: field of the task: the column that its expected value stands in, where that is another")
    values: dict[str, str] = setting(dict, "answer: what a column's value means as the field's: {hateful: 'true', non-hateful: 'false'}")
    by: tuple[str, ...] = setting((), "columns; each of their values gets a row of its own: the functional test, the language")
    rows: int | None = setting(None, "so many rows, drawn evenly over `by` (default: all)", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessSpec:
    suites: tuple[str, ...] | None = setting(
        None, "changes that are made to test rows, by name: typos, truncated, ... (default: all that there are)"
    )
    rows: int = setting(100, "test rows that each of them is made of", low=1)
    seed: int = setting(0, "draws the rows and the changes", low=0)
    given: dict[str, SuiteSpec] = setting(dict, "suites of rows that are there already, under a name of your choice")
    max_flip_rate: float | None = setting(None, "a suite that is to change no answer and flips more than this share fails", low=0, high=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSpec:
    """One text with gaps, and what fills them in turn: answers are to be the same whatever does."""

    row: dict[str, str] = setting(meaning="the columns of the row, each a template: {text: 'Fire near {place}, {people} cannot leave'}")
    variants: dict[str, tuple[str, ...]] = setting(meaning="what fills each gap: {place: [a wealthy Athens neighbourhood, a village]}")

    def problems(self) -> Iterator[Problem]:
        for gap, fillings in self.variants.items():
            if len(fillings) < 2:
                yield f"variants.{gap}", "what is compared needs at least two variants", f"{gap}: [one, other]"
            if not any(f"{{{gap}}}" in template for template in self.row.values()):
                yield f"variants.{gap}", f"no template of the row has the gap {{{gap}}}", None
        if not self.variants:
            yield "variants", "a scenario needs at least one gap", "variants: {place: [one, other]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessSpec:
    scenarios: dict[str, ScenarioSpec] = setting(dict, "counterfactuals, under a name of your choice")
    groups: tuple[str, ...] = setting((), "columns of the labelled rows; accuracy and error rates of their values are compared")
    max_gap: float = setting(0.1, "largest difference that passes, of groups as of variants: a share; for a score, of its range", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkSpec:
    kind: str = setting(meaning="the public format", choices=("mmlu", "bbh", "truthfulqa", "humaneval"))
    path: str = setting(meaning="its file; relative to the recipe")
    floor: float | None = setting(
        None, "least share of right answers (default: MMLU 0.6, BBH 0.5, TruthfulQA 0.5, HumanEval 0.3)", low=0, high=1
    )
    rows: int | None = setting(None, "so many rows, drawn evenly over the tasks (default: all)", low=1)
    shots: int = setting(0, "examples before each question, where the file has some to spare", low=0, high=8)
    run_code: bool = setting(False, "humaneval: run what the student writes, in a process of its own with limits; else it is not judged")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgettingSpec:
    """What the base could do, and the student still can: both answer the same general questions."""

    benchmarks: dict[str, BenchmarkSpec] = setting(meaning="general benchmarks, under a name of your choice")
    max_drop: float = setting(0.05, "the student may lose at most this share of right answers", low=0, high=1)
    seed: int = setting(0, "draws the rows", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSpec:
    show_texts: bool = setting(
        True, "false: no text of a row, and no text that was answered, stands in the report or in a bundle", key="texts"
    )
    worst: int = setting(20, "disagreements that are shown", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeferSpec:
    """A row of which the student is less sure than a threshold goes back to the judge, or to a person.

    The threshold is the lowest at which the rows that are kept are wrong in at most `max_error` of the cases, with certainty `level`,
    found on the rows of data.split.calibrate. Where no threshold can promise that, every row is deferred.
    """

    max_error: float = setting(meaning="share of the kept rows that may be wrong", above=0, high=1)
    level: float = setting(0.9, "how certain that has to be", above=0.5, high=0.9999)
    of: str | None = setting(
        None,
        "what is wrong: another `tier`, an `overall` that is further off than `within`, an `answer` with any closed field wrong, or one "
        "field by its name (default: the tier where there are tiers, the overall where there is one, else the answer)",
    )
    within: float = setting(1.0, "overall, and scores: points that they may be off", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetsSpec:
    """`accuracy.urgent: 0.9` and the like: any metric of the report. With one missed, the command ends with code 3."""

    defer: DeferSpec | None = setting(None, "hand back what the student is not sure enough of, with a guarantee for the rest")
    metrics: dict[str, float] = setting(dict, "metric: the value to reach", rest=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    name: str = setting(meaning="what the student is called")
    task: TaskSpec = setting(meaning="what to ask, and what an answer looks like")
    data: DataSpec = setting(meaning="labelled texts, and who sees which")
    base: BaseSpec = setting(meaning="the checkpoint that is taught")
    lora: LoraSpec | None = setting(LoraSpec, "the adapter; `none`: all weights are trained, of an unquantized base")
    train: TrainSpec = setting(TrainSpec, "the training")
    answer: str = setting(
        "json",
        "json: written field after field; slots: every score, choice and flag read at once, texts and lists written after them",
        choices=("json", "slots"),
    )
    evaluate: EvaluateSpec = setting(EvaluateSpec, "how the student is judged")
    robustness: RobustnessSpec | None = setting(None, "what becomes of its answers when texts are typed badly, cut, contradicted, ...")
    fairness: FairnessSpec | None = setting(None, "whether like cases get like answers, whoever they are about")
    forgetting: ForgettingSpec | None = setting(None, "what of the base's general ability is left")
    report: ReportSpec = setting(ReportSpec, "what the report shows")
    targets: TargetsSpec = setting(TargetsSpec, "what has to be reached")
