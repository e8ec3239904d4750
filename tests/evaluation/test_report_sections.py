"""Sections that say what was reached, where it comes from, and which rows to look at; hidden texts stay hidden, in every form."""

import html
import json
import re
import shlex

import pytest

from mlx_distill import catalog
from mlx_distill.evaluation.pages import contents, markdown, page
from mlx_distill.evaluation.pages.sections import agreement, confusion, disagreements, figures, lineage, lm_eval, scores, targets, training
from mlx_distill.recipe.schema import ReportSpec
from tests import reports

FIGURE = {"value": 0.7, "low": 0.6, "high": 0.8, "n": 50}


def words(markup):
    return " ".join(html.unescape(re.sub("<[^>]*>", " ", markup)).split())


def test_missed_targets_stand_first_and_what_may_turn_is_marked():
    document = {
        "metrics": {"accuracy": FIGURE, "exact_match": FIGURE, "valid_json": {**FIGURE, "low": None}},
        "targets": {
            "accuracy": {"value": 0.7, "target": 0.5, "met": True},
            "exact_match": {"value": 0.7, "target": 0.75, "met": False},
            "valid_json": {"value": None, "target": 0.9, "met": False},
        },
    }
    found = words(targets.render(document))
    assert re.findall(r"(✓ met|✗ missed)( not certain| not measured)?", found) == [
        ("✗ missed", " not certain"),
        ("✗ missed", " not measured"),
        ("✓ met", ""),
    ]
    assert "≥ 75.0 %" in found
    assert targets.markdown(document).count("**missed**") == 2
    assert targets.render({"targets": {}, "metrics": {}}) == targets.markdown({"targets": {}, "metrics": {}}) == ""


def test_a_target_of_an_error_is_a_limit_from_above():
    assert (targets.wanted("mae.risk", 0.8), targets.wanted("accuracy", 0.88)) == ("≤ 0.80", "≥ 88.0 %")


def test_a_target_of_a_bias_is_a_limit_on_either_side():
    assert targets.wanted("bias.risk", 0.2) == "±0.20"
    figure = {"value": -0.25, "low": -0.4, "high": -0.1, "n": 50}
    document = {"metrics": {"bias.risk": figure}, "targets": {"bias.risk": {"value": -0.25, "target": 0.2, "met": False}}}
    assert "not certain" in targets.render(document)


def test_a_baseline_that_is_clearly_better_is_said_to_be():
    gap = {"value": -0.1, "low": -0.2, "high": -0.05, "n": 50, "p": 0.01}
    document = {
        "fields": {"kind": {"kind": "choice", "headline": "accuracy.kind"}, "why": {"kind": "text", "headline": None}},
        "metrics": {"accuracy.kind": FIGURE},
        "baselines": {"tfidf": {"metrics": {"accuracy.kind": {**FIGURE, "value": 0.8}}, "difference": {"accuracy.kind": gap}}},
    }
    assert '<span class="bad">−10.0</span>' in agreement.render(document)
    assert "(−20.0 to −5.0)" in agreement.render(document)
    assert "**worse** than TF-IDF" in agreement.markdown(document)
    assert agreement.render({**document, "metrics": {}}) == ""


def test_every_figure_is_listed_once_under_its_name():
    metrics = {"accuracy": FIGURE, "overall_mae": FIGURE, "score_mae": FIGURE, "accuracy.kind": FIGURE}
    found = words(figures.render({"fields": {"kind": {}}, "metrics": metrics}))
    assert re.findall(r"(accuracy\.kind|overall_mae|score_mae|accuracy) 70", found) == ["accuracy", "accuracy.kind"]
    assert "overall_mae 0.70" in found and "score_mae" not in found


def test_of_forty_labels_the_commonest_stand_in_the_matrix_and_the_others_in_the_table():
    size = 40
    matrix = [[size - i if i == j else 0 for j in range(size)] for i in range(size)]
    labels = [f"label-{i}" for i in range(size)]
    support = [size - i for i in range(size)]
    shares = [1.0] * size
    counts = {"labels": labels, "matrix": matrix, "support": support, "unanswered": [0] * size}
    found = confusion.render({"confusion": {"kind": {**counts, "precision": shares, "recall": shares, "f1": shares}}})
    drawn, _, listed = found.partition("<details>")
    assert "label-13<" in drawn and "label-14<" not in drawn and "label-39<" in listed
    assert "26 rarer ones" in drawn
    assert "Most often confused" not in drawn


def test_a_label_of_few_rows_says_nothing_of_confusion():
    counts = {"labels": ["a", "b"], "matrix": [[1, 8], [0, 30]], "support": [9, 30], "unanswered": [0, 0]}
    assert confusion.worst(counts) is None
    assert confusion.worst({**counts, "matrix": [[1, 9], [0, 30]], "support": [10, 30]}) == ("a", "b", 0.9)


def test_the_sign_of_a_bias_is_student_less_judge():
    entry = {"n": 3, "reference_mean": 5.0, "student_mean": 4.5, "bias": -0.5}
    assert words(scores.render({"scores": {"risk": entry, "none": {"n": 0}}})).endswith("risk 5.00 4.50 −0.50 3")


