"""Deferral with a guarantee: how sure a row must be, so that those that are kept are rarely wrong, and how certain that is.

    find(task, spec, fit, guarantee)         the threshold, and how it was found
    Outcomes.of(task, of, within, rows)      how sure each row is, and whether it is wrong

Learn then test (Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test", 2021), for the selective error of Geifman and El-Yaniv
("Selective Classification for Deep Neural Networks", 2017). For a threshold t the hypothesis is that of the rows with sure >= t more than
`max_error` are wrong. Given how many rows are kept, n, their errors are Binomial(n, error at t), so

    p = P(Binomial(n, max_error) <= errors)                 exact: p <= delta where Clopper and Pearson's upper bound is <= max_error

is no more often below delta = 1 - level than delta says, if the hypothesis is true. Thresholds are tested in an order that is fixed before
anything of the guarantee rows is looked at, each at delta, until the first that is not rejected ("fixed-sequence testing"): to promise
wrongly, the first true hypothesis of the order has to be rejected, and that one test errs with probability delta. So any number of
thresholds is searched at the price of one.

Where to begin decides the power. From the strictest on would be hopeless: so few rows are kept there that no number of errors rejects. To
begin at the first threshold that keeps enough of the guarantee rows is tempting and not free: the counts of several thresholds together
tell how the kept rows are mixed, and given them errors are Binomial no more (it would hold if error never fell with a lower threshold,
which nobody can promise). So the start is learned too, on the rows that fitted the maps: where their labels promise most, their number of
errors being uncertain as well (beta-binomial, Jeffreys). The guarantee rows are independent of it, and nothing is spent. A part of delta,
RESERVE, begins at a stricter threshold, so that one unlucky start is not the end of it; what it wins goes on to the next threshold (the
fallback procedure: Wiens, "A fixed sequence Bonferroni procedure", 2003; Wiens and Dmitrienko 2005; it holds for dependent tests).
Where there are too few rows to learn from, the order is a fixed grid with four STARTS, each with delta / 4.

A promise is about rows like the guarantee rows, drawn independently of each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_distill.evaluation.sheet import Judged
from mlx_distill.evaluation.tally import Bools, Floats, Rows
from mlx_distill.recipe.schema import DeferSpec, TaskSpec
from mlx_distill.task import deferral
from mlx_distill.task.confidence import Threshold

GRID = 100
"""Thresholds that are tried, besides 0."""
FEWEST = 30
"""Labelled rows from which grid and start are learned."""
STARTS = (0.5, 0.75, 0.9, 0.97)
"""Where a grid that is not learned is begun."""
RESERVE = 0.25
"""Share of delta that begins where a rejection is likeliest, whatever it keeps."""
OTHERS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
"""Errors that the report shows the price of, beside the one that was asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Rows that the judge has labelled. One without an answer is wrong, and as it is never kept, -1 sure."""

    sure: Floats
    wrong: Bools

    @classmethod
    def of(cls, task: TaskSpec, of: str, within: float, rows: Sequence[Judged]) -> Outcomes:
        """`rows` have calibrated confidences."""
        known = [(row, wrong) for row in rows if (wrong := is_wrong(task, of, within, row)) is not None]
        sure = [sure_of(task, of, within, row) for row, _ in known]
        return cls(
            np.array([-1.0 if one is None else one for one in sure], dtype=float), np.array([wrong for _, wrong in known], dtype=bool)
        )

    @property
    def n(self) -> int:
        return len(self.sure)

    def at(self, value: float | None) -> tuple[int, int]:
        """(rows that are kept, wrong ones among them) at a threshold. None keeps none."""
        if value is None:
            return 0, 0
        kept, errors = self.over(np.array([value]))
        return int(kept[0]), int(errors[0])

    def over(self, values: Floats) -> tuple[Rows, Rows]:
        """`at` each of several thresholds, (k,) and (k,). Rows that tie are kept together, or not at all."""
        order = np.argsort(self.sure, kind="stable")
        below = np.searchsorted(self.sure[order], values, side="left")
        errors = np.concatenate([[0], np.cumsum(self.wrong[order])])
        return self.n - below, errors[-1] - errors[below]


def is_wrong(task: TaskSpec, of: str, within: float, row: Judged) -> bool | None:
    """`task.deferral.wrong` of a row."""
    return deferral.wrong(
        task,
        of,
        within,
        reference=row.reference,
        answer=row.answer,
        reference_overall=row.reference_overall,
        reference_tier=row.reference_tier,
        overall=row.overall,
        tier=row.tier,
    )


def sure_of(task: TaskSpec, of: str, within: float, row: Judged) -> float | None:
    """`task.deferral.sure` of a row with calibrated confidences. None without an answer."""
    if row.answer is None:
        return None
    return deferral.sure(
        task,
        of,
        within,
        answer=row.answer,
        confidence=row.confidence,
        probabilities=row.probabilities,
        overall=row.overall,
        tier=row.tier,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is tested, in which order: fixed before the guarantee rows are looked at."""

    grid: Floats
    """Thresholds from the strictest down."""
    shares: Floats
    """(k,), summing to 1: how much of what may go wrong each threshold brings. Those with 0 are tested where the one before is rejected."""
    learned: bool

    @classmethod
    def of(cls, fit: Outcomes, guarantee: int, max_error: float, level: float) -> Plan:
        """`guarantee`: how many rows there will be to test on."""
        known = fit.sure[fit.sure >= 0]
        if len(known) < FEWEST:
            grid = np.linspace(1.0, 0.0, GRID + 1)
            starts = [int(np.argmin(np.abs(grid - start))) for start in STARTS]
            return cls(grid, _shares(len(grid), dict.fromkeys(starts, 1 / len(STARTS))), learned=False)
        steps = np.quantile(known, np.linspace(0.0, 1.0, GRID), method="lower")
        grid = np.unique(np.concatenate([[0.0], steps]))[::-1]
        kept, errors = fit.over(grid)
        reserve, main = (
            chances(kept, errors, guarantee / fit.n, max_error, 1.0 - part * (1.0 - level)) for part in (RESERVE, 1.0 - RESERVE)
        )
        # weighed with the root of what is kept: strict thresholds that rarely fail and keep next to nothing are no place to begin
        first, second = int(np.argmax(reserve)), int(np.argmax(main * np.sqrt(kept)))
        parts = {first: 1.0} if first == second else {first: RESERVE, second: 1.0 - RESERVE}
        return cls(grid, _shares(len(grid), parts), learned=True)


