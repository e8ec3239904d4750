"""A text at its limit ends as texts end, whatever its script."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.ending import ELLIPSIS, ended
from mlx_distill.task.fields import labels

FAMILY, WAVE, FLAG, E = "👨‍👩‍👧", "👋🏽", "🇬🇷", "e\u0301"


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("It rose.", 8, "It rose."),
        ("It rose.", 20, "It rose."),
        ("no stop", 20, "no stop"),
        ("It rose. It fell. Then the", 26, "It rose. It fell."),
        ('He said "it rose." Then the', 27, 'He said "it rose."'),
        ("Is it high? Yes! And then the wat", 25, "Is it high? Yes!"),
        ("It rose. After that the whole town was under wat", 48, "It rose. After that the whole town was under…"),
        ("The river, the bridge, and", 26, "The river, the bridge…"),
        ("The town (of Porto) was (by", 27, "The town (of Porto) was…"),
        ("It costs 3.5 euros a kilo at", 12, "It costs…"),
        ("It costs about 3.5 euros", 17, "It costs about…"),
        ("Rivers, e.g. the Douro and oth", 30, "Rivers, e.g. the Douro and…"),
        ("It now costs 13.5 euros", 16, "It now costs…"),
        ("It was high approx. the whole of", 25, "It was high approx. the…"),
        ("The report by J. Smith of", 25, "The report by J. Smith…"),
        ("Measured in the year 2024. Th", 29, "Measured in the year 2024."),
        ("And so it went on… but", 22, "And so it went on…"),
        ("Ξεκίνησε φωτιά. Το χωρ", 22, "Ξεκίνησε φωτιά."),
        ("河水上涨了。桥被淹没了。然后", 14, "河水上涨了。桥被淹没了。"),
        ("河水上涨淹没大桥人们纷纷撤离", 10, "河水上涨淹没大桥人…"),
        ("ارتفع النهر؟ ثم ان", 18, "ارتفع النهر؟"),
        ("नदी उफान पर है। फिर पुल", 23, "नदी उफान पर है।"),
        ("antidisestablishmentarianism", 10, "antidises…"),
        ("", 5, ""),
        ("ab", 1, "a"),
        ("abc", 2, "a…"),
    ],
)
def test_a_text_ends_with_its_last_whole_sentence_or_its_last_whole_word(text: str, most: int, expected: str) -> None:
    assert ended(text, most) == expected


@pytest.mark.parametrize("letter", [FAMILY, WAVE, FLAG, E, "❤️"])
@pytest.mark.parametrize("most", range(7, 15))
def test_what_people_see_as_one_letter_is_never_parted(letter: str, most: int) -> None:
    """Five of the same and no space: what is left before the ellipsis is a whole number of them."""
    cut = ended(letter * 10, most)
    assert len(cut) <= most and cut.endswith(ELLIPSIS)
    assert cut[:-1] == letter * (len(cut[:-1]) // len(letter)) and len(cut) > 1


TEXTS = st.text(st.sampled_from([*"aB 1.,!?…。 (\"'\n\u0301\u200d🇬🇷👋🏽水ω"]), max_size=40)


@settings(deadline=None, max_examples=400, derandomize=True)
@given(TEXTS, st.integers(1, 30))
@example("a" + "\u0301" * 40, 10)
@example(" " * 40, 10)
def test_an_ending_is_never_longer_and_is_an_ending_for_good(text: str, most: int) -> None:
    cut = ended(text, most)
    assert len(cut) <= most
    assert text.startswith(cut.removesuffix(ELLIPSIS)), "nothing is added but the ellipsis"
    assert ended(cut, most) == cut
    assert len(text) >= most or cut == text


def test_a_label_too_long_is_cut_as_a_written_text_is_and_one_that_fits_stays() -> None:
    """What the student learns at the limit is what becomes of its own texts there."""
    text = FieldSpec(kind="text", max_chars=20)
    whole = "The river rose over the bridge at night."
    (label,) = labels({"t": text}, {"t": whole}).values()
    assert label == ended(whole[:20], 20) == "The river rose over…"
    assert labels({"t": text}, {"t": "Twenty letters, or s"}) == {"t": "Twenty letters, or s"}, "a label that fits is the judge's own"
    items = FieldSpec(kind="list", max_chars=12)
    assert labels({"t": items}, {"t": ["Utah Social Media Act", "GDPR"]}) == {"t": ["Utah Social…", "GDPR"]}
