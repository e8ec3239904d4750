"""Metrics of texts: wording, length, emptiness."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_distill.evaluation.judge import Judged, lay_out, measure
from mlx_distill.evaluation.metrics.rouge_l import in_common, overlap, rouge_l, words
from mlx_distill.recipe.schema import FieldSpec

WHY = {"why": FieldSpec(kind="text")}


def totals(pairs):
    rows = [
        Judged(id=str(i), split="test", reference={} if a is None else {"why": a}, answer=None if b is None else {"why": b})
        for i, (a, b) in enumerate(pairs)
    ]
    return {name: (tally.total(), tally.n) for name, tally in measure(lay_out(rows, WHY)).items()}


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("The cat was found under the bed.", "the cat was under the bed", 0.923076923077),
        ("Police killed the gunman", "the gunman police killed", 0.5),
        ("Solar capacity rose 23.5% in 2025; costs fell.", "Costs fell and solar capacity rose by 23.5 %", 0.555555555556),
        ("It's a well-known co-operative (est. 1999)", "its a well known cooperative est 1999", 0.625),
        ("a b c d e f g", "g f e d c b a", 0.142857142857),
        ("under_score words", "under score words", 1.0),
        ("something", "", 0.0),
    ],
)
def test_rouge_l_is_that_of_rouge_score(reference, answer, expected):
    """Figures of rouge-score 0.1.2, RougeScorer(["rougeL"], use_stemmer=False)."""
    assert rouge_l([reference], [answer]) == pytest.approx(expected, abs=1e-12)


some_words = st.lists(st.sampled_from("abcd"), max_size=90)


@given(some_words, some_words)
def test_the_common_subsequence_is_as_long_as_the_table_of_prefixes_says(first, second):
    longest = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            longest[i + 1][j + 1] = longest[i][j] + 1 if a == b else max(longest[i][j + 1], longest[i + 1][j])
    assert in_common(first, second) == longest[-1][-1]


def test_words_are_words_in_every_script():
    assert words("Φωτιά στην Αθήνα!") == ["φωτιά", "στην", "αθήνα"]
    assert words("आग लग गई।") == ["आग", "लग", "गई"]
    assert words("火事です") == list("火事です")
    assert words("cafe\u0301 CAFÉ") == ["café", "café"]
    assert overlap("Μεγάλη φωτιά στην Πάρνηθα", "φωτιά στην Πάρνηθα") == pytest.approx(6 / 7)
    assert overlap("消防队到达现场", "消防队离开现场") == pytest.approx(10 / 14)


def test_rouge_l_without_an_answer_is_0_and_without_a_label_does_not_count():
    found = totals([("fire in town", "fire in town"), ("fire", None), (None, "fire"), ("...", "!")])
    assert found["rouge_l.why"] == (pytest.approx(2 / 3), 3)


def test_lengths_are_characters_and_a_ratio_is_of_all_rows_together():
    found = totals([("1234", "12"), ("123456", "1234567"), (None, "123"), ("12", None)])
    assert found["length.why"] == (4.0, 3)
    assert found["length_ratio.why"] == (0.9, 2)


def test_an_empty_text_is_one_without_a_letter():
    assert totals([("a", " \n"), ("a", ""), ("a", "x"), ("a", "y"), ("a", None)])["empty.why"] == (0.5, 4)


def test_what_is_no_text_has_no_length_and_no_wording():
    found = totals([("a", 3), ("a", "abc")])
    assert found["length.why"] == (3.0, 1)
    assert found["rouge_l.why"] == (0.0, 2)
