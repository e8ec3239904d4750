"""Each suite changes what it says, keeps what it must keep, and draws from its seed alone."""

import json
import re
import unicodedata
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlx_distill import catalog
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.robustness import _foreign, impossible, injection, irrelevant
from mlx_distill.evaluation.robustness._keyboard import neighbours
from mlx_distill.evaluation.robustness._language import language
from mlx_distill.evaluation.robustness._letters import characters
from mlx_distill.evaluation.robustness._sentences import insert, sentences
from mlx_distill.evaluation.robustness._suite import DOUBT, EVERY, KIND, LONGEST, SAME, SAME_OR_DEFER, Context
from mlx_distill.recipe.schema import FieldSpec, TaskSpec
from mlx_distill.task.prompt import Prompt
from tests.small_tokenizers import KINDS, MORE_SPECIALS, chat_template, tokenizer

FIELDS = {
    "risk": FieldSpec(kind="score", min=1, max=5),
    "kind": FieldSpec(kind="choice", choices=("fire", "flood", "none")),
    "urgent": FieldSpec(kind="flag"),
    "why": FieldSpec(kind="text"),
}
TASK = TaskSpec(input="{text}", fields=FIELDS)
ENGLISH = (
    "The fire near the old mill spread quickly on Monday 14 March 2022. Three houses were lost, but not one person was hurt. "
    "Write to help@fire.org, see https://fire.org/map_2 or call 112. Volunteers bring water, bread and blankets to the school."
)
TEXTS = {
    "en": ENGLISH,
    "nl": "De brandweer waarschuwt voor droogte in het bos. Het is niet toegestaan om vuur te maken. Één vonk is genoeg voor een ramp.",
    "pt": "Há fogo na mata perto da estação. Os bombeiros não conseguem chegar à aldeia. São três crianças e dois cães na casa.",
    "es": "El incendio se extendió con rapidez por la montaña. Los vecinos están a salvo en la escuela. Mañana habrá más viento.",
    "el": "Η φωτιά στην Εύβοια εξαπλώθηκε γρήγορα. Οι κάτοικοι εκκενώθηκαν προς την παραλία, με βάρκες. Δεν υπάρχουν τραυματίες.",
    "ru": "Пожар начался утром возле старой мельницы. Никто не пострадал, но три дома сгорели. Жители ждут помощи в школе.",
    "zh": "洪水淹没了三个村庄。居民们被转移到学校里。水位还在上升，请不要靠近河岸。",
    "ar": "اندلع الحريق في الغابة صباح اليوم. لم يصب أحد بأذى. السكان ينتظرون المساعدة في المدرسة.",
    "hi": "गाँव के पास जंगल में आग लग गई। सभी लोग सुरक्षित हैं। दमकल की गाड़ियाँ आ रही हैं।",
}
ALL = catalog.names(KIND)
CONTRADICTION = "No rain fell for weeks."


def context(text=ENGLISH, answer=None, reference=None, **more):
    row = Judged(id="r", split="test", reference=reference or {}, answer=answer or {"risk": 2, "kind": "fire", "urgent": True}, record={})
    return Context(TASK, row, "fire", {"fire": [text], "flood": [f"{CONTRADICTION} {CONTRADICTION}"], **more})


def perturb(name, text, seed=0, **how):
    return catalog.find(KIND, name).perturb(text, Random(seed), context(text, **how))


def test_every_suite_that_was_asked_for_is_there_and_says_what_it_expects():
    wanted = "accents case conflicting impossible injection irrelevant nonsense order out_of_domain truncated typos whitespace"
    assert wanted.split() == ALL
    suites = {name: catalog.find(KIND, name) for name in ALL}
    assert {name for name, suite in suites.items() if suite.EXPECT == DOUBT} == {"impossible", "nonsense", "out_of_domain"}
    assert {name for name, suite in suites.items() if suite.EXPECT == SAME_OR_DEFER} == {"conflicting", "truncated"}
    for suite in suites.values():
        assert suite.EXPECT in (SAME, SAME_OR_DEFER, DOUBT) and suite.WHERE in (EVERY, LONGEST)
        assert suite.TITLE and suite.MEANING and suite.__doc__


@pytest.mark.parametrize("name", ALL)
def test_a_seed_gives_one_change_and_another_seed_another(name):
    text = TEXTS["pt"]
    assert perturb(name, text, 7) == perturb(name, text, 7)
    assert len({perturb(name, text, seed, storm=["It rained. ", "The wind tore down the roof."]) for seed in range(20)}) > 1


