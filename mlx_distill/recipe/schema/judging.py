"""How the student is judged: what is measured, under which strain, what it has to reach, and what the report shows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from mlx_distill.catalog import names, nearest
from mlx_distill.recipe.schema.data import SourceSpec
from mlx_distill.recipe.schema.setting import Problem, setting


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

    BEHAVIOURS: ClassVar[tuple[str, ...]] = ("answer", "same_answer", "defer", "refuse")
    FLAG: ClassVar[re.Pattern[str]] = re.compile(r"flag:\s*(\S.*)")

    def problems(self) -> Iterator[Problem]:
        if self.expect is not None and self.expect not in self.BEHAVIOURS and not self.FLAG.fullmatch(self.expect):
            yield "expect", f"{self.expect!r} is no behaviour", nearest(self.expect, [*self.BEHAVIOURS, "flag: NAME"])
        for part, given in (("labels", self.labels), ("values", self.values)):
            if given and self.expect not in (None, "answer"):
                yield part, f"what is expected of every row is {self.expect}, and no answer", "leave it out, or expect: answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessSpec:
    suites: tuple[str, ...] | None = setting(
        None, "changes that are made to test rows, by name: typos, truncated, ... (default: all that there are)"
    )
    rows: int = setting(100, "test rows that each of them is made of", low=1)
    seed: int = setting(0, "draws the rows and the changes", low=0)
    given: dict[str, SuiteSpec] = setting(dict, "suites of rows that are there already, under a name of your choice")
    max_flip_rate: float | None = setting(None, "a suite that is to change no answer and flips more than this share fails", low=0, high=1)

    def problems(self) -> Iterator[Problem]:
        known = names("evaluation.robustness")
        for i, name in enumerate(self.suites or ()):
            if name not in known:
                yield f"suites.{i}", f"there is no suite {name!r}", nearest(name, known)
        if self.suites == () and not self.given:
            yield "suites", "there is nothing to try", "leave suites out for all that there are, or leave robustness out"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioSpec:
    """One text with gaps, and what fills them in turn: answers are to be the same whatever does.

    What fills a gap is a template too, and may have gaps: a whole report in English and in Greek, each with the {age} of who is hurt.
    """

    row: dict[str, str] = setting(
        meaning="the columns of the row, each a template: {text: 'Fire near {place}, {people} cannot leave'}; {{ and }} are braces"
    )
    variants: dict[str, tuple[str, ...]] = setting(meaning="what fills each gap: {place: [a wealthy Athens neighbourhood, a village]}")

    GAP: ClassVar[re.Pattern[str]] = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")

    @classmethod
    def gaps(cls, template: str) -> list[str]:
        """
        >>> ScenarioSpec.gaps("{who} near {{{place}}}")
        ['who', 'place']
        """
        return [found[1] for found in cls.GAP.finditer(template) if found[1] is not None]

    def templates(self) -> Iterator[tuple[str, str]]:
        """(path, template) of the columns, then of the fillings."""
        yield from ((f"row.{column}", template) for column, template in self.row.items())
        yield from ((f"variants.{gap}.{i}", filling) for gap, fillings in self.variants.items() for i, filling in enumerate(fillings))

    def problems(self) -> Iterator[Problem]:
        if not self.row:
            yield "row", "a scenario needs a text", "row: {text: 'Fire near {place}'}"
        if not self.variants:
            yield "variants", "a scenario needs at least one gap", "variants: {place: [one, other]}"
        for gap, fillings in self.variants.items():
            if len(set(fillings)) < 2:
                yield f"variants.{gap}", "what is compared needs at least two variants", f"{gap}: [one, other]"
            elif twice := sorted({filling for filling in fillings if fillings.count(filling) > 1}):
                yield f"variants.{gap}", f"{twice[0]!r} stands there twice", None
        for path, template in self.templates():
            if set("{}") & set(self.GAP.sub("", template)):
                yield path, "a brace that is no {gap}", "write {{ or }} for a brace"
            for gap in self.gaps(template):
                if gap not in self.variants:
                    yield path, f"the gap {gap!r} has no variants", f"variants: {{{gap}: [one, other]}}; {{{{ and }}}} are braces"
        yield from self._reach_problems()

    def _reach_problems(self) -> Iterator[Problem]:
        """Gaps that no text comes to, and those that are filled with themselves."""
        within = {gap: {inner for filling in fillings for inner in self.gaps(filling)} for gap, fillings in self.variants.items()}
        reached = [gap for template in self.row.values() for gap in self.gaps(template)]
        for gap in reached:
            reached.extend(inner for inner in within.get(gap, ()) if inner not in reached)
        for gap in self.variants:
            if gap not in reached:
                yield f"variants.{gap}", f"no template of the row has the gap {{{gap}}}", None
            inner = list(within[gap])
            for other in inner:
                inner.extend(deeper for deeper in within.get(other, ()) if deeper not in inner)
            if gap in inner:
                yield f"variants.{gap}", "it is filled with itself", "a filling may have other gaps, not its own"


@dataclass(frozen=True, slots=True, kw_only=True)
class FairnessSpec:
    scenarios: dict[str, ScenarioSpec] = setting(dict, "counterfactuals, under a name of your choice")
    groups: tuple[str, ...] = setting((), "columns of the labelled rows; accuracy and error rates of their values are compared")
    max_gap: float = setting(
        0.1, "largest difference that passes, of groups as of variants: a share; for a score, of its range", low=0, high=1
    )

    def problems(self) -> Iterator[Problem]:
        if not self.scenarios and not self.groups:
            yield "", "there is nothing to compare", "name columns: groups: [language], or write scenarios"
        if twice := sorted({column for column in self.groups if self.groups.count(column) > 1}):
            yield "groups", f"{twice[0]!r} stands there twice", None


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

    SHOTS: ClassVar[tuple[str, ...]] = ("mmlu", "bbh")

    def problems(self) -> Iterator[Problem]:
        if self.run_code and self.kind != "humaneval":
            yield "run_code", f"{self.kind} has no code to run", "it is for humaneval"
        if self.shots and self.kind not in self.SHOTS:
            what = "always stands behind the same six solved questions" if self.kind == "truthfulqa" else "is asked without examples"
            yield "shots", f"{self.kind} {what}", f"leave it out; {' and '.join(self.SHOTS)} take shots"
        if not self.path:
            yield "path", "is empty", "name the benchmark's file"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgettingSpec:
    """What the base could do, and the student still can: both answer the same general questions."""

    benchmarks: dict[str, BenchmarkSpec] = setting(meaning="general benchmarks, under a name of your choice")
    max_drop: float = setting(0.05, "the student may lose at most this share of what its base answers rightly", low=0, high=1)
    seed: int = setting(0, "draws the rows", low=0)

    def problems(self) -> Iterator[Problem]:
        if not self.benchmarks:
            yield "benchmarks", "there is nothing to ask", "benchmarks: {mmlu: {kind: mmlu, path: mmlu_redux.csv}}"


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
