"""From events to the report's training section: what happened, once, and drawn where it happened."""

import re

import pytest

from mlx_distill.evaluation.pages import curves, plots
from mlx_distill.evaluation.pages.sections import training


def step(n, **fields):
    return {"name": "step", "step": n, "loss": 2.0 - n / 100, "learning_rate": 1e-3, **fields}


def validated(n, loss, best=True, **fields):
    return {"name": "validated", "step": n, "train_loss": 1.9, "valid_loss": loss, "best": best, **fields}


EVENTS = [
    *(step(n) for n in range(1, 20)),
    {"name": "skipped", "step": 20, "rows": ["r<1>", "r2"]},
    validated(20, 1.5, metrics={"mae.depth": 0.4}),
    {"name": "resumed", "step": 20},
    *(step(n) for n in range(21, 41)),
    validated(40, 1.6, best=False),
]


def document(events):
    return {"curve": curves.validations(events), "training": curves.steps(events)}


def test_the_document_has_each_step_once_and_the_kept_one():
    training = curves.steps([*EVENTS, step(40, loss=9.0), validated(40, 1.4, best=True)])
    assert [point["step"] for point in training["steps"]] == [n for n in range(1, 41) if n != 20]
    assert training["steps"][-1]["loss"] == 9.0, "of a step done twice, the last"
    assert training["skipped"] == [{"step": 20, "rows": ["r<1>", "r2"]}]
    assert (training["resumed"], training["kept"]) == ([20], 40)


def test_a_validation_has_its_losses_metrics_and_learning_rate():
    first, second = curves.validations(EVENTS)
    assert first == {"step": 20, "train_loss": 1.9, "valid_loss": 1.5, "learning_rate": None, "best": True, "metrics": {"mae.depth": 0.4}}
    assert (second["learning_rate"], second["best"], second["metrics"]) == (1e-3, False, {})


def test_a_long_training_is_thinned_and_keeps_its_ends_and_its_mean():
    points = curves.steps([step(n, loss=float(n % 7)) for n in range(1, 100_001)])["steps"]
    assert len(points) == curves.MOST
    assert points[-1]["step"] == 100_000
    assert sum(point["loss"] for point in points) / len(points) == pytest.approx(3.0, abs=0.01)


def test_without_events_there_is_no_section():
    assert training.render(document([])) == ""
    assert training.render({"curve": []}) == "", "a report of before"


def test_the_plots_show_what_happened_and_say_it_in_words():
    html = training.render(document(EVENTS))
    for kind in ("curve raw", "curve other", "curve main", "mark resumed", "mark skipped", "ring kept"):
        assert html.count(f'class="{kind}"') >= 1, kind
    assert html.count('role="img"') == html.count("aria-label=", 0, html.index("<details>")) == 2
    labels = re.findall(r'aria-label="([^"]*)"', html)
    assert labels[0].startswith("Loss by step: training loss from 1.990 to ")
    assert "Resumed after step 20." in labels[0] and "kept" in labels[0]
    assert "step 20; their rows: r&lt;1&gt;, r2" in html
    assert "<script" not in html and "r<1>" not in html
    assert "20, kept" in html and "mae.<wbr>" not in html and "0.4000" in html


def test_nothing_is_drawn_outside_of_its_axes_however_wild_the_losses():
    events = [step(n, loss=1e6 if n == 5 else 1.0 + n / 1000) for n in range(1, 60)]
    html = training.render(document(events))
    losses = html[: html.index("</svg>")]
    places = [float(y) for points in re.findall(r'points="([^"]*)"', losses) for y in re.findall(r",([\d.-]+)", points)]
    assert "0 0 720 300" in losses
    assert min(places) == 34 and max(places) <= 300 - 54


@pytest.mark.parametrize("events", [[step(1)], [validated(1, 0.5)], [step(1, loss=None), step(2)], [step(1), step(2, learning_rate=0.0)]])
def test_the_shortest_trainings_are_drawn(events):
    html = training.render(document(events))
    assert "nan" not in html and "None" not in html
    assert "<svg" in html


def test_ticks_are_round_and_within_the_axis():
    for low, high in ((0.0, 1e-5), (0.93, 0.931), (-3.0, 1e4), (1, 2)):
        found = plots.ticks(low, high, 4)
        assert 2 <= len(found) <= 8
        assert low <= found[0] and found[-1] <= high