def _shares(thresholds: int, parts: Mapping[int, float]) -> Floats:
    shares = np.zeros(thresholds)
    shares[list(parts)] = list(parts.values())
    return shares


def chances(kept: Rows, errors: Rows, scale: float, max_error: float, level: float) -> Floats:
    """(k,): that each threshold is rejected, by its counts among the fit rows, where `scale` times as many rows are tried.

    >>> chances(np.array([100, 100, 20]), np.array([0, 10, 0]), 1.0, 0.05, 0.9).round(2).tolist()
    [0.88, 0.0, 0.0]
    """
    from scipy.stats import betabinom

    n = np.round(kept * scale).astype(int)
    most = most_errors(n, max_error, level)
    return np.asarray(np.where(most < 0, 0.0, betabinom.cdf(most, n, errors + 0.5, kept - errors + 0.5)), np.float64)


def most_errors(n: Rows, max_error: float, level: float) -> Rows:
    """Among n kept rows, so that a threshold is rejected; -1 where not even none would do.

    >>> most_errors(np.array([44, 45, 100]), 0.05, 0.9).tolist()
    [-1, 0, 1]
    """
    from scipy.stats import binom

    errors = binom.ppf(1.0 - level, n, max_error).astype(int)
    return np.asarray(np.where(binom.cdf(errors, n, max_error) <= 1.0 - level, errors, errors - 1), np.intp)


def p_values(kept: Rows, errors: Rows, max_error: float) -> Floats:
    """P(Binomial(kept, max_error) <= errors), of each threshold.

    >>> p_values(np.array([45, 0]), np.array([0, 0]), 0.05).round(4).tolist()  # 0.95 ** 45
    [0.0994, 1.0]
    """
    from scipy.stats import binom

    return np.asarray(binom.cdf(errors, kept, max_error), np.float64)


def search(plan: Plan, guarantee: Outcomes, max_error: float, level: float) -> float | None:
    """The lowest threshold that is rejected: at most `max_error` of what it keeps is wrong, with certainty `level`. None: there is none."""
    found, carried = None, 0.0
    for value, p, share in zip(plan.grid, p_values(*guarantee.over(plan.grid), max_error), plan.shares, strict=True):
        carried += share
        if carried and p <= carried * (1.0 - level):
            found = float(value)
        else:
            carried = 0.0
    return found


def find(task: TaskSpec, spec: DeferSpec, fit: Sequence[Judged], guarantee: Sequence[Judged]) -> tuple[Threshold, dict[str, Any]]:
    """The threshold, and how it was found. Both sets of rows have calibrated confidences; they share no row."""
    of = spec.of or deferral.default_of(task)
    learned, tried = (Outcomes.of(task, of, spec.within, rows) for rows in (fit, guarantee))
    plan = Plan.of(learned, tried.n, spec.max_error, spec.level)
    value = search(plan, tried, spec.max_error, spec.level)
    kept, errors = tried.at(value)
    facts = {
        "n": tried.n,
        "kept": kept,
        "errors": errors,
        "needed": needed(spec),
        "thresholds": len(plan.grid),
        "learned_on": learned.n if plan.learned else 0,
        "why": _why_none(tried, spec) if value is None else None,
        "others": _others(learned, tried, spec),
    }
    return Threshold(of=of, within=spec.within, max_error=spec.max_error, level=spec.level, value=value), facts


def _others(fit: Outcomes, guarantee: Outcomes, spec: DeferSpec) -> list[dict[str, Any]]:
    """What other promises would cost, each found as its own: one of them is certain, all of them together are not."""
    found = []
    for max_error in sorted({*OTHERS, spec.max_error}):
        plan = Plan.of(fit, guarantee.n, max_error, spec.level)
        found.append({"max_error": max_error, "value": search(plan, guarantee, max_error, spec.level)})
    return found


def _why_none(tried: Outcomes, spec: DeferSpec) -> str:
    if not tried.n:
        return "no labelled row was kept apart for it: data.split.calibrate"
    if tried.n < needed(spec):
        return f"{tried.n} rows are too few: even without any error it takes {needed(spec)}"
    errors = int(tried.wrong.sum())
    return f"it is wrong in {errors} of {tried.n} rows, and being surer does not make it right often enough to be certain of it"


def needed(spec: DeferSpec) -> int:
    """Kept rows, none of them wrong, that a promise takes at least.

    >>> needed(DeferSpec(max_error=0.05, level=0.9))
    45
    """
    return 1 if spec.max_error == 1 else math.ceil(math.log(1.0 - spec.level) / math.log1p(-spec.max_error) - 1e-9)
