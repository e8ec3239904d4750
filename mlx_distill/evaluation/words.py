"""Figures and verdicts in a person's words: what a metric is called, how a number is written, what the report says first.

    amount(metric, value)     "72.0 %"
    summary(document)         the verdict in plain sentences, from report.json's document alone

It knows metrics by name; it computes no figure and writes no HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_distill.evaluation import judge

DIGITS = {"share": 1, "points": 2, "times": 2, "characters": 0}
"""Decimals by how a unit begins; others have three."""
PEOPLE = ("Cohen", "Spearman", "Brier")
NAMES = {"majority": "the most common answer", "tfidf": "TF-IDF + linear model", "untrained": "the untrained base"}


def amount(metric: str, value: float | None, *, signed: bool = False) -> str:
    """A figure as a person reads it: a share as percent, everything else with the decimals of its unit. A bias always has its sign.

    >>> amount("accuracy", 0.7204), amount("mae.risk", 0.5, signed=True), amount("nll", None), amount("bias.risk", 0.5)
    ('72.0 %', '+0.50', '–', '+0.50')
    """
    if value is None:
        return "–"
    unit = judge.metric(metric).UNIT
    plus = "+" if signed or judge.best_at_zero(metric) else ""
    digits = next((digits for word, digits in DIGITS.items() if unit.startswith(word)), 3)
    number = f"{value * 100 if unit.startswith('share') else value:{plus}.{digits}f}".replace("-", "−")
    return f"{number} %" if unit.startswith("share") and not signed else number


def title(metric: str) -> str:
    """A metric's name for a person.

    >>> title("macro_f1.source"), title("overall_within_0.5")
    ('Macro-F1 of source', 'Overall within 0.5 points')
    """
    family, field = judge.parts(metric)
    own = str(judge.metric(family).TITLE).format(family.rpartition("_")[2])
    return own + (f" of {field}" if field is not None else "")


def lower(metric: str) -> str:
    """`title` within a sentence: "accuracy", but "F1" and "Cohen's κ".

    >>> lower("accuracy"), lower("list_f1.tags"), lower("cohen_kappa.kind")
    ('accuracy', 'F1 of lists of tags', "Cohen's κ of kind")
    """
    words = title(metric)
    return words[0].lower() + words[1:] if words[1:2].islower() and not words.startswith(PEOPLE) else words


def interval(metric: str, figure: Mapping[str, Any]) -> str:
    """ "64.1 to 68.9", in the figure's own unit."""
    low, high = (amount(metric, figure[end]).removesuffix(" %") for end in ("low", "high"))
    return f"{low} to {high}"


def standing(metric: str, difference: Mapping[str, Any]) -> str:
    """better, worse or level: level where the interval of the difference holds 0, and by what makes no student better."""
    low, high = difference["low"], difference["high"]
    if not judge.ranks(metric) or low is None or high is None or low <= 0 <= high:
        return "level"
    return "better" if (high < 0) == judge.lower_is_better(metric) else "worse"


def summary(document: Mapping[str, Any]) -> list[str]:
    """The verdict in plain sentences, the first of them short."""
    against = [_against(name, baseline["difference"], document["fields"]) for name, baseline in document["baselines"].items()]
    return [_verdict(document), _agreement(document), *filter(None, against)]


def _verdict(document: Mapping[str, Any]) -> str:
    targets = document["targets"]
    missed = [name for name, target in targets.items() if not target["met"]]
    exceeded = document["verdict"] == "missed" and not missed  # a part's own limit: see `short.beside`
    if not targets:
        kept = "No targets were set." if document["verdict"] == "none" else "Every limit of the recipe is kept."
        return "Not every limit of the recipe is kept." if exceeded else kept
    if not missed:
        met = "The target is met" if len(targets) == 1 else f"All {len(targets)} targets are met"
        return f"{met}, but not every limit of the recipe is kept." if exceeded else f"{met}."
    names = ", ".join(map(lower, missed)) if len(missed) <= 3 else ""
    count = "The target is" if len(targets) == 1 else f"{len(missed)} of {len(targets)} targets {_be(missed)}"
    return f"{count} missed{': ' if names else ''}{names}."


def _agreement(document: Mapping[str, Any]) -> str:
    """How far the student agrees, by the task's main metric."""
    main, rows = document["main"], document["rows"]
    if main is None or not rows:
        return "No row has a label to judge it by."
    found = document["metrics"][main]
    value = f"{amount(main, found['value'])} (95 % interval {interval(main, found)}, n = {found['n']})"
    names = [name for name, field in document["fields"].items() if field["kind"] in ("choice", "flag")]
    learned = document.get("learned", 0)
    where = f"On rows of which {learned} have the id of one that it learned from" if learned else "On rows that it never learned from"
    where = "On these rows, of which it is not known what it learned from" if learned is None else where
    if main == "accuracy" and names:
        over = f", averaged over {len(names)} fields" if len(names) > 1 else f" on {names[0]}"
        return f"{where}, the student gives the judge's answer in {value}{over}."
    return f"{where}: {lower(main)} {value}."


def _against(name: str, difference: Mapping[str, Any], fields: Mapping[str, Any]) -> str | None:
    """One sentence on one baseline: where the student is better, worse, or not clearly either."""
    by: dict[str, list[str]] = {"better": [], "worse": [], "level": []}
    for field, shape in fields.items():
        if shape["headline"] in difference:
            by[standing(shape["headline"], difference[shape["headline"]])].append(field)
    count = sum(map(len, by.values()))
    words = {"better": "better in", "level": "no clear difference in", "worse": "worse in"}
    parts = [f"{words[kind]} {_fields(by[kind], count)}" for kind in words if by[kind]]
    return f"Against {NAMES.get(name, name)}: {'; '.join(parts)}." if parts else None


def _fields(names: Sequence[str], count: int) -> str:
    if len(names) == count and count > 1:
        return f"all {count} fields"
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} of {count} fields"


def _be(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"
