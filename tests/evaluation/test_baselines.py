"""What the baselines learn, and what they say where there is nothing to learn."""

import random

import pytest

from mlx_distill.evaluation.baselines import baselines
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Example

FIELDS = {
    "kind": FieldSpec(kind="choice", choices=("fire", "flood")),
    "urgent": FieldSpec(kind="flag"),
    "risk": FieldSpec(kind="score", min=0, max=5),
    "why": FieldSpec(kind="text"),
}
WORDS = {"fire": "smoke flames burning hill", "flood": "water river rising bridge"}


def example(i, kind, **labels):
    noise = " ".join(random.Random(i).sample(["the", "a", "near", "our", "town", "now", "today", "people", "see"], 4))
    own = " ".join(random.Random(-i).sample(WORDS[kind].split(), 2))
    return Example(id=f"e{i}", record={}, text=f"{noise} {own}", labels={"kind": kind, "risk": 5 if kind == "fire" else 1, **labels})


TRAIN = [example(i, "fire" if i % 3 else "flood", urgent=bool(i % 3)) for i in range(60)]
TEST = [example(i, "fire" if i % 2 else "flood") for i in range(100, 120)]


def test_tfidf_learns_what_words_tell():
    answers = baselines(TRAIN, TEST, FIELDS)["tfidf"]
    for row in TEST:
        assert answers[row.id]["kind"] == row.labels["kind"]
        assert answers[row.id]["urgent"] is (row.labels["kind"] == "fire")
        assert abs(answers[row.id]["risk"] - row.labels["risk"]) <= 1
        assert set(answers[row.id]) == {"kind", "urgent", "risk"}  # a text has no baseline


def test_majority_is_the_most_common_value_and_the_median_of_scores():
    answers = baselines(TRAIN, TEST, FIELDS)["majority"]
    assert all(answer == {"kind": "fire", "urgent": True, "risk": 5} for answer in answers.values())
    assert list(answers) == [row.id for row in TEST]


def test_scores_of_the_baseline_are_legal():
    steep = {"risk": FieldSpec(kind="score", min=0, max=1, step=0.25)}
    train = [Example(id=str(i), record={}, text=f"word{i % 7} other", labels={"risk": (i % 5) / 4}) for i in range(30)]
    values = {answer["risk"] for answer in baselines(train, train, steep)["tfidf"].values()}
    assert values <= {0.0, 0.25, 0.5, 0.75, 1.0}


def test_where_the_student_may_answer_between_two_steps_the_baseline_may_too():
    train = [Example(id=str(i), record={}, text=f"word{i % 7} other", labels={"risk": i % 5}) for i in range(30)]
    answers = baselines(train, train, {"risk": FieldSpec(kind="score", max=4, estimate="mean")})["tfidf"]
    values = [answer["risk"] for answer in answers.values()]
    assert any(value != round(value) for value in values) and all(0 <= value <= 4 and value == round(value, 2) for value in values)


def test_rows_without_a_label_teach_only_the_other_fields():
    unlabelled = [Example(id=f"u{i}", record={}, text="water river", labels={"risk": 1}) for i in range(50)]
    answers = baselines([*TRAIN, *unlabelled], TEST, FIELDS)
    assert answers["majority"][TEST[0].id]["kind"] == "fire"
    assert answers["majority"][TEST[0].id]["risk"] == 1


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ([Example(id="a", record={}, text="smoke", labels={"kind": "fire"})], "same value"),
        ([Example(id=i, record={}, text="", labels={"kind": k}) for i, k in (("a", "fire"), ("b", "flood"), ("c", "fire"))], "no words"),
    ],
)
def test_where_there_is_nothing_to_learn_it_answers_as_the_majority_and_says_so(train, said):
    lines = []
    answers = baselines(train, TEST, {"kind": FIELDS["kind"]}, say=lines.append)
    assert answers["tfidf"] == answers["majority"]
    assert answers["majority"][TEST[0].id] == {"kind": "fire"}
    assert any(said in line for line in lines)


def test_a_field_that_nobody_labelled_is_left_out_and_named():
    lines = []
    answers = baselines([], TEST, FIELDS, say=lines.append)
    assert all(answer == {} for both in answers.values() for answer in both.values())
    assert sorted(line.partition(":")[0] for line in lines) == ["kind", "risk", "urgent"]
    assert baselines(TRAIN, [], FIELDS) == {"majority": {}, "tfidf": {}}


def test_texts_of_any_content_are_legal():
    odd = [Example(id="o", record={}, text="\x00 \ud800 שלום 🔥 " + "x" * 1_000_000, labels={"kind": "flood"})]
    assert baselines([*TRAIN, *odd], odd, FIELDS)["tfidf"]["o"]["kind"] in ("fire", "flood")


def test_the_same_rows_give_the_same_answers():
    assert baselines(TRAIN, TEST, FIELDS) == baselines(TRAIN, TEST, FIELDS)
