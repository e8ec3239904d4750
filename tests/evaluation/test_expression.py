"""Expressions over rows: what they give, what is unknown, and what is refused with the place and the way out."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_distill.errors import RecipeError
from mlx_distill.evaluation.expression import as_number, evaluate, quartiles
from mlx_distill.recipe.expression import parse, problem


def value(text: str, /, **columns: Any) -> Any:
    """Of one row with these columns."""
    return evaluate(parse(text), lambda name: [columns.get(name)], 1)[0]


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("year >= 2020", {"year": 2021}, True),
        ("year >= 2020", {"year": "2021"}, True),
        ("year >= 2020", {"year": "0999"}, False),
        ("2020 == year", {"year": "2020.0"}, True),
        ("year != 2020", {"year": "2020"}, False),
        ("2000 <= year < 2010", {"year": "2009"}, True),
        ("2000 <= year < 2010", {"year": "2010"}, False),
        ("year // 10 * 10", {"year": "2019"}, 2010),
        ("-(a - b) / 4 + a % 3", {"a": 2, "b": "10"}, 4),
        ("views > likes", {"views": "10", "likes": "9"}, True),
        ("date > '2020-06'", {"date": "2020-10-01"}, True),
        ("code < '9'", {"code": "10"}, True),  # a text in the expression: compared as texts
        ("language in ['el', 'en']", {"language": "el"}, True),
        ("language not in ['el', 'en']", {"language": "el"}, False),
        ("year in (2020, 2021)", {"year": "2021"}, True),
        ("'fire' in text", {"text": "a fire"}, True),
        ("'fire' in lower(text)", {"text": "A FIRE"}, True),
        ("'b' in tags", {"tags": ["a", "b"]}, True),
        ("tags in ['b', 'c']", {"tags": ["a", "b"]}, True),
        ("len(text) == 3", {"text": "abc"}, True),
        ("len(tags)", {"tags": ["a", "b"]}, 2),
        ("a.b.c == 1", {"a.b.c": 1}, True),
        ("column('Feature Name') == 'x'", {"Feature Name": "x"}, True),
        ("column('class') == 0", {"class": "0"}, True),
        ("verified == true", {"verified": "True"}, True),
        ("verified == false", {"verified": 0}, True),
        ("verified == true", {"verified": "perhaps"}, None),
        ("not verified", {"verified": "no"}, True),
        ("not verified", {"verified": "0"}, True),
        ("verified and urgent", {"verified": "yes", "urgent": True}, True),
        ("word == '2020'", {"word": "2020"}, True),
        ("word == 2020", {"word": "two"}, False),
    ],
)
def test_an_expression_says_of_a_row(text: str, columns: dict[str, Any], expected: Any) -> None:
    assert value(text, **columns) == expected
    assert (value(text, **columns) is None) == (expected is None)


@pytest.mark.parametrize(
    "text",
    ["year > 1", "not (year > 1)", "year == 1", "year != 1", "1 in year", "year in [1, 2]", "year + 1", "-year", "lower(year)", "len(year)",
     "0 < year < 3", "not year", "year and true", "year or false"],
)  # fmt: skip
def test_what_a_row_does_not_have_is_neither_yes_nor_no(text: str) -> None:
    assert value(text, year=None) is None
    assert value(text, year=float("nan")) is None


def test_unknown_is_settled_by_what_is_known() -> None:
    assert value("year > 1 or true", year=None) is True
    assert value("year > 1 and false", year=None) is False


def test_a_text_that_is_no_number_has_no_order_among_numbers() -> None:
    assert value("year >= 2020", year="soon") is None
    assert value("year >= 2020", year="") is None
    assert value("year == 2020", year=" ") is None


@pytest.mark.parametrize("text", ["a / 0", "a // 0", "a % 0", "a * 1e308 * 1e308", "'x' + a", "'x' * 9"])
def test_what_cannot_be_reckoned_is_unknown(text: str) -> None:
    assert value(text, a=1) is None


def test_quartiles_are_those_of_numpy_and_ties_stay_together() -> None:
    assert quartiles(list(range(1, 9))) == ["Q1", "Q1", "Q2", "Q2", "Q3", "Q3", "Q4", "Q4"]
    assert quartiles([5, 5, 5]) == ["Q1"] * 3
    assert quartiles([1, 1, 1, 1, 1, 2, "x", None]) == ["Q1"] * 5 + ["Q4", None, None]
    assert quartiles([None, "x"]) == [None, None]


def test_a_quartile_within_an_expression_is_its_name() -> None:
    found = evaluate(parse("quartile(n) == 'Q4' or n == 1"), lambda name: [1, 2, 3, 4], 4)
    assert found == [True, False, False, True]


@pytest.mark.parametrize(("given", "number"), [("1e3", 1000.0), (" 7 ", 7.0), (True, None), ("inf", None), ([1], None), (10**400, None)])
def test_what_reads_as_a_number(given: Any, number: float | None) -> None:
    assert as_number(given) == number


@pytest.mark.parametrize(
    ("text", "said", "way"),
    [
        ("year = 2020", "character 6, '= 2020',", "equal is written =="),
        ("a && b", "character 4", "write and for &&"),
        ("a || b", "character 4", "write or for ||"),
        ("a > 1 AND b > 2", "cannot be read", "write and for AND"),
        ("a <> 2", "cannot be read", "write != for <>"),
        ("!a", "cannot be read", "write not for !"),
        ("a is 1", "uses Is", "write == or !="),
        ("a & b", "uses BitAnd", "write and, or"),
        ("a ** 9", "uses Pow", "+ - * /"),
        ("x == 'é' and open('ü')", "character 14, \"open('ü')\", calls", "there is lower, len, quartile, column"),
        ("lowr(a)", "calls", "did you mean lower?"),
        ("a.lower()", "calls", "did you mean lower?"),
        ("quartile(a, b)", "quartile() takes one value", "quartile(views)"),
        ("len(*a)", "len() takes one value", "len(views)"),
        ("lower(s=a)", "lower() takes one value", "lower(views)"),
        ("column(x)", "in quotes", "column('Feature Name')"),
        ("class == 0", "cannot be read", "column('its name')"),
        ("(a, b)", "is a list", "language in ['el', 'en']"),
        ("a == [1]", "character 6, '[1]', is a list", "language in"),
        ("a[0]", "is nothing that an expression may hold", "columns, texts"),
        ("[x for x in y]", "is nothing that", "columns"),
        ("lambda: 1", "is nothing that", "columns"),
        ("a if b else c", "is nothing that", "columns"),
        ("f'{a}'", "is nothing that", "columns"),
        ("(x := 3)", "is nothing that", "columns"),
        ("None", "is no text, number", "columns"),
        ("1j", "is no text, number", "columns"),
        ("b'x'", "is no text, number", "columns"),
        ("...", "is no text, number", "columns"),
        ("a in [b.c()]", "calls", "lower"),
        ("'' in lower(open('x'))", "character 13", "lower"),
        ("not " * 60 + "a", "is nested more than 50 deep", "flatter"),
        ("(" * 300, "cannot be read", ""),
        ("a" * 1001, "has 1,001 characters; at most 1,000", "column"),
        ("9" * 999 + "0" * 9000, "has 9,999 characters", "column"),
        ("a\x00b", "cannot be read", ""),
        ("", "is empty", "write a column"),
    ],
)
def test_everything_else_is_refused_with_the_place_and_the_way_out(text: str, said: str, way: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse(text)
    assert said in error.value.message
    assert way in (error.value.hint or "")


@pytest.mark.parametrize(
    "text", ["__import__('os').system('true')", "().__class__", "a.__class__.__mro__()", "(lambda: a)()", "text.format(a)"]
)
def test_nothing_is_ever_called_or_reached_into(text: str) -> None:
    with pytest.raises(RecipeError):
        parse(text)
    assert value("text.__class__", **{"text.__class__": 3}) == 3, "dots name columns, not attributes"


def test_a_name_stands_once_among_those_that_are_read() -> None:
    assert parse("a.b > 1 and lower(c) == 'x' or a.b in [d, column('e f'), true]").names == ["a.b", "c", "d", "e f"]


def test_before_the_data_are_read_a_name_with_spaces_may_be_a_column() -> None:
    assert problem("published date") is None
    assert problem("class") is None
    assert problem("year >= 2020") is None
    assert problem("year => 2020") is not None
    assert problem("a is b") is not None
    assert problem("") is not None
