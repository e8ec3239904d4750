"""Two or more students on the same rows: paired differences, which of them are clear, and the rows that they see most differently.

    compare(sides)     a plain document: figures, differences with interval and p value, cost, rows, words

Rows are paired by id over those that every side has. Where K metrics of P pairs of sides are held against each other, that is K * P chances
of a difference by accident: p values of the metrics that are shown are adjusted for that (Holm, "A Simple Sequentially Rejective Multiple
Test Procedure", Scandinavian Journal of Statistics 6, 1979), all others stand as they are and are marked so. It knows judged rows; no run,
no file.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlx_distill.evaluation import bootstrap as boot
from mlx_distill.evaluation import judge
from mlx_distill.evaluation.choosing.pairing import Side, common_fields, paired, within
from mlx_distill.evaluation.distance import distance
from mlx_distill.evaluation.judge import Fields, Judged
from mlx_distill.evaluation.metrics import CLOSED
from mlx_distill.recipe.schema import FieldSpec

VERSION = 1
ALPHA = 0.05
RESAMPLES = 10_000
RESOLUTION = 80
"""Resamples at least, and for each difference that is tested: the least p value, 2 / (resamples + 1), is to survive the adjustment."""
WEIGHTS = 200_000_000
"""Rows * resamples that more resolution may cost; more only where the recipe asks for it."""
DIFFER = 20
"""Rows shown that the sides see most differently."""
HEADS = ("accuracy", "dimension_mae", "overall_mae", "tier_agreement", "exact_match", "valid_json")
"""Metrics of the whole task that are shown; beside them one for each field, and those that targets name."""
MEANS = {"accuracy": "accuracy", "mae": "dimension_mae"}
"""Metric of a field: the mean of it over the fields, which of a single field is that field's own."""
ALIASES = {"score_mae": "overall_mae"}
"""What targets may call a metric that has another name here."""
BY_FIELD = {"choice": "accuracy", "flag": "accuracy", "score": "mae", "list": "list_f1"}


