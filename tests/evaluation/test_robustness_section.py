"""The report's section on spoiled texts says what the document says, escapes what comes from data, and hides what is private."""

import html.parser
import json

import pytest

from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.pages.sections import robustness as section
from mlx_distill.evaluation.robustness import robustness
from mlx_distill.recipe.schema import FieldSpec, RobustnessSpec, SourceSpec, SuiteSpec, TaskSpec
from mlx_distill.records import BadRow, Prediction

NASTY = '<script>alert("x")</script> & \x00 \u202eשלום 🔥 <b>_x_</b>'
TASK = TaskSpec(
    input="{text}",
    fields={
        "risk": FieldSpec(kind="score", weight=1.0),
        "<kind>": FieldSpec(kind="choice", choices=("<a>", "b")),
        "why": FieldSpec(kind="text"),
    },
    tiers={"high": 5.0, "low": 0.0},
)
ROWS = [
    Judged(
        id=f"<r{i}>",
        split="test",
        reference={"risk": 3, "<kind>": "b"},
        answer={"risk": 3, "<kind>": "<a>", "why": NASTY},
        confidence={"risk": 0.5, "<kind>": 0.8},
        reference_overall=3.0 + 3 * (i % 2),
        reference_tier=("low", "high")[i % 2],
        overall=3.0,
        tier="low",
        record={"text": f"Wörter {i} und mehr. {NASTY} Ende."},
    )
    for i in range(12)
]


def ask(examples):
    answers = [
        Prediction(e.id, {"risk": 6, "<kind>": "b", "why": NASTY}, {"risk": 0.4, "<kind>": 0.6}, overall=6.0, tier="high") for e in examples
    ]
    return [BadRow(f"too {NASTY}"), *answers[1:]]


def document(tmp_path, **spec):
    path = tmp_path / "suite.jsonl"
    rows = [{"text": f"{NASTY} {i}", "<kind>": "b" if i % 3 else "<a>", "lang": f"<{i % 2}>"} for i in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{ no json <b>\n", encoding="utf-8")
    given = {"<own>": SuiteSpec(source=SourceSpec(kind="jsonl", path=str(path)), by=("lang",))}
    found = robustness(RobustnessSpec(**{"given": given, **spec}), TASK, ROWS, ask, bootstrap=100, seed=0)
    return {"robustness": json.loads(json.dumps(found))}


class Words(html.parser.HTMLParser):
    """What a person reads; every tag that opens also closes, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("wbr", "br", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("line", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def read(markup):
    words = Words()
    words.feed(markup)
    assert words.open == []
    return words


def test_nothing_is_said_where_nothing_was_tried():
    for empty in ({}, {"robustness": None}):
        assert section.render(empty) == section.markdown(empty) == ""


def test_every_suite_stands_there_with_its_figure_and_verdict(tmp_path):
    made = document(tmp_path, max_flip_rate=0.5)
    words = read(section.render(made)).text
    for suite in made["robustness"]["suites"].values():
        assert suite["title"] in words and suite["meaning"][1:] in words
        assert f"{suite['flips']['any']['value'] * 100:.1f} %" in words
    assert "✗ missed" in words and "At most 50.0 % may flip." in words
    assert "the answer became what the text demanded in" in words
    assert "There is no threshold" in words and "+3.00 (3.00)" in words and "−15.0" in words


def test_a_given_suite_has_a_table_by_its_columns(tmp_path):
    words = read(section.render(document(tmp_path, suites=()))).text
    assert "62.5 % of 8 rows do what is expected of them" in words  # five expect b; the row that is refused expects <a>
    assert "By lang, worst first" in words and "<0>" in words and "few rows" in words
    assert "1 row could not be judged" in words


def test_what_comes_from_data_is_escaped_in_both_forms(tmp_path):
    made = document(tmp_path, max_flip_rate=0.5)
    markup, markdown = section.render(made), section.markdown(made)
    for text in (markup, markdown):
        assert "<script" not in text and "\x00" not in text and "<own>" not in text and "<kind>" not in text and "<0>" not in text
    assert "&lt;script&gt;" in markup
    assert "script" not in markdown  # no text of a row in a pull request
    assert {"details", "article", "table", "svg"} <= set(read(markup).tags)


def test_the_form_for_a_pull_request_names_every_suite_and_the_worst_tests(tmp_path):
    made = document(tmp_path, max_flip_rate=0.5)
    text = section.markdown(made)
    assert all(suite["title"] in text for suite in made["robustness"]["suites"].values())
    assert "✗ **missed**" in text and "&lt;own&gt;: " in text and "| lang: " in text


@pytest.mark.parametrize("hidden", [{"texts": False}, {"report": {"texts": False}}])
def test_private_texts_are_not_drawn(tmp_path, hidden):
    made = document(tmp_path)
    assert "Wörter" in section.render(made) and "Wörter" not in section.render(made | hidden)
    assert "examples" in section.render(made | {"report": "runs/x/report.html"})


def test_a_suite_that_changed_nothing_is_named_and_an_empty_one_draws_nothing(tmp_path):
    bare = [Judged(id="1", split="test", reference={}, answer={"risk": 3}, record={"text": "我"})]
    found = robustness(RobustnessSpec(suites=("case", "order")), TASK, bare, ask, bootstrap=100, seed=0)
    words = read(section.render({"robustness": found})).text
    assert "not asked: Capitals (1), Order (1)" in words
    none = robustness(RobustnessSpec(), TASK, [], ask, bootstrap=100, seed=0)
    assert read(section.render({"robustness": none})).text and section.markdown({"robustness": none}) == ""
    texts = TaskSpec(input="{text}", fields={"why": FieldSpec(kind="text")})
    row = Judged(id="1", split="test", reference={}, answer={"why": "x"}, record={"text": "Some words."})
    only = robustness(RobustnessSpec(), texts, [row], lambda es: [Prediction(e.id, {"why": "y"}, {}) for e in es], bootstrap=100, seed=0)
    read(section.render({"robustness": only}))
    assert section.markdown({"robustness": only})


def test_with_a_threshold_the_report_says_what_is_handed_back(tmp_path):
    def defers(examples):
        return [
            Prediction(e.id, {"risk": 3, "<kind>": "<a>", "why": ""}, {"risk": 0.1, "<kind>": 0.1}, sure=0.1, defer=True) for e in examples
        ]

    found = robustness(RobustnessSpec(suites=("nonsense", "typos")), TASK, ROWS, defers, bootstrap=100, seed=0)
    words = read(section.render({"robustness": found})).text
    assert "100.0 %" in words and "There is no threshold" not in words and "handed back" in words
