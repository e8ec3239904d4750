"""How the training went: losses, learning rate, and what happened on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, isolated, row, table

Doc = Mapping[str, Any]
Curve = list[tuple[int, float]]
NAMED = 8
"""Steps, or rows, that are named where something happened on the way."""


def render(document: Doc) -> str:
    """Losses and learning rate by step, what happened on the way, and the validations as a table."""
    training = document.get("training") or {}
    points, validated = training.get("steps", []), document["curve"]
    learned, valid = _losses(document)
    if not learned and not valid:
        return ""
    lines = [plots.Line("raw", [(point["step"], point["loss"]) for point in points], fits=False)] if points else []
    lines += [plots.Line("other", learned)] if learned else []
    lines += [plots.Line("main", valid, dots=True)] if valid else []
    ends = _ends(learned, valid)
    marks, words = _marks(training, dict(valid))
    drawn = plots.curves(lines, f"Loss by step: {ends}. {' '.join(words)}", marks=marks, axes=plots.Axes(across="step", up="nats a token"))
    said = f'<p class="note">{esc(" ".join(words))}</p>' if words else ""
    rates = [(point["step"], point["learning_rate"]) for point in points if point.get("learning_rate") is not None]
    return (
        f'<p class="note">Loss in nats a token, by step. {_keys(lines, marks)}</p>'
        f"{said}<figure>{drawn}</figure>{_rates(rates)}{_validations(validated, training.get('kept'))}"
    )


def markdown(document: Doc) -> str:
    learned, valid = _losses(document)
    if not learned and not valid:
        return ""
    _, words = _marks(document.get("training") or {}, dict(valid))
    return f"Loss in nats a token: {_ends(learned, valid)}. {' '.join(map(cell, words))}".rstrip() + "\n"


def _losses(document: Doc) -> tuple[Curve, Curve]:
    """Of training, and of validation, by step."""
    points, validated = (document.get("training") or {}).get("steps", []), document["curve"]
    valid = [(point["step"], point["valid_loss"]) for point in validated if point.get("valid_loss") is not None]
    learned = [(point["step"], point["smoothed"]) for point in points] or [
        (point["step"], point["train_loss"]) for point in validated if point.get("train_loss") is not None
    ]
    return learned, valid


def _ends(learned: Curve, valid: Curve) -> str:
    named = (("training", learned), ("validation", valid))
    return "; ".join(f"{name} loss from {line[0][1]:.3f} to {line[-1][1]:.3f}" for name, line in named if line)


def _marks(training: Doc, valid: Mapping[int, float]) -> tuple[list[plots.Mark], list[str]]:
    """What happened on the way, for the plot and in sentences."""
    resumed, skipped, kept = training.get("resumed", []), training.get("skipped", []), training.get("kept")
    marks = [plots.Mark("resumed", step, f"resumed after step {step:,}") for step in resumed]
    marks += [plots.Mark("skipped", entry["step"], f"step {entry['step']:,} skipped: rows {', '.join(entry['rows'])}") for entry in skipped]
    words = [f"Resumed after step {_numbers(resumed)}."] if resumed else []
    if skipped:
        rows = [isolated(row) for row in dict.fromkeys(row for entry in skipped for row in entry["rows"])]
        named = f"; their rows: {', '.join(rows[:NAMED])}{' and others' if len(rows) > NAMED else ''}" if rows else ""
        words.append(f"Skipped, because loss or gradient was not finite: step {_numbers([entry['step'] for entry in skipped])}{named}.")
    if kept is not None and kept in valid:
        marks.append(plots.Mark("kept", kept, f"kept: step {kept:,}, validation loss {valid[kept]:.3f}", valid[kept]))
        words.append(f"The adapter of step {kept:,} was kept, at a validation loss of {valid[kept]:.3f}.")
    return marks, words


def _numbers(steps: Sequence[int]) -> str:
    shown = ", ".join(f"{step:,}" for step in steps[:NAMED])
    return f"{shown} and {len(steps) - NAMED} more" if len(steps) > NAMED else shown


def _keys(lines: Sequence[plots.Line], marks: Sequence[plots.Mark]) -> str:
    names = {"raw": "training, each step", "other": "training, smoothed", "main": "validation"}
    names |= {"kept": "kept", "skipped": "skipped", "resumed": "resumed"}
    kinds = dict.fromkeys([*(line.kind for line in lines), *(mark.kind for mark in marks)])
    return " ".join(f'<span class="legend"><span class="key {kind}"></span>{names[kind]}</span>' for kind in kinds)


def _rates(rates: Sequence[tuple[int, float]]) -> str:
    if not rates:
        return ""
    most = max(rates, key=lambda point: point[1])
    alt = f"Learning rate by step: {most[1]:.3g} at most, at step {most[0]:,}; {rates[-1][1]:.3g} at the end"
    drawn = plots.curves([plots.Line("other", rates)], alt, height=130, low=0)
    return f'<figure><figcaption class="small">Learning rate, by step</figcaption>{drawn}</figure>'


def _validations(points: Sequence[Doc], kept: int | None) -> str:
    """For whoever cannot see the plot, or wants a figure."""
    metrics = list(dict.fromkeys(name for point in points for name in point.get("metrics") or {}))
    keys = ["train_loss", "valid_loss", *metrics]
    rows = [
        row(
            f"{point['step']:,}" + (", kept" if point["step"] == kept else ""),
            [
                *(("number", _short({**point, **(point.get("metrics") or {})}.get(key))) for key in keys),
                ("number", "–" if point.get("learning_rate") is None else f"{point['learning_rate']:.3g}"),
            ],
        )
        for point in points
    ]
    if not rows:
        return ""
    head = ["step", "training loss", "validation loss", *(bdi(name) for name in metrics), "learning rate"]
    return f"<details><summary>The {len(rows)} validations as a table</summary>{table(head, rows)}</details>"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