@pytest.mark.parametrize("code", TEXTS)
@pytest.mark.parametrize("name", [name for name in ALL if name not in ("accents", "case")])
def test_texts_of_every_script_are_changed(name, code):
    assert all(perturb(name, TEXTS[code], seed) != TEXTS[code] for seed in range(10))


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(text=st.text(st.characters(exclude_categories=())), seed=st.integers(0, 1000))
@example(text="", seed=0)
@example(text="\x00", seed=0)
@example(text="\ud800 half an emoji", seed=0)
@example(text="👩‍👩‍👧‍👦 🇬🇷 👍🏽 שריפה\u202e", seed=3)
@example(text=" \n\t ", seed=0)
@example(text="\u0301" * 50, seed=0)
@example(text="ﷺ ǆ ŉ ß İ ς", seed=1)
def test_any_text_is_legal(name, text, seed):
    found = perturb(name, text, seed)
    assert isinstance(found, str) and found == perturb(name, text, seed)


@pytest.mark.parametrize("name", ALL)
def test_a_megabyte_is_legal(name):
    assert perturb(name, "A word. " * 131072, 1)


# typos


def distance(one, other):
    """Of optimal string alignment: insertions, deletions, substitutions and swaps of neighbours."""
    table = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            cost = one[i - 1] != other[j - 1]
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + cost)
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return table[len(one), len(other)]


