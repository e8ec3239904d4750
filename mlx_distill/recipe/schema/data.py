"""The labelled texts, and who sees which."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from mlx_distill.recipe.schema.setting import Problem, setting


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
class TakeSpec:
    """Learn from some of the rows that train, and be judged on the same rows as ever: how a learning curve is measured.

    Of one seed, the rows of a smaller number are among those of a larger one.
    """

    rows: int = setting(meaning="so many of the training rows, drawn by the hash of seed and id", low=1)
    seed: int = setting(0, "draws them", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    source: SourceSpec = setting(meaning="the labelled texts")
    split: SplitSpec = setting(SplitSpec, "who trains, who validates, who tests")
    take: TakeSpec | None = setting(None, "learn from some of the training rows only (default: all)")
    missing: tuple[str, ...] = setting((), "values that are no labels (an empty one never is)")
    max_bad_share: float = setting(0.01, "more bad rows than this, and the run stops with their list", low=0, high=1)
    replay: ReplaySpec | None = setting(None, "general data against forgetting")
    balance: BalanceSpec = setting(BalanceSpec, "what rare labels count")
