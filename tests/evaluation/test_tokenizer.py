"""Tokens by language: ratios that are worked by hand, languages told apart, and the paragraphs that all tokenizers are asked."""

import re

import numpy as np
import pytest

from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.language.paragraphs import PARAGRAPHS
from mlx_distill.evaluation.language.tokenizer import AT_MOST, LANGUAGES_AT_MOST, efficiency, judge, paragraphs
from mlx_distill.evaluation.language.writing import languages, script
from tests.small_tokenizers import tokenizer


def rows(*pairs):
    return [Judged(id=str(i), split="test", reference={}, answer=None, text=text, record=record) for i, (text, record) in enumerate(pairs)]


def test_with_one_token_a_character_every_figure_is_known():
    found = efficiency({"en": ["fire here", "a flood"]}, tokenizer("letters"), bootstrap=100)["languages"]["en"]
    assert (found["texts"], found["characters"], found["tokens"]) == (2, 16, 16)
    assert found["characters_per_token"]["value"] == found["bytes_per_token"]["value"] == 1.0
    assert found["tokens_per_word"]["value"] == 4.0


def test_with_one_token_a_byte_greek_costs_two_tokens_a_letter():
    """The small tokenizer has merged what its few sentences hold: no two bytes of these letters."""
    found = efficiency({"el": ["ΨΩΞ"]}, tokenizer("bytes"), bootstrap=100)["languages"]["el"]
    assert (found["characters"], found["tokens"]) == (3, 6)
    assert found["characters_per_token"]["value"] == 0.5
    assert found["bytes_per_token"]["value"] == 1.0


def test_a_long_text_counts_as_much_as_it_has():
    made = tokenizer("bytes")
    short, long = "Ω", "solar thermal power is cheap; " * 20
    each = [len(made(text, add_special_tokens=False)["input_ids"]) for text in (short, long)]
    found = efficiency({"x": [short, long]}, made, bootstrap=200)["languages"]["x"]["characters_per_token"]
    assert found["value"] == pytest.approx((len(short) + len(long)) / sum(each))
    assert found["low"] == pytest.approx(len(short) / each[0]) and found["high"] == pytest.approx(len(long) / each[1])


def test_special_tokens_that_a_tokenizer_adds_are_not_the_texts():
    made = tokenizer("metaspace")
    assert made("fire")["input_ids"][0] == made.bos_token_id
    assert efficiency({"en": ["solar"]}, made, bootstrap=100)["languages"]["en"]["tokens"] == len(made.tokenize("solar"))


def test_languages_come_from_their_column_whatever_its_case_and_are_named():
    made = rows(("Φωτιά", {"lang": "EL"}), ("fire", {"lang": "en "}), ("πυρ", {"lang": "el"}), ("?", {"lang": None}))
    found = judge(made, tokenizer("letters"), bootstrap=100)
    assert found["by"] == "column lang"
    assert {name: own["texts"] for name, own in found["languages"].items()} == {"el": 2, "en": 1, "unknown": 1}


def test_without_a_column_the_script_tells():
    made = rows(("Η φωτιά έφτασε στο Marathon", {}), ("De rivier staat hoog", {}), ("Пожар в лесу", {}), ("", {}), ("حريق", {}))
    found = judge(made, tokenizer("letters"), bootstrap=100)
    assert found["by"] == "script"
    assert list(found["languages"]) == ["Greek", "Latin", "Cyrillic", "Arabic"]  # an empty text has no tokens to speak of


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Η πυρκαγιά στο Mati", "Greek"),
        ("naïve Straße ﬁre", "Latin"),
        ("ＦＩＲＥ", "Latin"),
        ("火灾发生在山上", "Han"),
        ("山で火災が発生しました", "Kana"),
        ("火災現場の確認中", "Kana"),
        ("산불이 났다", "Hangul"),
        ("जंगल में आग", "Devanagari"),
        ("12:30 !?", "unknown"),
        ("\x00\ud83d", "unknown"),
    ],
)
def test_the_script_is_that_of_most_letters(text, name):
    assert script(text) == name


def test_the_most_frequent_language_comes_first():
    _, found = languages([{"language": name} for name in ("el", "en", "en")], ["a", "b", "c"])
    assert list(found.items()) == [("en", ["b", "c"]), ("el", ["a"])]


def test_where_no_blank_parts_words_there_are_no_tokens_a_word():
    found = efficiency({"zh": ["火灾发生在山上"], "el": ["Φωτιά στο βουνό"]}, tokenizer("letters"), bootstrap=100)["languages"]
    assert found["zh"]["tokens_per_word"] is None and found["el"]["tokens_per_word"]["value"] == 5.0


def test_of_very_many_texts_some_are_drawn_and_of_very_many_languages_the_first_are_shown():
    found = efficiency({"en": ["ab"] * AT_MOST + ["abcd"] * AT_MOST}, tokenizer("letters"), bootstrap=100, seed=1)["languages"]["en"]
    assert (found["texts"], found["counted"]) == (2 * AT_MOST, AT_MOST)
    assert found["characters"] / AT_MOST == pytest.approx(3, abs=0.1)
    many = efficiency({f"l{i}": ["a"] for i in range(LANGUAGES_AT_MOST + 2)}, tokenizer("letters"), bootstrap=100)
    assert (len(many["languages"]), many["left_out"]) == (LANGUAGES_AT_MOST, 2)


def test_texts_of_any_content_are_counted():
    odd = ["\x00", "half \ud83d of an emoji", "😀" * 300, "<|im_end|>", "א" * 50]
    found = efficiency({"x": odd}, tokenizer("bytes"), bootstrap=100)["languages"]["x"]
    assert found["characters"] == sum(map(len, odd)) and found["tokens"] > 0


def test_the_same_content_costs_more_in_greek_by_bytes_than_in_english():
    found = paragraphs(tokenizer("bytes"))
    assert found["English"]["relative"] == 1.0
    assert found["Greek"]["relative"] > 1.3
    assert found["Greek"]["relative"] == found["Greek"]["tokens"] / found["English"]["tokens"]
    letters = paragraphs(tokenizer("letters"))
    assert all(own["relative"] == own["characters"] / letters["English"]["characters"] for own in letters.values())


def test_the_paragraphs_say_the_same_in_every_language():
    """As many sentences, and about as long: none was cut, none embroidered."""
    lengths = {language: sum(map(len, own)) for language, own in PARAGRAPHS.items()}
    assert set(PARAGRAPHS) == {"English", "Greek", "Spanish", "Portuguese", "Dutch", "German", "French"}
    assert max(lengths.values()) < 1.15 * min(lengths.values())
    for own in PARAGRAPHS.values():
        assert [len(re.findall(r"\.(?: |$)", paragraph)) for paragraph in own] == [4, 3]
    assert {language: script(" ".join(own)) for language, own in PARAGRAPHS.items()} == {
        language: "Greek" if language == "Greek" else "Latin" for language in PARAGRAPHS
    }


def test_intervals_are_of_texts_drawn_anew():
    random = np.random.default_rng(0)
    texts = ["a" * int(n) + "Ω" for n in random.integers(1, 30, 200)]
    one, more = (
        efficiency({"x": texts[:n]}, tokenizer("bytes"), bootstrap=300)["languages"]["x"]["characters_per_token"] for n in (20, 200)
    )
    assert one["high"] - one["low"] > 1.5 * (more["high"] - more["low"]) > 0
