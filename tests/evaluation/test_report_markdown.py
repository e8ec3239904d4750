"""The report for a pull request: tables that hold, words that are nothing but words, and no row's text."""

import re

import pytest

from mlx_distill import catalog
from mlx_distill.evaluation.pages import contents, markdown, page
from mlx_distill.evaluation.pages.markup import cell, grid
from tests import reports


@pytest.fixture(scope="module")
def text():
    return markdown.render(reports.full())


def test_the_verdict_comes_first_then_targets_then_agreement(text):
    assert text.startswith("## ") and text.split("\n")[0].endswith("1 of 4 targets is missed: mean absolute error of επικινδυνότητα.")
    headings = re.findall(r"^### (.*)$", text, re.M)
    assert headings[:2] == ["Targets", "Student and baselines"]
    assert "85.6 %" in text and "82.6 to 88.2" in text


def test_every_table_has_as_many_cells_in_each_line(text):
    tables = re.findall(r"(?:^\|.*\|$\n?)+", text, re.M)
    assert len(tables) > 8
    for table in tables:
        lines = table.strip().split("\n")
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1, table
        assert re.fullmatch(r"\| (---:?( \| )?)+ \|", lines[1])


def test_words_of_the_data_are_neither_markup_nor_links_nor_calls(text):
    assert "<script" not in text and "<b>" not in text and "<storm>" not in text
    assert set(re.findall(r"<[^>]*>", text)) <= {"<details>", "</details>", "<summary>", "</summary>"}
    assert "https://example" not in text
    assert not re.search(r"[@#](all|1)\b", text)
    assert not re.search(r"(?<!\\)`code", text)
    assert "\x00" not in text
    text.encode("utf-8")


def test_no_rows_text_stands_in_it(text):
    assert "Word and word" not in text and "άάά" not in text
    assert "Word and word" in page.render(reports.full())


def test_every_section_has_both_forms_and_a_title():
    named = {name for group in contents.GROUPS.values() for name in group}
    assert named == set(catalog.names(contents.KIND))
    for name in named:
        module = catalog.find(contents.KIND, name)
        assert callable(module.render) and callable(module.markdown)


def test_every_section_is_shown_where_everything_was_measured(text):
    named = {name for group in contents.GROUPS.values() for name in group}
    assert {section.name for section in contents.rendered(reports.full())} == named
    assert {section.name for section in contents.in_markdown(reports.full())} >= named - {"disagreements"}


def test_a_cell_is_one_line_in_which_nothing_is_meant():
    assert cell("a|b\n<i>*x*</i> `y` [z](http://a.b) & _w_ ~~s~~ $m$") == (
        r"a\|b &lt;i&gt;\*x\*&lt;/i&gt; \`y\` \[z\](http&#58;//a.b) &amp; \_w\_ \~\~s\~\~ \$m\$"
    )
    assert cell("ping @someone about #12") == "ping @\u2060someone about #\u206012"
    assert cell("שלום") == "\u2068שלום\u2069"
    assert cell("a\x00b\ud800") == "a␀b�"


def test_a_table_without_rows_is_none():
    assert grid(["a", "b"], []) == ""
    assert grid(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |\n"