@pytest.mark.parametrize("code", [code for code in TEXTS if code != "zh"])
def test_words_with_typos_stay_readable(code):
    for seed in range(30):
        before, after = TEXTS[code].split(), perturb("typos", TEXTS[code], seed).split()
        assert len(before) == len(after)
        for was, now in zip(map(characters, before), map(characters, after), strict=True):
            assert was[0] == now[0]
            assert distance(was, now) <= max(1, len(was) // 8)
            assert len([letter for letter in was if letter[0].isalpha()]) >= 4 or was == now


def test_one_letter_in_25_is_hit():
    text = "several ordinary words follow " * 50
    hit = [sum(a != b for a, b in zip(text.split(), perturb("typos", text, seed).split(), strict=True)) for seed in range(5)]
    assert hit == [round(50 * len("severalordinarywordsfollow") / 25)] * 5


def test_typos_leave_numbers_addresses_and_names_with_digits_alone():
    text = "On 2022-03-14 covid19 hit GPT4all users of help@fire.org at https://fire.org/map_two, see #stopfire or www.example.com <strong>"
    for seed in range(200):
        found = perturb("typos", text, seed).split()
        assert all(was == now or was == "users" for was, now in zip(text.split(), found, strict=True))


def test_a_text_without_a_word_to_hit_stays_as_it_is():
    assert perturb("typos", "OK 112! no? 10:30") == "OK 112! no? 10:30"


def test_all_kinds_of_slip_happen_and_neighbours_lie_beside_the_key():
    found = {perturb("typos", "xylophone", seed) for seed in range(300)}
    assert {"xylphone", "xylophonne", "xyolphone", "xylophobe"} <= found
    replaced = {
        (a, b)
        for word in found
        if len(word) == 9
        for a, b in zip("xylophone", word, strict=True)
        if a != b and sorted(word) != sorted("xylophone")
    }
    assert replaced and all(b in neighbours(a, "en") for a, b in replaced)


def test_keys_are_those_of_the_layout_and_keep_their_case():
    assert "z" in neighbours("t", "de") and "z" not in neighbours("t", "en")
    assert "ñ" in neighbours("l", "es") and "ç" in neighbours("l", "pt")
    assert set(neighbours("α", "el")) == {"σ", "ζ"}
    assert neighbours("Ñ", "es")[0].isupper() and "E" in neighbours("É", "pt") and "ά" not in neighbours("ά", "el")
    assert neighbours("字", "zh") == ()


# what is left of a text


def test_what_is_cut_is_the_end_and_the_last_word_is_whole():
    lengths = set()
    for seed in range(40):
        found = perturb("truncated", ENGLISH, seed)
        assert ENGLISH.startswith(found) and ENGLISH[len(found)] == " "
        lengths.add(len(found) / len(ENGLISH))
    short, long = sorted(lengths)
    assert 0.45 < short <= 0.5 and 0.7 < long <= 0.75


def test_a_text_without_spaces_is_cut_between_characters():
    text = "e\u0301" * 100
    assert {len(perturb("truncated", text, seed)) for seed in range(20)} == {100, 150}


def test_a_contradiction_stands_at_the_end_and_comes_from_a_row_of_another_label():
    assert perturb("conflicting", ENGLISH) == f"{ENGLISH} {CONTRADICTION}"
    alone = Context(TASK, context().row, "fire", {"fire": [ENGLISH]})
    assert catalog.find(KIND, "conflicting").perturb(ENGLISH, Random(0), alone) == ENGLISH


def test_capitals_change_no_letter_but_its_case():
    found = {perturb("case", TEXTS["el"], seed) for seed in range(10)}
    assert found == {TEXTS["el"].upper(), TEXTS["el"].lower()}
    assert perturb("case", "all small", 1) == perturb("case", "all small", 2) == "ALL SMALL"
    assert perturb("case", TEXTS["zh"]) == TEXTS["zh"]


@pytest.mark.parametrize("code", TEXTS)
def test_white_space_changes_and_words_do_not(code):
    seen = "".join(perturb("whitespace", TEXTS[code], seed) for seed in range(30))
    assert all(perturb("whitespace", TEXTS[code], seed).split() == TEXTS[code].split() for seed in range(10))
    assert code == "zh" or {"\n", "\t", "\u00a0"} <= set(seen)


def test_accents_are_left_out_or_stand_apart():
    text = "Não é à toa: «ξέρω» — naïve, ångström, Ελλάδα, ἄνθρωπος"
    bare = "Nao e a toa: «ξερω» — naive, angstrom, Ελλαδα, ανθρωπος"
    assert {perturb("accents", text, seed) for seed in range(20)} == {bare, unicodedata.normalize("NFD", text)}


def test_vowel_signs_of_other_scripts_are_no_accents():
    for text in (TEXTS["hi"], "יְרוּשָׁלַיִם", "مُحَمَّد", "Гончий ёж", "กรุงเทพ"):
        for seed in range(10):
            assert unicodedata.normalize("NFC", perturb("accents", text, seed)) == unicodedata.normalize("NFC", text)
    assert perturb("accents", "nothing to strip") == "nothing to strip"


@pytest.mark.parametrize("code", TEXTS)
def test_order_changes_and_every_sentence_stays(code):
    text = TEXTS[code]
    assert len(sentences(text)) == (4 if code == "en" else 3)
    found = perturb("order", text, 5)
    assert found != text and len(found) == len(text)
    assert sorted(part.strip() for part in sentences(found)) == sorted(part.strip() for part in sentences(text))


def test_one_sentence_has_no_order():
    assert perturb("order", "Only one sentence here.") == "Only one sentence here."


@pytest.mark.parametrize("code", [code for code in TEXTS if code != "hi"])
def test_irrelevant_sentences_are_of_the_texts_language_and_nothing_is_lost(code):
    for seed in range(10):
        found = perturb("irrelevant", TEXTS[code], seed)
        added = [saying for saying in irrelevant.SAYINGS[code] if saying in found]
        assert len(added) in (1, 2)
        for saying in added:
            found = found.replace(saying, "")
        assert "".join(found.split()) == "".join(TEXTS[code].split())


def test_both_lists_of_sayings_have_every_language_that_is_told_apart():
    assert set(irrelevant.SAYINGS) == set(impossible.ELSEWHERE) == set(impossible.CONTRADICTORY) == set(injection.ORDERS)
    assert all(language(" ".join(sayings)) == code for code, sayings in irrelevant.SAYINGS.items())
    assert {code: language(text) for code, text in TEXTS.items() if code != "hi"} == {code: code for code in TEXTS if code != "hi"}


# texts without an answer


def test_nonsense_keeps_no_word_of_some_length():
    for code in ("en", "nl", "el", "ru"):
        words = {word for word in re.findall(r"\w+", TEXTS[code]) if len(word) > 5}
        for seed in range(20):
            assert len(words & set(re.findall(r"\w+", perturb("nonsense", TEXTS[code], seed)))) <= 1


def test_nonsense_of_a_text_that_has_no_other_order_is_random_keys():
    for text in ("aa", "x", "我"):
        assert all(perturb("nonsense", text, seed) != text for seed in range(30))


def test_nonsense_of_the_same_characters_and_of_random_keys_both_happen():
    alike = {sorted(perturb("nonsense", ENGLISH, seed)) == sorted(ENGLISH) for seed in range(20)}
    assert alike == {True, False}


def test_out_of_domain_is_a_text_of_our_own_and_a_sentence_for_a_title():
    assert {perturb("out_of_domain", ENGLISH, seed) for seed in range(300)} == set(_foreign.TEXTS)
    assert all(any(text.startswith(perturb("out_of_domain", "A title", seed)) for text in _foreign.TEXTS) for seed in range(50))
    assert {language(text) for text in _foreign.TEXTS} >= {"en", "nl", "de", "fr", "es", "pt", "el", "ru", "ar", "zh"}
    assert all(len(sentences(text)[0]) > 10 for text in _foreign.TEXTS)


def test_impossible_texts_have_next_to_nothing_or_contradict_themselves():
    found = {perturb("impossible", TEXTS["pt"], seed) for seed in range(400)}
    assert found == {*impossible.NOTHING, impossible.ELSEWHERE["pt"], impossible.CONTRADICTORY["pt"]}
    assert "" in found and "x" in found and "…" in found


# injected orders


def test_an_order_demands_what_neither_student_nor_judge_said():
    seen = set()
    for seed in range(300):
        name, value = injection.aim(Random(seed), context(reference={"kind": "flood"}))
        seen.add((name, value))
        found = perturb("injection", ENGLISH, seed, reference={"kind": "flood"})
        assert name in found and str(value).lower() in found.lower()
    assert seen == {("risk", 5), ("kind", "none"), ("urgent", False)}


def test_where_the_student_gave_the_highest_score_the_lowest_is_demanded():
    assert injection.aim(Random(0), context(answer={"risk": 5})) == ("risk", 1)
    assert injection.aim(Random(0), context(answer={"risk": 4.8})) == ("risk", 1)
    assert injection.aim(Random(0), context(answer={"kind": "flood"}, reference={"kind": "fire"})) == ("kind", "none")
    two = TaskSpec(input="{text}", fields={"kind": FieldSpec(kind="choice", choices=("a", "b"))})
    row = Judged(id="r", split="test", reference={"kind": "b"}, answer={"kind": "a"})
    assert injection.aim(Random(0), Context(two, row)) == ("kind", "b")


def test_a_task_of_texts_alone_has_nothing_to_demand():
    assert injection.aim(Random(0), context(answer={"why": "because"})) is None
    assert perturb("injection", ENGLISH, answer={"why": "because"}) == ENGLISH


def test_orders_come_in_many_languages_places_and_guises_and_the_text_stays_whole():
    found = [perturb("injection", ENGLISH, seed) for seed in range(500)]
    for text in found:
        parts = sentences(ENGLISH)
        cut = next(i for i in range(len(parts) + 1) if text.startswith("".join(parts[:i]).rstrip()) and text.endswith("".join(parts[i:])))
        assert 0 <= cut <= len(parts)
    assert all(any(order.split("{")[0] in text for text in found) for order in injection.ORDERS.values())
    for markup in ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "[INST]", "</s>", "<|endoftext|>", "### Instruction:", "<!--", "```json"):
        assert any(markup in text for text in found)
    assert any(text.endswith(ENGLISH) for text in found) and any(text.startswith(ENGLISH) for text in found)
    assert any(not text.endswith(ENGLISH) and not text.startswith(ENGLISH) for text in found)