def compare(sides: Sequence[Side], *, bootstrap: int = boot.RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Raises DataError where they have no row or no field in common, or the judge's answers to a row differ."""
    notes: list[str] = []
    fields = common_fields(sides, notes)
    columns, ids = paired(sides, fields, notes)
    tallies = [judge.measure(judge.lay_out(rows, fields, sides[0].tiers)) for rows in columns]
    names = _measured(tallies, fields, sides)
    tests = len(names["shown"]) * len(sides) * (len(sides) - 1) // 2
    resamples = max(bootstrap, min(max(RESAMPLES, RESOLUTION * tests), WEIGHTS // len(ids)))
    metrics = _held_together(sides, tallies, [*names["shown"], *names["more"]], resamples, seed)
    _adjust([pair for name in names["shown"] for pair in metrics[name]["pairs"]])
    for entry in metrics.values():
        entry |= _standing(entry)
    main = judge.main_metric(fields, tallies[0])
    return {
        "version": VERSION,
        "runs": [_run(side, len(ids)) for side in sides],
        "rows": len(ids),
        "fields": {name: {"kind": spec.kind} for name, spec in fields.items()},
        "main": main if main in names["shown"] else None,
        "metrics": {name: metrics[name] for name in names["shown"]},
        "more": {name: metrics[name] for name in names["more"]},
        "comparisons": tests,
        "bootstrap": resamples,
        "differ": differing(columns, [side.name for side in sides], fields, texts=all(side.texts for side in sides)),
        "notes": notes,
    }


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values in the order given: the smallest times their number, the next times one less, and so on, never falling, at most 1.

    >>> [round(value, 9) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, least = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        least = max(least, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = least
    return adjusted


def differing(
    columns: Sequence[Sequence[Judged]], names: Sequence[str], fields: Fields, *, texts: bool = True, most: int = DIFFER
) -> list[dict[str, Any]]:
    """The rows at which the best and the worst of the sides are furthest apart, first those.

    How far a side is off at a row: the mean over the closed fields that the judge answered of 0 (right) to 1 (wrong; of a score, the whole
    range). `texts` False leaves out what was written in open fields.
    """
    found = []
    for rows in zip(*columns, strict=True):
        off = [_off(row, fields) for row in rows]
        if max(off) > min(off):
            found.append((max(off) - min(off), rows, off))
    found.sort(key=lambda entry: (-entry[0], entry[1][0].id))
    shown = {name: spec for name, spec in fields.items() if texts or spec.kind in CLOSED}
    return [
        {
            "id": rows[0].id,
            "apart": apart,
            "reference": within(rows[0].reference, shown),
            "sides": {
                name: {
                    "answer": None if row.answer is None else within(row.answer, shown),
                    "off": one,
                    "overall": row.overall,
                    "tier": row.tier,
                }
                for name, row, one in zip(names, rows, off, strict=True)
            },
        }
        for apart, rows, off in found[:most]
    ]


def better(metric: str) -> str | None:
    """higher, lower, zero (the nearer to it the better); None of a metric that is neither good nor bad."""
    found = judge.metric(metric).BETTER
    return found if found in ("higher", "lower", "zero") else None


def _measured(tallies: Sequence[Mapping[str, Any]], fields: Fields, sides: Sequence[Side]) -> dict[str, list[str]]:
    """Metrics that all sides have: `shown`, whose p values are adjusted, and `more`. A mere count, better neither high nor low, is none."""
    common = [name for name in tallies[0] if all(name in other for other in tallies) and better(name)]
    by_field = [f"{BY_FIELD[spec.kind]}.{name}" for name, spec in fields.items() if spec.kind in BY_FIELD]
    often = Counter(name.partition(".")[0] for name in by_field)
    same = {name for name in by_field if often[name.partition(".")[0]] == 1 and MEANS.get(name.partition(".")[0]) in common}
    targets = [ALIASES.get(name, name) for side in sides for name in side.targets]
    shown = [name for name in dict.fromkeys([*HEADS, *by_field, *targets]) if name in common and name not in same]
    return {"shown": shown, "more": [name for name in common if name not in {*shown, *same} and not judge.is_alias(name)]}


def _held_together(
    sides: Sequence[Side], tallies: Sequence[Mapping[str, Any]], names: Sequence[str], resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Of each metric every side's figure, and the paired difference of every two sides, on the same resamples."""
    taken = [{name: tally[name] for name in names} for tally in tallies]
    own = [boot.figures(tally, bootstrap=resamples, seed=seed) for tally in taken]
    found: dict[str, dict[str, Any]] = {
        name: {"better": better(name), "figures": {side.name: figures[name] for side, figures in zip(sides, own, strict=True)}, "pairs": []}
        for name in names
    }
    for i, j in itertools.combinations(range(len(sides)), 2):
        _, gaps = boot.paired(taken[i], taken[j], bootstrap=resamples, seed=seed)
        for name, gap in gaps.items():
            found[name]["pairs"].append({"first": sides[i].name, "second": sides[j].name, **gap, "p_adjusted": None})
    return found


def _adjust(pairs: Sequence[dict[str, Any]]) -> None:
    known = [pair for pair in pairs if pair["p"] is not None]
    for pair, adjusted in zip(known, holm([pair["p"] for pair in known]), strict=True):
        pair["p_adjusted"] = adjusted


def _standing(entry: Mapping[str, Any]) -> dict[str, Any]:
    """`best` by the figure; `level`: those that are not clearly worse than it; `standing` of the best against all others.

    clear: no interval of a difference holds 0, and no adjusted p value is above 0.05. weak: the intervals say so, the adjusted p values do
    not (or there are none). level: an interval holds 0.
    """
    known = {name: figure["value"] for name, figure in entry["figures"].items() if figure["value"] is not None}
    if len(known) < 2:
        return {"best": None, "standing": "level", "level": list(known)}
    goodness: dict[str, Callable[[float], float]] = {
        "higher": lambda value: value,
        "lower": lambda value: -value,
        "zero": lambda value: -abs(value),
    }
    best = max(known, key=lambda name: goodness[entry["better"]](known[name]))
    found = {}
    for pair in entry["pairs"]:
        if best in (pair["first"], pair["second"]):
            other = pair["second"] if pair["first"] == best else pair["first"]
            found[other] = _clarity(pair)
    level = [name for name, clarity in found.items() if clarity == "level"]
    weak = "weak" in found.values()
    return {"best": best, "standing": "level" if level else "weak" if weak else "clear", "level": level}


def _clarity(pair: Mapping[str, Any]) -> str:
    low, high = pair["low"], pair["high"]
    if low is None or high is None or low <= 0 <= high:
        return "level"
    return "clear" if pair["p_adjusted"] is not None and pair["p_adjusted"] <= ALPHA else "weak"


def _off(row: Judged, fields: Fields) -> float:
    """0 to 1; 0 for a row without a label in a closed field."""
    gaps = [distance(row.reference[name], (row.answer or {}).get(name), spec) for name, spec in fields.items() if _counts(name, spec, row)]
    return sum(gaps) / len(gaps) if gaps else 0.0


def _counts(name: str, spec: FieldSpec, row: Judged) -> bool:
    return spec.kind in CLOSED and name in row.reference


def _run(side: Side, common: int) -> dict[str, Any]:
    return {"name": side.name, "file": side.file, "rows": len(side.rows), "alone": len(side.rows) - common, "cost": dict(side.cost)}
