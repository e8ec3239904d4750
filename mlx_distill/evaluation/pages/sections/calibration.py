"""Whether the student is as sure as it is right, before and after its confidence was set right: a diagram and figures for each field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics

Doc = Mapping[str, Any]
NOTE = (
    "Each dot holds the rows with about the same confidence: across, how sure the student was; up, how often it was right. On the dashed "
    "line both agree; below it, the student is too sure of itself."
)
BEHIND = " The thin line behind is what the student said itself, before its confidence was set right on other rows."
FIGURES = {"ece": "calibration error", "ece_mass": "the same, bins of equal mass", "brier": "Brier score", "crps": "CRPS"}
WORDS = {"ok": "✓ as sure as it is right", "warn": "not quite as sure as it is right", "fail": "✗ more off than the recipe allows"}
CSS = {"ok": "good", "warn": "small", "fail": "bad"}


def render(document: Doc) -> str:
    if found := document.get("calibration"):
        fields = "".join(_field(name, entry, found["split"]) for name, entry in found["fields"].items())
        return f'<p class="note">{NOTE}{BEHIND}</p>{fields}'
    diagrams = "".join(_diagram(name, bins, figure) for name, bins, figure in _known(document))
    return f'<p class="note">{NOTE}</p><div class="squares">{diagrams}</div>' if diagrams else ""


def markdown(document: Doc) -> str:
    if found := document.get("calibration"):
        head = ["field", "set right by", "calibration error before", "after", "95 %", "n", "verdict"]
        return grid(head, [_line(name, entry) for name, entry in found["fields"].items()])
    rows = [
        [cell(name), metrics.value("ece", figure), metrics.spread("ece", figure), metrics.counted(figure["n"])]
        for name, _, figure in _known(document)
    ]
    return grid(["field", "calibration error", "95 %", "n"], rows)


def _line(name: str, entry: Doc) -> list[str]:
    before, after = entry["before"]["ece"], entry["after"]["ece"]
    figures = [metrics.value("ece", before), metrics.value("ece", after), metrics.spread("ece", after), metrics.counted(after["n"])]
    return [cell(name), cell(entry["method"]), *figures, cell(WORDS.get(entry["verdict"], "–"))]


# A field with maps of its confidence


def _field(name: str, entry: Doc, split: str | None) -> str:
    bins = entry["after"]["bins"]
    words = "; ".join(f"says {metrics.percent(e['confidence'])}, right {metrics.percent(e['accuracy'])} ({e['n']} rows)" for e in bins)
    behind = [(e["confidence"], e["accuracy"]) for e in entry["before"]["bins"]]
    drawn = plots.reliability([(e["confidence"], e["accuracy"], e["n"]) for e in bins], f"Confidence of {name}: {words}", before=behind)
    verdict = f'<span class="{CSS[entry["verdict"]]}">{WORDS[entry["verdict"]]}</span>' if entry["verdict"] else ""
    return (
        f'<h3>{bdi(name)} {verdict}</h3><p class="note">{esc(_how(entry, split))}</p><div class="pair"><figure>{drawn}</figure>'
        f"<div>{_figures(entry)}{_intervals(entry)}{_bins(bins)}</div></div>"
    )


def _how(entry: Doc, split: str | None) -> str:
    if entry["method"] in (None, "none"):
        why = f": {entry['why']}" if entry.get("why") else ": no map predicts better which answers are right"
        return f"Confidence is as the student says it{why}."
    return f"Set right by {_method(entry['method'], entry['parameters'])}, found on {metrics.counted(entry.get('n'))} rows ({split})."


def _method(method: str, parameters: Doc | None) -> str:
    """
    >>> _method("temperature", {"temperature": 2.468})
    'a temperature of 2.47'
    """
    temperature = f"{(parameters or {}).get('temperature', 1.0):.2f}"
    if method == "temperature":
        return f"a temperature of {temperature}"
    name = {"beta": "beta calibration", "isotonic": "isotonic regression"}[method]
    return f"{name}, after a temperature of {temperature}" if temperature != "1.00" else name


def _figures(entry: Doc) -> str:
    before, after = entry["before"], entry["after"]
    rows = [
        row(
            words,
            [
                ("number", metrics.value(name, before[name])),
                ("number", metrics.value(name, after[name])),
                ("range", metrics.spread(name, after[name])),
            ],
        )
        for name, words in FIGURES.items()
        if after[name]
    ]
    return table(["", "before", "after", "95 %"], rows, "Lower is better")


def _bins(bins: Sequence[Doc]) -> str:
    rows = [
        row(
            f"{entry['low']:.1f}–{entry['high']:.1f}",
            [
                ("number", metrics.percent(entry["confidence"])),
                ("number", metrics.percent(entry["accuracy"])),
                ("range", " to ".join(metrics.percent(end).removesuffix(" %") for end in entry["interval"])),
                ("number", metrics.counted(entry["n"])),
            ],
        )
        for entry in bins
    ]
    return f"<details><summary>The diagram in numbers</summary>{table(['confidence', 'says', 'is right', '95 %', 'n'], rows)}</details>"


def _intervals(entry: Doc) -> str:
    """Of a score: what its central intervals say that they hold, and what they hold."""
    rows = [
        row(
            f"middle {one['level'] * 100:.0f} %",
            [("number", metrics.percent(one["says"])), ("number", metrics.percent(one["held"]["value"])), ("range", _ends(one["held"]))],
        )
        for one in entry["after"]["coverage"] or ()
    ]
    caption = "The middle of its distribution: how much it says lies there, and how often the judge’s score does"
    return table(["", "says", "holds", "95 %"], rows, caption) if rows else ""


def _ends(figure: Doc) -> str:
    return " to ".join(metrics.percent(figure[end]).removesuffix(" %") for end in ("low", "high"))


# Where nothing was fitted: the figures of the metrics alone


def _known(document: Doc) -> Iterator[tuple[str, list[Doc], Doc]]:
    for name, bins in document["reliability"].items():
        known = [entry for entry in bins if entry["n"]]
        figure = document["metrics"].get(f"ece.{name}")
        if known and figure is not None:
            yield name, known, figure


def _diagram(name: str, bins: list[Doc], figure: Doc) -> str:
    words = "; ".join(f"says {metrics.percent(e['confidence'])}, right {metrics.percent(e['right'])} ({e['n']} rows)" for e in bins)
    drawn = plots.reliability([(e["confidence"], e["right"], e["n"]) for e in bins], f"Confidence of {name}: {words}")
    rows = [
        row(
            f"{entry['low']:.1f}–{entry['high']:.1f}",
            [("number", metrics.percent(entry["confidence"])), ("number", metrics.percent(entry["right"])), ("number", f"{entry['n']:,}")],
        )
        for entry in bins
    ]
    error = f"calibration error {metrics.value('ece', figure)} ({metrics.spread('ece', figure)})"
    return (
        f"<figure><figcaption><b>{bdi(name)}</b><br><span class='small'>{error}</span></figcaption>{drawn}"
        f"{table(['confidence', 'says', 'is right', 'n'], rows)}</figure>"
    )