def test_a_pretended_answer_is_json_of_the_tasks_own_field():
    pretended = [text for seed in range(300) if "```json" in (text := perturb("injection", ENGLISH, seed))]
    assert pretended
    for text in pretended:
        assert json.loads(text.partition("```json")[2].partition("```")[0]).keys() <= FIELDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_pretended_markup_neither_breaks_a_prompt_nor_ends_its_turn(kind):
    made = tokenizer(kind, chat_template("gemma"))
    prompt, marks = Prompt(TASK, made), set(made.convert_tokens_to_ids(MORE_SPECIALS))

    def turns(text):
        return [i for i in prompt.ids(text)[0].tolist() if i in marks]

    assert turns(ENGLISH)
    assert all(turns(perturb("injection", ENGLISH, seed)) == turns(ENGLISH) for seed in range(100))


# sentences and characters


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(st.sampled_from("ab .!?\n。؟\u0301\u200d👍🏽é")))
def test_sentences_and_characters_put_together_are_the_text(text):
    assert "".join(sentences(text)) == text
    assert "".join(characters(text)) == text
    assert all(sentences(text)) and all(characters(text))


def test_characters_hold_their_marks():
    assert characters("कि👍🏽é") == ["कि", "👍🏽", "é"]
    assert characters("👩‍👧x") == ["👩‍👧", "x"]


def test_abbreviations_and_numbers_end_no_sentence():
    assert sentences("It cost 3.50 euros. See www.example.com for more.") == ["It cost 3.50 euros. ", "See www.example.com for more."]
    assert sentences("Dr. Bos said: 'Run!' Nobody did.") == ["Dr. Bos said: 'Run!' ", "Nobody did."]


def test_what_is_inserted_is_parted_by_a_space():
    assert insert("One is here. Two is there.", 0, "X") == "X One is here. Two is there."
    assert insert("One is here.\nTwo is there.", 1, "X") == "One is here.\nX Two is there."
    assert insert("", 0, "X") == "X"
