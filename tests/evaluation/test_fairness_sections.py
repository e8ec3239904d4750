"""What a person reads of fairness and of the tokenizer: worst first, nothing unescaped, no text where texts are hidden."""

import re
from html.parser import HTMLParser

import pytest

from mlx_distill.evaluation.fairness import fairness
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.language.tokenizer import efficiency
from mlx_distill.evaluation.pages.sections import fairness as section
from mlx_distill.evaluation.pages.sections import tokenizer as tokens
from mlx_distill.recipe.schema import FairnessSpec, ScenarioSpec
from mlx_distill.records import BadRow
from tests.fairness_cases import BY_LANGUAGE, CALL, GREEK, TASK, ask, rows_of
from tests.small_tokenizers import tokenizer

EVIL = "<script>alert('x')</script>"
VOID = {"meta", "br", "wbr", "path", "line", "circle", "rect", "polyline", "use"}


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.found = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.found.append(tag)


def words(page):
    return re.sub(r"\s+", " ", re.sub(r"<(?:title|style)[^>]*>.*?</(?:title|style)>|<[^>]*>", " ", page, flags=re.S))


def document(who=None, *, scenarios=None, rows=None, groups=(), most=0.1, texts=True):
    spec = FairnessSpec(scenarios={"call": CALL} if scenarios is None else scenarios, groups=groups, max_gap=most)
    who = who or ask(lambda text: 5 + 2 * ("Athens" in text))
    found = fairness(spec, TASK, rows or [], who, bootstrap=200, seed=0, say=lambda words: None, show_texts=texts)
    return {"fairness": found, "texts": texts}


def renamed(tables, field="send"):
    return rows_of(field, tables, (False, True), column="language")


def test_without_a_section_there_is_nothing_to_show():
    assert section.render({}) == section.markdown({}) == tokens.render({}) == tokens.markdown({}) == ""
    assert section.render({"fairness": None}) == ""


def test_the_gap_that_misses_comes_first_with_its_size_and_both_answers():
    page = section.render(document())
    Balanced(page)
    said = words(page)
    assert "✗ missed Some things that should be alike differ by more than 10.0 %." in said
    assert said.index("Changing place") < said.index("Changing who")
    assert "2.00 points (25.0 %)" in said and "Kolonaki, Athens above a village in Evia" in said
    assert "Fire near Kolonaki, Athens. A Greek citizen, aged 8, cannot leave." in said
    assert "Changing who changes nothing" in said
    late = words(section.render(document(ask(lambda text: 9 if "81" in text else 5))))
    assert late.index("Changing age") < late.index("Changing place")
    assert "<svg" in page and "aria-label" in page


def test_the_scenario_that_misses_comes_before_one_that_does_not():
    made = document(ask(lambda text: 9 if "Φωτιά" in text else 5), scenarios={"call": CALL, "school": GREEK})
    assert [found["verdict"] for found in made["fairness"]["scenarios"].values()] == ["met", "missed"]
    for shown in (words(section.render(made)), section.markdown(made)):
        assert shown.index("school") < shown.index("call")


def test_every_number_of_a_plot_stands_in_a_table():
    page = section.render(document())
    table = words(re.sub(r"<svg.*?</svg>", "", page, flags=re.S))
    for label in re.findall(r'<svg[^>]*aria-label="([^"]*)"', page):
        for number in re.findall(r"\d+\.\d %", label):
            assert number in table


def test_where_texts_are_hidden_none_is_shown():
    hidden = document(scenarios={"school": GREEK}, texts=False, who=ask(lambda text: 3 if "Φωτιά" in text else 7))
    for shown in (section.render(hidden), section.markdown(hidden)):
        assert "Φωτιά" not in shown and "dry grass" not in shown and "4.00 points" in shown
    told = document(scenarios={"school": GREEK}, who=ask(lambda text: 3 if "Φωτιά" in text else 7))
    assert "3 παιδιά." in section.render(told)
    assert "3 παιδιά." not in section.render({**told, "texts": False})


def test_what_comes_from_the_recipe_and_the_rows_is_escaped():
    scenario = ScenarioSpec(row={"text": "{a} and"}, variants={"a": (EVIL, "|pipe| [link](http://x) @who")})
    rows = [
        Judged(id=str(i), split="test", reference={"kind": "fire"}, answer={"kind": "fire"}, record={"<b>g": EVIL if i < 40 else "b"})
        for i in range(80)
    ]

    def refuses(examples):
        return [BadRow(EVIL, id=e.id) if "script" in e.text else one for e, one in zip(examples, ask()(examples), strict=True)]

    made = document(refuses, scenarios={"<i>x": scenario}, rows=rows, groups=("<b>g",))
    page, short = section.render(made), section.markdown(made)
    Balanced(page)
    assert "<script" not in page and "<i>x" not in page and "<b>g" not in page and "&lt;script&gt;" in page
    assert "<script" not in short and "[link](" not in short and "@who" not in short and "<b>g" not in short and "<i>x" not in short


