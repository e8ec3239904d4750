"""Spellings: what a field with `aliases` takes, and that one without them takes what it always took."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.fields import nearest_value, parse

LAWS = {
    "EU DSA": ("Digital Services Act", "EU Digital Services Act (DSA)", "DSA"),
    "GDPR": ("General Data Protection Regulation", "EU GDPR"),
    "Utah": ("Utah Social Media Regulation Act", "Utah Social Media Law", "UT-SMRA"),
    "Florida": ("Florida Online Protections for Minors", "FL minor protections"),
    "California": ("California age-appropriate design code", "CAADCA", "SB976"),
    "NCMEC": ("NCMEC reporting", "18 U.S.C. 2258A"),
}
LAW = FieldSpec(kind="choice", choices=tuple(LAWS), aliases=LAWS)
MANY = FieldSpec(kind="list", choices=tuple(LAWS), aliases=LAWS, max_items=3)


@pytest.mark.parametrize(("law", "spelling"), [(law, spelling) for law, spellings in LAWS.items() for spelling in spellings])
def test_thirteen_spellings_are_six_laws(law: str, spelling: str) -> None:
    assert parse(LAW, spelling) == law
    assert parse(LAW, f"  {spelling.upper()}\n") == law
    assert parse(LAW, spelling.lower().replace(" ", "  ")) == law
    assert parse(MANY, [spelling]) == [law]


def test_a_choices_own_name_is_taken_in_any_case_too() -> None:
    assert parse(LAW, "gdpr") == "GDPR"
    assert parse(LAW, " eu\tDSA ") == "EU DSA"
    assert parse(FieldSpec(kind="choice", choices=("Solar", "Wind"), aliases={}), "SOLAR") == "Solar"


def test_a_spelling_that_may_stand_for_two_choices_stands_for_none() -> None:
    both = FieldSpec(kind="choice", choices=("US", "us", "EU"), aliases={"EU": ("Us ",)})
    assert (parse(both, "US"), parse(both, "us")) == ("US", "us"), "as it is written it is one of them"
    with pytest.raises(ValueError, match=r"^'uS' may stand for US or us or EU; spell it as one of them$"):
        parse(both, "uS")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("digital service act", "'digital service act' is none of its choices, nor an alias of one; did you mean EU DSA?"),
        ("GPDR", "'GPDR' is none of its choices, nor an alias of one; did you mean GDPR?"),
        ("COPPA 1998", "there is EU DSA, GDPR, Utah, Florida, California, NCMEC"),
    ],
)
def test_what_is_no_spelling_is_refused_with_the_choice_that_was_meant(raw: str, said: str) -> None:
    for spec, given in ((LAW, raw), (MANY, [raw])):
        with pytest.raises(ValueError, match="is none of its choices") as error:
            parse(spec, given)
        assert said in str(error.value)


def test_two_spellings_of_one_item_are_one_item() -> None:
    assert parse(MANY, ["DSA", "Digital Services Act", "gdpr", "EU GDPR", "ut-smra", "SB976"]) == ["EU DSA", "GDPR", "Utah"]
    assert parse(MANY, "dsa; EU DSA ;GDPR") == ["EU DSA", "GDPR"]


@pytest.mark.parametrize("raw", ["gdpr", "GDPR ", "Eu DSA", "eu  dsa"])
def test_without_aliases_a_choice_is_its_own_name_alone(raw: str) -> None:
    plain = FieldSpec(kind="choice", choices=tuple(LAWS))
    if raw.strip() in LAWS:
        assert parse(plain, raw) == raw.strip()
    else:
        with pytest.raises(ValueError, match="is none of its choices; "):
            parse(plain, raw)


def test_without_aliases_a_list_keeps_what_stands_in_it_twice() -> None:
    assert parse(FieldSpec(kind="list", choices=("a", "b")), ["a", "a", "b"]) == ["a", "a", "b"]


@pytest.mark.parametrize(("raw", "choice"), [(True, "true"), (3.0, "3"), (3, "3"), ("THREE", "3"), ("Wahr", "true")])
def test_numbers_and_truth_values_are_texts_first(raw: Any, choice: str) -> None:
    spec = FieldSpec(kind="choice", choices=("true", "3"), aliases={"3": ("three",), "true": ("wahr",)})
    assert parse(spec, raw) == choice


@pytest.mark.parametrize(("answer", "step"), [(-1.2268, 0), (-0.4, 0), (10.6, 10), (99, 10), (4.5, 5)])
def test_an_answer_outside_the_limits_is_nearest_to_the_limit(answer: float, step: int) -> None:
    assert nearest_value(FieldSpec(kind="score"), answer) == step
