"""In short: each question gets an answer out of the document, good news and bad, and the gravest failures have a sentence."""

import pytest

from mlx_distill.evaluation import report
from mlx_distill.evaluation.pages import failures, short

FIGURE = {"value": 0.7, "low": 0.66, "high": 0.74, "n": 400}


def document(**more):
    """Of a student that nothing is wrong with, as far as anyone looked."""
    return {
        "verdict": "met",
        "summary": ["The target is met.", "It agrees.", "Against the most common answer: better in kind."],
        "main": "accuracy",
        "rows": 400,
        "metrics": {"accuracy": FIGURE},
        "targets": {"accuracy": {"value": 0.7, "target": 0.5, "met": True}},
        "fields": {"risk": {"min": 0, "max": 10}},
        "slices": {},
        "confusion": {},
        "scores": {},
        **more,
    }


def said(question, **more):
    return next(answer for answer in short.answers(document(**more)) if question in answer.question)


def slice_of(value, figure, n=100):
    return {"value": value, "n": n, "small": n < 30, "metrics": {"accuracy": figure}}


def figure(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 100}


def test_four_questions_are_answered_whatever_is_known():
    assert [answer.question for answer in short.answers(document(main=None, summary=["No targets were set.", "No row."], targets={}))] == [
        "Does it agree with the judge?",
        "How certain is that?",
        "What does it hand back to a person?",
        "Where does it fail?",
    ]


def test_a_verdict_is_good_or_bad_news():
    assert [said("agree", verdict=verdict).standing for verdict in ("met", "missed", "none")] == ["good", "bad", ""]


def test_the_judges_own_noise_stands_beside_the_students():
    again = {"n": 400, "metrics": {"accuracy": {"judge": figure(0.91, 0.9, 0.92), "student": figure(0.7, 0.6, 0.8), "share": {}}}}
    first, second = said("agree", ceiling={"again": again, "raters": {}}).sentences
    assert "91.0 %" in first and "the student has 70.0 %" in first
    assert second == "Against the most common answer: better in kind."


def test_an_interval_is_what_to_expect_and_a_target_within_it_is_a_doubt():
    assert said("certain").sentences == ("400 rows were judged. On other rows like them, expect accuracy from 66.0 to 74.0 %.",)
    close = {"accuracy": {"value": 0.7, "target": 0.68, "met": True}}
    assert "Accuracy is so near the target" in said("certain", targets=close).sentences[1]
    assert "fewer than 30" in said("certain", metrics={"accuracy": {**FIGURE, "n": 12}}).sentences[1]
    assert "flatters" in said("certain", learned=3).sentences[1]


@pytest.mark.parametrize(
    ("deferral", "standing", "words"),
    [
        (None, "", "answers every row"),
        ({"threshold": None, "promise": "No promise.", "test": {}}, "bad", "Every row"),
        (
            {"threshold": 0.8, "promise": "P.", "test": {"coverage": figure(0.75, 0, 1), "error": figure(0.04, 0, 1)}},
            "good",
            "hands back 25.0 %",
        ),
        (
            {"threshold": 0.8, "promise": "P.", "test": {"coverage": figure(0.75, 0, 1), "error": figure(0.06, 0, 1)}},
            "bad",
            "6.0 % are wrong",
        ),
        ({"threshold": 0.8, "promise": "P.", "test": {"coverage": figure(None, None, None), "error": figure(None, 0, 1)}}, "", "P."),
    ],
)
def test_what_is_handed_back_is_said_with_its_promise(deferral, standing, words):
    answer = said("hand back", deferral=deferral and {"max_error": 0.05, "wrong": "wrong in kind", **deferral})
    assert answer.standing == standing
    assert words in " ".join(answer.sentences)


def test_limits_that_were_missed_beside_the_targets_are_named():
    assert short.beside(document()) is None
    assert short.beside(document(robustness={"verdict": "missed"}, fairness={"verdict": "met"}, forgetting={"verdict": "missed"})) == (
        "What the recipe allows at most was exceeded in: robustness, general ability."
    )


def test_every_part_with_a_verdict_has_a_name():
    assert set(short.PARTS) == set(report.JUDGED_PARTS)