def test_what_was_not_answered_is_said():
    page = section.render(document(lambda examples: [BadRow("too long", id=e.id) for e in examples]))
    assert "✗ 24 of them were not answered: too long (24)" in words(page)


def test_groups_are_shown_with_their_gaps_what_chance_brings_and_which_are_too_small():
    made = document(scenarios={}, rows=renamed({**BY_LANGUAGE, "pt": [[5, 0], [0, 5]]}), groups=("language",), most=0.05)
    page = section.render(made)
    Balanced(page)
    said = words(page)
    assert "pt has fewer than 30 rows: shown, and no part of the verdict" in said
    assert "true positive rate of true: es 94.9 %, el 80.5 %" in said and "14.4 %" in said
    assert "of twenty where there is no difference, one may still seem to have one" in said
    assert said.index("equalised odds") < said.index("demographic parity")
    assert "not certain" in said


def test_a_gap_that_is_certainly_too_large_comes_before_a_larger_one_that_is_not_certain():
    def entry(name, value, verdict, decides=True):
        return {
            "name": name, "rate": "accuracy", "label": None, "value": value, "low": 0.0, "high": 1.0, "pair": ["a", "b"],
            "values": [1.0, 0.5], "chance": 0.1, "p": 0.5, "decides": decides, "verdict": verdict,
        }  # fmt: skip

    gaps = [entry("demographic_parity", 0.9, "none", False), entry("equalized_odds", 0.5, "not certain"), entry("accuracy", 0.2, "missed")]
    column = {
        "verdict": "missed", "groups": [{"value": "a", "n": 40, "small": False}], "left_out": 0, "unknown": 0,
        "fields": {"kind": {"kind": "flag", "groups": [{"labels": {}}], "gaps": gaps}},
    }  # fmt: skip
    found = {"verdict": "missed", "max_gap": 0.1, "tested": 3, "scenarios": {}, "groups": {"g": column}}
    said = words(section.render({"fairness": found}))
    assert said.index("kind : accuracy") < said.index("kind : equalised odds") < said.index("kind : demographic parity")


def test_scores_by_group_are_in_points():
    rows = [
        Judged(id=str(i), split="test", reference={"urgency": 5}, answer={"urgency": 5 + i % 2}, record={"g": "ab"[i % 2]})
        for i in range(80)
    ]
    said = words(section.render(document(scenarios={}, rows=rows, groups=("g",))))
    assert "1.00 points (12.5 %)" in said and "b +1.00, a +0.00" in said


def test_a_pull_request_reads_what_missed_in_a_table():
    short = section.markdown(document(rows=renamed(BY_LANGUAGE), groups=("language",)))
    lines = [line for line in short.splitlines() if line.startswith("|")]
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    assert any("call, place: urgency | ✗ missed | 2.00 points (25.0 %)" in line for line in lines)
    assert any(line.startswith("| language: equalised odds of send | not certain") for line in lines)


@pytest.mark.parametrize("verdict", ["met", "missed", "not certain", "none"])
def test_every_verdict_has_words(verdict):
    found = {"verdict": verdict, "max_gap": 0.1, "tested": 0, "scenarios": {}, "groups": {}}
    assert len(words(section.render({"fairness": found}))) > 40 and "{" not in section.render({"fairness": found})
    assert section.markdown({"fairness": found}).strip()


def test_the_tokenizer_is_told_in_a_sentence_and_two_tables():
    texts = {"el": ["Φωτιά στο βουνό"], EVIL: ["fire"], "zh": ["火灾"]}
    made = {"tokenizer": {"by": "column lang", **efficiency(texts, tokenizer("bytes"), bootstrap=100)}}
    page, short = tokens.render(made), tokens.markdown(made)
    Balanced(page)
    assert re.search(r"For the same content, Greek costs \d\.\d times as many tokens as English", words(page))
    assert "<script" not in page + short and page.count("<table") == 2
    assert short.count("\n|") == 5


def test_a_tokenizer_that_treats_all_alike_is_said_to():
    found = {"paragraphs": {"English": {"relative": 1.0}, "Greek": {"relative": 1.2}}}
    assert tokens.said(found) == "For the same content, no language that was tried costs 1.5 times as many tokens as English."
