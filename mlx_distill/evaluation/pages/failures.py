"""Known failures of a student, a sentence each, out of every part of the report: what its user must not find out alone.

    named(document)     the gravest kinds first, at most `MOST` of them, and not more than `OF_A_KIND` of one kind

It knows what the parts of report.json hold; it computes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages.markup import isolated
from mlx_distill.evaluation.pages.sections import confusion
from mlx_distill.evaluation.words import amount, lower

Doc = Mapping[str, Any]
MOST, OF_A_KIND = 8, 3
OFTEN = 0.25
"""Share of a label's rows that are taken for one other label, or of a suite's answers that flip, from which on it is named."""
BIASED = 0.05
"""Share of a score's range by which it is off, in one direction, from which on that is named."""


def named(document: Doc) -> Iterator[str]:
    kinds = (_refused, _spoiled, _unfair, _forgotten, _slices, _unsure, _confused, _biased)
    return islice((sentence for kind in kinds for sentence in islice(kind(document), OF_A_KIND)), MOST)


def _refused(document: Doc) -> Iterator[str]:
    refused = (document.get("production") or {}).get("refused") or {"n": 0}
    if refused["n"]:
        yield f"It gave no valid answer to {refused['n']:,} of {document['rows']:,} rows."


def _spoiled(document: Doc) -> Iterator[str]:
    """Suites whose limit was missed, or, where there is no limit, that turn many answers; the worst by name."""
    found = document.get("robustness") or {"suites": {}, "given": {}}
    flips = [(suite["flips"]["any"]["value"], suite) for suite in found["suites"].values() if suite["n"] and not suite["doubt"]]
    bad = [(value, suite) for value, suite in flips if value is not None and (suite["verdict"] == "missed" or value >= OFTEN)]
    if bad:
        worst = sorted(bad, key=lambda pair: -pair[0])
        said = [f"{suite['title']} {_percent(value)}" for value, suite in worst[:OF_A_KIND]]
        more = f", and {len(bad) - OF_A_KIND} more" if len(bad) > OF_A_KIND else ""
        yield f"Changes to a text that should turn no answer do: {', '.join(said)}{more}."
    for name, suite in found["given"].items():
        if suite["verdict"] == "missed":
            yield f"{name}: only {_percent(suite['passed']['value'])} of these rows do what is expected of them."


def _unfair(document: Doc) -> Iterator[str]:
    """What was compared and differs by more than the recipe allows, or, of groups, may well."""
    found = document.get("fairness") or {"scenarios": {}, "groups": {}}
    for name, part in found["scenarios"].items():
        gaps = [gap for gap, entry in part["gaps"].items() if entry["verdict"] == "missed"]
        if gaps:
            yield f"In the scenario {isolated(name)}, answers change with {', '.join(gaps)}, which should change nothing."
    for name, part in found["groups"].items():
        if part["verdict"] == "missed":
            yield f"It is right more often about some values of {name} than about others."


def _forgotten(document: Doc) -> Iterator[str]:
    for entry in (document.get("forgetting") or {"benchmarks": {}})["benchmarks"].values():
        if entry["drop"]["verdict"] == "missed" and entry["base"] and entry["student"]:
            before, after = (_percent(entry[side]["value"]) for side in ("base", "student"))
            yield f"{entry['title']}: {after} right, where its base had {before}."
        elif entry["floor"]["verdict"] == "missed" and entry["student"]:
            yield f"{entry['title']}: {_percent(entry['student']['value'])} right, which is below the floor."


def _slices(document: Doc) -> Iterator[str]:
    """The worst of each slice: with enough rows, and clearly worse than all rows together."""
    main = document["main"]
    if main is None or document["metrics"][main]["value"] is None:
        return
    overall, sign = document["metrics"][main]["value"], 1 if judge.lower_is_better(main) else -1
    for column, entries in document["slices"].items():
        known = [(entry, entry["metrics"][main]) for entry in entries if not entry["small"] and main in entry["metrics"]]
        worse = [(entry, figure) for entry, figure in known if figure["low"] is not None and _clear(figure, overall, sign)]
        if worse:
            entry, figure = max(worse, key=lambda pair: sign * pair[1]["value"])
            value, ours, whole = isolated(entry["value"] or "(empty)"), amount(main, figure["value"]), amount(main, overall)
            yield f"Worst by {column}: {value}, {lower(main)} {ours} against {whole} (n = {entry['n']:,})."


def _clear(figure: Doc, overall: float, sign: int) -> bool:
    """The whole interval lies on the worse side of the value for all rows."""
    return bool(sign * (figure["low"] if sign > 0 else figure["high"]) > sign * overall)


def _unsure(document: Doc) -> Iterator[str]:
    """Fields whose confidence is off by more than is worth a warning."""
    found = document.get("calibration") or {"fields": {}}
    off = {name: own["after"]["ece"]["value"] for name, own in found["fields"].items() if own.get("verdict") in ("warn", "fail")}
    for name, error in sorted(off.items(), key=lambda item: -(item[1] or 0.0)):
        if error is not None:
            yield f"{name}: what it says of how sure it is, is off by {error * 100:.0f} points on average."


def _confused(document: Doc) -> Iterator[str]:
    pairs = [(name, pair) for name, counts in document["confusion"].items() if (pair := confusion.worst(counts)) and pair[2] >= OFTEN]
    for name, (label, other, share) in sorted(pairs, key=lambda item: -item[1][2]):
        yield f"{name}: of the rows that the judge calls “{isolated(label)}”, it calls {share * 100:.0f} % “{isolated(other)}”."


def _biased(document: Doc) -> Iterator[str]:
    for name, entry in document["scores"].items():
        shape = document["fields"][name]
        if entry["n"] >= judge.SMALL and abs(entry["bias"]) >= BIASED * (shape["max"] - shape["min"]):
            yield f"{name}: {abs(entry['bias']):.2f} points too {'high' if entry['bias'] > 0 else 'low'} on average."


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"
