"""How a training went, out of its events: what the report draws of it.

    validations(events)     the document's `curve`: a point each time the student was validated
    steps(events)           the document's `training`: every step's loss and learning rate, and where something happened

A long training is thinned to what a page can show. It knows the events' fields, no file and no plot.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_distill.observe.trend import smoothed, span_for

MOST = 600
"""Points of a curve: more than a screen has columns for it."""

Told = Sequence[Mapping[str, Any]]


def validations(events: Told) -> list[dict[str, Any]]:
    """{step, train_loss, valid_loss, learning_rate, best, metrics}, a step once: of one that was done twice, after a kill, the last."""
    rates = {event["step"]: event.get("learning_rate") for event in events if event["name"] == "step"}
    found = {event["step"]: event for event in events if event["name"] == "validated"}
    return [
        {
            "step": step,
            "train_loss": event.get("train_loss"),
            "valid_loss": event.get("valid_loss"),
            "learning_rate": rates.get(step),
            "best": bool(event.get("best")),
            "metrics": dict(event.get("metrics") or {}),
        }
        for step, event in sorted(found.items())
    ]


def steps(events: Told) -> dict[str, Any]:
    """{steps: [{step, loss, smoothed, learning_rate}], skipped: [{step, rows}], resumed: [step], kept: step or None}.

    `loss` is the mean over the steps that a point stands for, `smoothed` the moving average at its last one.
    """
    learned = {event["step"]: event for event in events if event["name"] == "step" and event.get("loss") is not None}
    order = sorted(learned)
    losses = [learned[step]["loss"] for step in order]
    curve = smoothed(losses, span_for(len(losses)))
    best = [event["step"] for event in events if event["name"] == "validated" and event.get("best")]
    skipped = {event["step"]: event.get("rows") or [] for event in events if event["name"] == "skipped"}
    return {
        "steps": [
            {
                "step": order[end - 1],
                "loss": sum(losses[start:end]) / (end - start),
                "smoothed": curve[end - 1],
                "learning_rate": learned[order[end - 1]].get("learning_rate"),
            }
            for start, end in _runs(len(order))
        ],
        "skipped": [{"step": step, "rows": list(rows)} for step, rows in sorted(skipped.items()) if step not in learned],
        "resumed": sorted({event["step"] for event in events if event["name"] == "resumed"}),
        "kept": best[-1] if best else None,
    }


def _runs(count: int) -> list[tuple[int, int]]:
    """`count` steps in at most MOST runs of like length."""
    number = min(MOST, count)
    edges = [i * count // number for i in range(number + 1)] if number else []
    return list(itertools.pairwise(edges))
