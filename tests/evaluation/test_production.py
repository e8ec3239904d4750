"""What of a student's answers counts in earnest: readable, refused, how long, how many tokens."""

import pytest

from mlx_distill.evaluation.judge import Judged, judge
from mlx_distill.evaluation.pages.sections import production as section
from mlx_distill.evaluation.production import production
from mlx_distill.recipe.schema import FieldSpec


def row(answer, **more):
    return Judged(id="r", split="test", reference={}, answer=answer, **more)


def test_refused_rows_are_counted_by_their_reason_beside_answers_that_could_not_be_read():
    rows = [row({"a": 1}), row(None), row(None, refused="too long"), row(None, refused="too long"), row(None, refused="no text")]
    found = production(rows)
    assert found["valid_json"] == pytest.approx(1 / 5)
    assert found["refused"] == {"n": 3, "share": pytest.approx(3 / 5), "reasons": {"too long": 2, "no text": 1}}


def test_an_answer_is_as_long_as_its_compact_json():
    rows = [row({"urgent": True, "why": "φωτιά"}), row({"urgent": False}), row(None)]
    assert len('{"urgent":true,"why":"φωτιά"}') == 29
    assert production(rows)["answer_chars"] == {"n": 2, "mean": 22.5, "median": 22.5, "p95": pytest.approx(16 + 0.95 * 13)}


def test_tokens_are_of_the_rows_that_have_some():
    assert production([row({}, tokens=10), row({}, tokens=30), row({})])["tokens"] == {"n": 2, "mean": 20.0, "median": 20.0, "p95": 29.0}


def test_nothing_known_is_none():
    found = production([])
    assert found["valid_json"] is None and found["refused"] == {"n": 0, "share": None, "reasons": {}}
    assert found["tokens"] == {"n": 0, "mean": None, "median": None, "p95": None}


def test_the_judges_document_has_it():
    assert judge([row({"a": True}, tokens=7)], {"a": FieldSpec(kind="flag")}, bootstrap=100)["production"]["tokens"]["mean"] == 7


def test_the_section_says_what_is_known_and_why_rows_were_refused():
    rows = [row({"a": True}, tokens=7), row(None, refused="<too> long")]
    document = {"production": {**production(rows), "seconds_per_answer": 0.05, "peak_memory_bytes": 3 * 2**30, "device": "A<1>"}}
    page = section.render(document)
    for shown in ("50.0 %", "1 (50.0 %)", "72,000", "3.00 GiB", "A&lt;1&gt;", "&lt;too&gt; long"):
        assert shown in page
    assert "<too>" not in page
    assert "| Answers an hour | 72,000 |" in section.markdown(document)


def test_the_section_is_empty_where_nothing_is_known():
    for document in ({}, {"production": production([])}):
        assert section.render(document) == section.markdown(document) == ""
