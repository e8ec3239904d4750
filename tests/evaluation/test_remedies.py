"""What to try where targets are missed: in order, with figures of this very report, and unknown where it has none."""

import re

import pytest

from mlx_distill.evaluation import remedies
from mlx_distill.evaluation.pages.sections import remedies as section

ORDER = ["a smaller or larger student", "more labels", "full fine-tuning", "an ensemble that votes", "the judge itself"]


def document(train=None, valid=None, *, last=False, **more):
    """A report whose kept adapter had these losses; `last`: at its last validation."""
    curve = []
    if train is not None:
        curve = [{"step": 10, "train_loss": train, "valid_loss": valid}] + (
            [] if last else [{"step": 20, "train_loss": 0.1, "valid_loss": 9.0}]
        )
    return {
        "verdict": "missed", "run": "runs/crisis", "report": "runs/crisis/report.html", "splits": {"train": 800, "valid": 100, "test": 100},
        "targets": {"accuracy": {"value": 0.7, "target": 0.9, "met": False}}, "main": "accuracy",
        "curve": curve, "training": {"kept": 10 if curve else None}, **more,
    }  # fmt: skip


def worth(found):
    return {name: entry["worth"] for name, entry in zip(("student", "labels", "full", "votes", "judge"), found, strict=True)}


def of(name, found):
    return found[["student", "labels", "full", "votes", "judge"].index(name)]


@pytest.mark.parametrize("verdict", ["met", "none"])
def test_where_nothing_is_missed_there_is_nothing_to_mend(verdict):
    assert remedies.remedies(document() | {"verdict": verdict}) == []
    assert section.render({"remedies": []}) == section.markdown({"remedies": []}) == section.render({}) == ""


def test_the_order_is_the_one_that_was_asked_for():
    assert [entry["remedy"] for entry in remedies.remedies(document(0.5, 0.6))] == ORDER


def test_of_a_report_that_knows_nothing_everything_is_unknown():
    found = remedies.remedies({"verdict": "missed"})
    assert set(worth(found).values()) == {"unknown"}
    assert "the events tell no losses" in of("student", found)["evidence"]
    assert "no row was judged twice" in of("judge", found)["evidence"]


def test_a_student_that_learned_its_rows_by_heart_wants_labels_and_no_more_weights():
    found = remedies.remedies(document(0.2, 0.5))
    assert {name: worth(found)[name] for name in ("student", "labels", "full")} == {
        "student": "unlikely", "labels": "likely", "full": "unlikely",
    }  # fmt: skip
    assert "loss 0.200 on rows that it learned, 0.500 on validation rows (2.50 times)" in of("labels", found)["evidence"]


def test_a_student_that_fits_no_closer_wants_weights_and_no_labels():
    found = worth(remedies.remedies(document(0.50, 0.52)))
    assert {name: found[name] for name in ("student", "labels", "full")} == {"student": "likely", "labels": "unlikely", "full": "likely"}


def test_a_training_that_was_still_getting_better_is_to_go_on_first():
    entry = of("student", remedies.remedies(document(0.50, 0.52, last=True)))
    assert entry["worth"] == "unknown" and "may not have learned all it can" in entry["evidence"]
    assert entry["how"] == "mlx-distill train runs/crisis/recipe.lock.yaml --out runs/crisis --resume --set train.epochs=MORE"


def test_between_the_two_the_losses_say_nothing():
    found = worth(remedies.remedies(document(0.5, 0.65)))
    assert {found[name] for name in ("student", "labels", "full")} == {"unknown"}


@pytest.mark.parametrize(
    ("gain", "noise", "said"),
    [
        ((0.01, 0.06), True, "likely"),
        ((-0.01, 0.06), True, "unknown"),
        ((-0.03, -0.01), True, "unlikely"),
        ((0.01, 0.06), False, "unknown"),
    ],
)
def test_a_learning_curve_speaks_for_labels_instead_of_the_losses(gain, noise, said):
    extrapolated = [{"times": 2, "labels": 1600, "gain": {"value": 0.03, "low": gain[0], "high": gain[1]}}]
    curve = {"extrapolated": extrapolated, "words": ["Twice the labels ..."], "noise": {"value": 0.01} if noise else None}
    entry = of("labels", remedies.remedies(document(0.2, 0.5, learning_curve=curve)))
    assert (entry["worth"], entry["evidence"]) == (said, "Twice the labels ...")
    assert "1,600" in entry["how"]


