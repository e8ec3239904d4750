"""A power law found again in figures that follow one, its uncertainty, and words that say no more than it knows."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import curve_fit

from mlx_distill.evaluation.choosing.learning_curve import EXPONENTS, RECORD, Trained, _fitted, _luck, curve, fit, read_near
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.pages.leaflets import learning_curve as page
from mlx_distill.recipe.schema import FieldSpec

FLAG = {"high": FieldSpec(kind="flag")}
SIZES = (250, 500, 1000, 2000)


def judged(share, rows=400):
    """So many rows, of which the last are wrong: the same rows of every training are hard."""
    right = round(share * rows)
    return [Judged(id=f"r{i:04}", split="valid", reference={"high": True}, answer={"high": i < right}) for i in range(rows)]


def trainings(shares, sizes=SIZES, rows=400):
    return [Trained(n, 0, judged(share, rows)) for n, share in zip(sizes, shares, strict=True)]


def said(document, metric="accuracy", runs=()):
    return page.sentences({"metric": metric, "runs": list(runs), **document})


def law(a, b, c, sizes=SIZES):
    return np.array([[a + b * n**-c for n in sizes]])


# the fit


@pytest.mark.parametrize(("a", "b", "c"), [(0.1, 3.0, 0.5), (0.0, 1.5, 0.3), (0.25, 40.0, 1.0), (0.4, 900.0, 1.5), (0.3, -2.0, 0.5)])
def test_a_power_law_without_noise_is_found_again(a, b, c):
    found = fit(SIZES, law(a, b, c), np.ones(4))
    assert [float(part[0]) for part in (found.a, found.b, found.c)] == pytest.approx([a, b, c], rel=1e-6, abs=1e-9)
    assert found.at(8000)[0] == pytest.approx(a + b * 8000**-c)


def test_the_fit_is_that_of_scipy_with_the_same_weights_and_bounds():
    random = np.random.default_rng(0)
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    for _ in range(10):
        errors = law(0.15, 2.0, 0.45)[0] + random.normal(0, 0.004, size=4)
        found = fit(SIZES, errors[None], weights)
        bounds = ([0, -np.inf, EXPONENTS[0]], [np.inf, np.inf, EXPONENTS[-1]])
        start = {"p0": [0.1, 0.1, 0.5], "sigma": weights**-0.5, "bounds": bounds, "max_nfev": 20000}
        theirs, _ = curve_fit(lambda n, a, b, c: a + b * (n / 250) ** -c, SIZES, errors, **start)
        ours = found.at(np.array(SIZES, dtype=float))
        scipys = theirs[0] + theirs[1] * (np.array(SIZES) / 250) ** -theirs[2]
        left = [(weights * (errors - line) ** 2).sum() for line in (ours, scipys)]
        assert left[0] <= left[1] + 1e-7, "as good as scipy's, but for the grid's step"
        assert found.at(4000)[0] == pytest.approx(theirs[0] + theirs[1] * 16 ** -theirs[2], abs=0.001)


def test_no_law_has_an_error_below_0():
    found = fit(SIZES, np.array([[0.3, 0.2, 0.1, 0.0]]), np.ones(4))
    assert found.a[0] == 0.0
    assert found.at(1e9)[0] >= 0


def test_a_heavier_weight_draws_the_curve_to_its_point():
    errors = np.array([[0.4, 0.3, 0.2, 0.22, 0.10]])
    sizes = (100, 200, 400, 800, 1600)
    near = [abs(float(fit(sizes, errors, np.array([1.0, 1, 1, w, 1])).at(800)[0]) - 0.22) for w in (1, 100)]
    assert near[1] < near[0] / 10


def test_many_resamples_at_once_are_each_fitted_alone():
    errors = np.random.default_rng(1).random((30, 4))
    together = fit(SIZES, errors, np.ones(4))
    for i in range(30):
        alone = fit(SIZES, errors[i : i + 1], np.ones(4))
        assert (together.a[i], together.b[i], together.c[i]) == pytest.approx((alone.a[0], alone.b[0], alone.c[0]))


# what more labels would bring


def test_a_clear_law_says_what_twice_the_labels_bring():
    shares = [1 - (0.1 + 3 * n**-0.5) for n in SIZES]
    document = curve(trainings(shares, rows=2000), "accuracy", FLAG, bootstrap=400)
    double, fourfold = document["extrapolated"]
    assert (double["labels"], fourfold["labels"]) == (4000, 8000)
    assert double["gain"]["value"] == pytest.approx(3 * 2000**-0.5 - 3 * 4000**-0.5, abs=0.004)
    assert 0 < double["gain"]["low"] < double["gain"]["value"] < double["gain"]["high"]
    assert fourfold["gain"]["value"] > double["gain"]["value"]
    assert said(document)[0].startswith(
        "Twice the labels (4,000) would better accuracy by about 2.0 percentage points (1.3 to 2.7), to about 85.3 %."
    )


def test_of_an_error_the_metric_itself_is_the_law():
    sizes = (100, 200, 400, 800)
    trained = []
    for n in sizes:
        off = [round(10 * (0.5 + 20 / n) * i) / 10 % 3 for i in range(200)]
        rows = [Judged(id=f"r{i:03}", split="valid", reference={"risk": 5}, answer={"risk": 5 + gap}) for i, gap in enumerate(off)]
        trained.append(Trained(n, 0, rows))
    document = curve(trained, "dimension_mae", {"risk": FieldSpec(kind="score", step=0.1)}, bootstrap=200)
    for point, one in zip(document["points"], trained, strict=True):
        assert point["figure"]["value"] == pytest.approx(np.mean([abs(row.answer["risk"] - 5) for row in one.rows]))


def test_a_flat_curve_cannot_tell():
    document = curve(trainings([0.80, 0.81, 0.795, 0.805]), "accuracy", FLAG, bootstrap=400)
    gain = document["extrapolated"][0]["gain"]
    assert gain["low"] < 0 < gain["high"]
    assert said(document)[0].startswith("Whether twice the labels (4,000) would better accuracy cannot be told: by about ")


def test_a_curve_that_falls_says_that_more_would_not_help():
    document = curve(trainings([0.9, 0.8, 0.7, 0.6], rows=1500), "accuracy", FLAG, bootstrap=300)
    assert document["extrapolated"][0]["gain"]["high"] <= 0
    assert said(document)[0].startswith("Twice the labels (4,000) would not better accuracy: ")


def test_nothing_left_to_gain_says_so():
    document = curve(trainings([1.0, 1.0, 1.0, 1.0]), "accuracy", FLAG, bootstrap=100)
    assert said(document)[0] == "Twice the labels (4,000) would bring nothing that these rows can show."


def test_two_sizes_are_no_curve():
    document = curve(trainings([0.7, 0.8], sizes=(100, 200)), "accuracy", FLAG, bootstrap=100)
    assert (document["fit"], document["extrapolated"]) == (None, [])
    assert [point["figure"]["value"] for point in document["points"]] == [0.7, 0.8]
    assert said(document) == ["2 sizes are no curve: a law of three numbers takes three sizes or more."]
    assert page.render({"metric": "accuracy", "name": "x", "rows": 400, "runs": [], **document})


def test_a_training_without_a_figure_is_left_out():
    shares = [0.6, 0.7, 0.75, 0.78]
    trained = trainings(shares)
    trained[1] = Trained(500, 0, [Judged(id=row.id, split="valid", reference={}, answer=row.answer) for row in trained[1].rows])
    assert [point["labels"] for point in curve(trained, "accuracy", FLAG, bootstrap=100)["points"]] == [250, 1000, 2000]


# luck


def test_the_luck_of_a_training_by_hand():
    """Variances 0.0002 with 1 degree of freedom, 0.0001 with 2: together (0.0002 + 0.0002) / 3."""
    assert _luck([[0.5, 0.52], [0.6, 0.61, 0.62], [0.7]]) == pytest.approx(np.sqrt(0.0004 / 3))
    assert _luck([[0.5], [0.6]]) is None


def test_several_seeds_tell_the_luck_and_it_widens_the_interval():
    shares = [0.6, 0.7, 0.75, 0.78]
    calm, wild = (
        [
            Trained(n, seed, judged(share + d, 2000))
            for n, share in zip(SIZES, shares, strict=True)
            for seed, d in enumerate((-apart, apart))
        ]
        for apart in (0.001, 0.02)
    )
    narrow, wide = (curve(trained, "accuracy", FLAG, bootstrap=400) for trained in (calm, wild))
    assert wide["noise"] == {"value": pytest.approx(0.02 * np.sqrt(2), rel=0.02), "told_by": "seeds"}
    width = [one["extrapolated"][0]["gain"]["high"] - one["extrapolated"][0]["gain"]["low"] for one in (narrow, wide)]
    assert width[1] > 1.5 * width[0]
    assert "One training differs from the next by about 2.8 percentage points" in said(wide)[2]


def test_one_seed_and_as_many_sizes_as_the_law_has_numbers_leave_the_luck_unknown():
    document = curve(trainings([0.6, 0.7, 0.75], sizes=SIZES[:3]), "accuracy", FLAG, bootstrap=200)
    assert document["noise"] is None
    sentences = said(document)
    assert sentences[0].startswith("Twice the labels (2,000) may better accuracy")
    assert sentences[-1] == "How much luck is in one training is not known: add --seeds 2, or a size more."


def test_a_loss_is_a_law_without_rows():
    trained = [Trained(n, 0, judged(0.5), 0.2 + 5 * n**-0.5) for n in SIZES]
    document = curve(trained, None, FLAG, bootstrap=100)
    assert document["fit"] == {"floor": pytest.approx(0.2), "a": pytest.approx(0.2), "b": pytest.approx(5.0), "c": pytest.approx(0.5)}
    assert document["points"][0]["figure"]["low"] is None
    three = curve(trained[:3], None, FLAG, bootstrap=100)
    assert three["extrapolated"][0]["gain"]["low"] is None
    assert "how far that can be trusted is not known" in said(three, "valid_loss")[0]


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """60 curves of a known law, with luck of 0.01 in each training and 400 rows that judge: an interval that is honest holds it in 95 %."""
    truth, random, held = 2 * 2000**-0.5 - 2 * 4000**-0.5, np.random.default_rng(5), 0
    for _ in range(60):
        hard = random.random(400)
        trained = []
        for n in SIZES:
            error = 0.1 + 2 * n**-0.5 + random.normal(0, 0.01)
            wrong = np.where(random.random(400) < 0.7, hard < error, random.random(400) < error)
            rows = [Judged(id=f"{i}", split="v", reference={"high": True}, answer={"high": not off}) for i, off in enumerate(wrong)]
            trained.append(Trained(n, 0, rows))
        gain = curve(trained, "accuracy", FLAG, bootstrap=150)["extrapolated"][0]["gain"]
        held += gain["low"] <= truth <= gain["high"]
    assert held >= 52  # Binomial(60, 0.95) is below 52 in 0.7 % of the cases


# the page and the file


def test_the_page_has_every_figure_as_a_number_too():
    document = curve(trainings([0.6, 0.7, 0.75, 0.78]), "accuracy", FLAG, bootstrap=100)
    run = {"name": "<labels=250>", "labels": 250, "steps": 10, "valid_loss": 1.5, "error": None}
    html = page.render({"metric": "accuracy", "name": "<b>", "rows": 400, "runs": [run], **document})
    assert "<b>" not in html and "&lt;labels=250&gt;" in html
    for text in ("60.0\N{NO-BREAK SPACE}%", "70.0\N{NO-BREAK SPACE}%", "78.0\N{NO-BREAK SPACE}%", "4,000", "8,000", "foretold", "<svg"):
        assert text in html
    assert "http" not in html.split("<body>")[1].replace("http://www.w3.org", "")


def test_the_curve_of_a_run_is_found_in_its_folder(tmp_path: Path):
    assert read_near(tmp_path) is None
    folder = tmp_path / "learning-curve"
    folder.mkdir()
    (folder / RECORD).write_text(json.dumps({"extrapolated": [], "words": []}))
    assert read_near(tmp_path) is None, "one that is not done says nothing"
    (folder / RECORD).write_text(json.dumps({"extrapolated": [{"times": 2}], "words": ["Twice"]}))
    assert read_near(tmp_path) == {"extrapolated": [{"times": 2}], "words": ["Twice"]}
    (folder / RECORD).write_text("{")
    assert read_near(tmp_path) is None


def test_figures_that_follow_no_law_foretell_nothing_where_luck_is_not_known():
    """More labels, no less error, one run each: the best fit would say what chance says."""
    drawn = np.full((100, 3), 0.75)
    found = _fitted([40, 80, 160], np.array([0.785, 0.711, 0.785]), drawn, [[0.7], [0.7], [0.7]], "accuracy", 0)
    assert "lawless" in found and "extrapolated" not in found
    law = np.array([1 - (0.1 + 2 * n**-0.5) for n in (40, 80, 160)])
    found = _fitted([40, 80, 160], law, np.tile(law, (100, 1)), [[0.7]] * 3, "accuracy", 0)
    assert found["extrapolated"] and "lawless" not in found