def test_hidden_texts_stand_nowhere():
    """Of the disagreements; that other parts keep theirs out too is tested with each."""
    document = reports.document(show=ReportSpec(show_texts=False, worst=3), parts={})
    assert document["texts"] is False and len(document["disagreements"]) == 3
    for form in (page.render(document), markdown.render(document), json.dumps(document)):
        assert "Word and word" not in form and "short" not in re.findall(r">(short)<", form)
    assert "report: {texts: false}" in words(disagreements.render(document))
    assert disagreements.render(document).count("<article>") == 3


def test_a_card_has_both_answers_side_by_side_and_marks_what_is_wrong():
    entry = {
        "id": "r1", "text": "Fire!\nHelp", "reference": {"kind": "fire", "risk": 7}, "answer": {"kind": "flood", "risk": 7},
        "defer": True, "confidence": {"kind": 0.93}, "wrong": ["kind"],
        "overall": {"reference": 7.0, "answer": 6.5}, "tier": {"reference": "a", "answer": "b"},
    }  # fmt: skip
    found = disagreements.render({"disagreements": [entry], "fields": {"kind": {}, "risk": {}}})
    assert "Fire!\nHelp" in found
    assert words(found).endswith("kind fire ✗ flood 93 % risk 7 7 overall 7.0 6.5 tier a ✗ b")
    assert "would have handed this row back" in found


def test_the_commands_that_do_it_again_can_be_pasted():
    found = [shlex.split(command) for _, command in lineage.commands("runs/it's mine")]
    assert found[0] == ["mlx-distill", "run", "runs/it's mine/recipe.lock.yaml", "--out", "runs/again"]
    assert found[1] == ["mlx-distill", "evaluate", "runs/it's mine"]


def test_every_fact_of_the_lineage_is_shown_and_answers_from_elsewhere_have_no_commands():
    document = {"run": "r", "notes": ["a <note>"], "lineage": {"data_sha256": "f" * 64, "base": {"a": {"b": 1}}, "seed": 0}}
    found = words(lineage.render(document))
    assert "a <note>" in found and "f" * 64 in found and "a.b 1" in found and "seed 0" in found
    assert "mlx-distill" not in found
    assert "mlx-distill run" in words(lineage.render({**document, "lineage": {"adapter_sha256": "0" * 64}}))
    assert f"data, SHA-256 `{'f' * 12}`" in lineage.markdown(document)


def test_how_the_training_went_is_said_in_a_line():
    document = {"curve": [{"step": 9, "valid_loss": 1.5, "train_loss": 2.0}], "training": {"kept": 9}}
    assert training.markdown(document).startswith(
        "Loss in nats a token: training loss from 2.000 to 2.000; validation loss from 1.500 to 1.500."
    )
    assert "step 9 was kept" in training.markdown(document)


def test_a_section_without_a_file_is_left_out(monkeypatch):
    document = reports.document(parts={})
    whole = [section.name for section in contents.rendered(document)]
    monkeypatch.setattr(catalog, "names", lambda kind: ["targets", "lineage"])
    assert [section.name for section in contents.rendered(document)] == ["targets", "lineage"]
    assert whole[:2] == ["targets", "agreement"] and {"robustness", "fairness", "deferral"}.isdisjoint(whole)


@pytest.mark.parametrize("name", ["robustness", "fairness", "forgetting", "deferral", "conformal", "tokenizer", "ceiling", "remedies"])
def test_a_part_that_the_recipe_does_not_ask_for_is_no_section(name):
    document = {**reports.full(), name: None}
    assert catalog.find(contents.KIND, name).render(document) == ""
    assert catalog.find(contents.KIND, name).markdown(document) == ""
    assert f'href="#{name}"' not in page.render(document)


def test_what_was_missed_beside_the_targets_stands_in_the_verdict():
    header = page.render(reports.full()).partition("</header>")[0]
    assert "What the recipe allows at most was exceeded in: robustness" in words(header)
    assert "robustness" not in words(page.render(reports.document(parts={})).partition("</header>")[0])


def test_a_number_and_its_unit_stay_on_one_line():
    found = page.render(reports.full())
    assert "\u00a0%" in found and not re.search(r"\d %", found.partition("</style>")[2])


def test_a_rows_name_from_right_to_left_turns_no_sentence_around():
    document = {"curve": [{"step": 9, "valid_loss": 1.5}], "training": {"skipped": [{"step": 3, "rows": ["\u202eשלום"]}]}}
    assert "their rows: \u2068\u202eשלום\u2069." in html.unescape(training.render(document))


def test_what_the_harness_measured_stands_side_by_side():
    sides = {"base": {"value": 0.5, "stderr": 0.05, "higher_is_better": True}, "student": {"value": 0.25, "stderr": None}}
    found = {"version": "0.4.13", "limit": 200, "tasks": {"arc <easy>": {"n": 200, "metrics": {"acc": sides}}}}
    assert "arc <easy> acc 200 0.500 ± 0.050 0.250" in words(lm_eval.render({"lm_eval": found}))
    assert "| arc &lt;easy&gt; | acc | 200 | 0.500 ± 0.050 | 0.250 |" in lm_eval.markdown({"lm_eval": found})
    assert lm_eval.render({}) == lm_eval.markdown({"lm_eval": None}) == ""