def test_without_a_curve_the_command_that_measures_one_is_named_with_sizes_of_this_run():
    how = of("labels", remedies.remedies(document(0.5, 0.65)))["how"]
    assert how == "mlx-distill learning-curve runs/crisis/recipe.lock.yaml --sizes 100,200,400,800 --out runs/crisis/learning-curve"


def bins(*counts):
    """(low, high, n, share right)"""
    return {"kind": [{"low": low, "high": high, "n": n, "right": right, "confidence": high} for low, high, n, right in counts]}


@pytest.mark.parametrize(
    ("unsure", "sure", "said"), [((40, 0.5), (100, 0.95), "likely"), ((10, 0.9), (100, 0.8), "unlikely"), ((10, 0.5), (50, 0.8), "unknown")]
)
def test_votes_help_where_the_wrong_answers_were_unsure(unsure, sure, said):
    parts = bins((0.5, 0.6, *unsure), (0.9, 1.0, *sure), (0.1, 0.2, 0, None))
    entry = of("votes", remedies.remedies(document(reliability=parts)))
    assert entry["worth"] == said


def test_a_few_wrong_values_say_nothing_of_votes():
    entry = of("votes", remedies.remedies(document(reliability=bins((0.5, 0.6, 10, 0.0)))))
    assert (entry["worth"], entry["evidence"]) == ("unknown", "10 of 10 wrong values (100%) had a confidence under 70%: too few to go by")


def test_the_count_of_unsure_wrong_values_by_hand():
    """20 wrong of 40 in the lower bin, 5 of 100 in the upper one."""
    found = remedies.remedies(document(reliability=bins((0.6, 0.7, 40, 0.5), (0.9, 1.0, 100, 0.95))))
    assert of("votes", found)["evidence"].startswith("20 of 25 wrong values (80%) had a confidence under 70%")


@pytest.mark.parametrize(("share", "said"), [(0.97, "likely"), (0.9, "unknown"), (0.7, "unlikely")])
def test_the_judge_is_the_limit_where_the_student_agrees_as_far_as_it_does_itself(share, said):
    ceiling = {"metrics": {"accuracy": {"share": {"value": share}}, "mae.risk": {"share": {"value": 0.1}}, "kappa.risk": {"share": None}}}
    entry = of("judge", remedies.remedies(document(ceiling=ceiling)))
    assert entry["worth"] == said
    assert f"by accuracy the student has {share:.0%}" in entry["evidence"], "of the metric that is missed"


def test_rows_of_which_the_student_is_sure_and_wrong_are_labels_to_look_at():
    worst = [
        {"id": "r1", "wrong": ["kind"], "confidence": {"kind": 0.95}},
        {"id": "r2", "wrong": ["kind"], "confidence": {"kind": 0.6, "other": 0.99}},
        {"id": "r3", "wrong": ["kind"], "confidence": {}},
    ]
    evidence = of("judge", remedies.remedies(document(disagreements=worst)))["evidence"]
    assert "in 1 of the 3 worst disagreements the student is at least 90% sure: labels to look at (first r1)" in evidence


def test_every_command_that_is_named_is_one_that_there_is():
    from mlx_distill.cli.main import COMMANDS

    found = remedies.remedies(document(0.5, 0.6) | {"run": "runs/my crisis"})
    commands = {name for entry in found for name in re.findall(r"mlx-distill ([\w-]+)", entry["how"])}
    assert commands <= set(COMMANDS)
    assert all("'runs/my crisis" in entry["how"] for entry in found), "a path with a space is quoted"


def test_the_section_has_every_remedy_and_escapes_what_comes_from_data():
    found = remedies.remedies(document(0.2, 0.5, disagreements=[{"id": "<b>", "wrong": ["k"], "confidence": {"k": 1.0}}]))
    html, marked = section.render({"remedies": found}), section.markdown({"remedies": found})
    assert "<b>" not in html and "&lt;b&gt;" in html and "<b>" not in marked
    for name in ORDER:
        assert name in html.replace("<wbr>", "") and name in marked
    assert '<span class="good">✓ likely</span>' in html and '<span class="bad">✗ unlikely</span>' in html
    assert marked.count("\n") == 4