def test_nothing_that_was_measured_is_weak():
    assert said("fail").sentences == ("No weakness stands out in what was measured.",)
    assert said("fail").standing == ""


def test_the_worst_slice_is_named_where_it_is_clearly_worse_and_has_rows_enough():
    entries = [
        slice_of("few", figure(0.1, 0.0, 0.2), n=5),
        slice_of("worst", figure(0.4, 0.3, 0.5)),
        slice_of("bad", figure(0.5, 0.4, 0.6)),
        slice_of("unclear", figure(0.65, 0.5, 0.8)),
    ]
    assert list(failures.named(document(slices={"event": entries}))) == ["Worst by event: worst, accuracy 40.0 % against 70.0 % (n = 100)."]
    assert list(failures.named(document(slices={"event": entries[3:]}))) == []


def test_what_is_worse_where_low_is_better_is_what_is_higher():
    found = document(
        main="overall_mae",
        metrics={"overall_mae": figure(1.0, 0.9, 1.1)},
        slices={"event": [{**slice_of("off", None), "metrics": {"overall_mae": figure(2.0, 1.5, 2.5)}}]},
    )
    assert list(failures.named(found)) == ["Worst by event: off, mean error of the overall 2.00 against 1.00 (n = 100)."]


def test_a_pair_that_is_confused_in_a_quarter_of_its_rows_is_named():
    counts = {"labels": ["a", "b"], "matrix": [[30, 10], [3, 40]], "support": [40, 43], "unanswered": [0, 0]}
    assert list(failures.named(document(confusion={"kind": counts}))) == ["kind: of the rows that the judge calls “a”, it calls 25 % “b”."]
    assert len(list(failures.named(document(confusion={f"kind {i}": counts for i in range(9)})))) == failures.OF_A_KIND
    fewer = {**counts, "matrix": [[31, 9], [3, 40]]}
    assert list(failures.named(document(confusion={"kind": fewer}))) == []


def test_a_score_that_is_off_in_one_direction_is_named():
    entry = {"n": 100, "bias": -0.5, "reference_mean": 5, "student_mean": 4.5}
    assert list(failures.named(document(scores={"risk": entry}))) == ["risk: 0.50 points too low on average."]
    assert list(failures.named(document(scores={"risk": {**entry, "bias": 0.49}}))) == []


def test_refusals_spoiled_texts_unfairness_and_forgetting_come_first_and_no_kind_crowds_out_the_others():
    def suite(title, value, verdict="missed"):
        return {"title": title, "n": 10, "doubt": None, "verdict": verdict, "flips": {"any": figure(value, 0, 1)}}

    suites = {"a": suite("Typos", 0.4), "b": suite("Capitals", 0.6), "c": suite("Order", 0.1, "met")}
    gaps = {"place": {"verdict": "missed"}, "age": {"verdict": "met"}}
    drop = {"title": "MMLU", "drop": {"verdict": "missed"}, "floor": {"verdict": "met"}, "base": FIGURE, "student": figure(0.5, 0, 1)}
    counts = {"labels": ["a", "b"], "matrix": [[0, 20], [0, 20]], "support": [20, 20], "unanswered": [0, 0]}
    found = document(
        production={"refused": {"n": 4}},
        robustness={"suites": suites, "given": {}},
        fairness={"scenarios": {"fire": {"gaps": gaps}}, "groups": {"language": {"verdict": "missed"}}},
        forgetting={"benchmarks": {"mmlu": drop}},
        calibration={"fields": {"kind": {"verdict": "warn", "after": {"ece": figure(0.12, 0, 1)}}}},
        confusion={f"kind{i}": counts for i in range(9)},
    )
    assert list(failures.named(found)) == [
        "It gave no valid answer to 4 of 400 rows.",
        "Changes to a text that should turn no answer do: Capitals 60.0 %, Typos 40.0 %.",
        "In the scenario fire, answers change with place, which should change nothing.",
        "It is right more often about some values of language than about others.",
        "MMLU: 50.0 % right, where its base had 70.0 %.",
        "kind: what it says of how sure it is, is off by 12 points on average.",
        "kind0: of the rows that the judge calls “a”, it calls 100 % “b”.",
        "kind1: of the rows that the judge calls “a”, it calls 100 % “b”.",
    ]
