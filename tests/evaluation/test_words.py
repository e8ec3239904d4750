"""Figures in words: names, units, and which of two students is better."""

import pytest

from mlx_distill.evaluation import words
from mlx_distill.evaluation.judge import metric_names
from mlx_distill.recipe.schema import FieldSpec

FIELDS = {
    "risk": FieldSpec(kind="score", weight=1.0),
    "kind": FieldSpec(kind="choice", choices=("a", "b")),
    "why": FieldSpec(kind="text"),
    "tags": FieldSpec(kind="list"),
}


@pytest.mark.parametrize("name", metric_names(FIELDS))
def test_every_metric_has_a_name_and_a_unit_for_a_person(name):
    title = words.title(name)
    assert "{" not in title and title[0].isupper()
    assert words.amount(name, 0.5)[-1].isdigit() or words.amount(name, 0.5).endswith(" %")
    assert words.amount(name, None) == "–"


def test_no_two_metrics_go_by_the_same_name():
    titles = [words.title(name) for name in metric_names(FIELDS) if name != "score_mae"]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize(
    ("metric", "value", "shown"),
    [
        ("overall_within_0.5", 0.8512, "85.1 %"),
        ("tier_adjacent", 1.0, "100.0 %"),
        ("kappa.risk", 0.61234, "0.612"),
        ("bias.risk", 0.25, "+0.25"),
        ("overall_bias", -0.125, "−0.12"),
        ("length.why", 153.4, "153"),
        ("length_ratio.why", 1.234, "1.23"),
        ("crps.risk", 0.456, "0.46"),
        ("brier.kind", 0.1234, "0.123"),
    ],
)
def test_a_figure_has_the_decimals_of_its_unit(metric, value, shown):
    assert words.amount(metric, value) == shown


def test_shorter_texts_make_no_student_better_and_less_bias_does():
    clear = {"low": -2.0, "high": -1.0}
    assert words.standing("length.why", clear) == words.standing("length_ratio.why", clear) == "level"
    assert words.standing("bias.risk", clear) == words.standing("brier.kind", clear) == "better"
    assert words.standing("kappa.risk", clear) == words.standing("rouge_l.why", clear) == "worse"


def test_peoples_names_keep_their_capital_within_a_sentence():
    assert [words.lower(name) for name in ("spearman.risk", "brier.kind", "crps.risk", "rmse.risk", "tier_kappa")] == [
        "Spearman's ρ of risk",
        "Brier score of kind",
        "CRPS of risk",
        "root mean squared error of risk",
        "quadratic-weighted κ of the tiers",
    ]
