"""Answers made elsewhere: where they stand, what of them can be read, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError
from mlx_distill.evaluation.elsewhere.columns import Columns
from mlx_distill.evaluation.elsewhere.outside import Read, Reader
from mlx_distill.evaluation.judge import judge
from mlx_distill.recipe.schema import CapSpec, FieldSpec, TaskSpec
from mlx_distill.records import BadRow, Example

TASK = TaskSpec(
    input="{title}",
    fields={
        "law": FieldSpec(kind="choice", choices=("GDPR", "EU DSA"), aliases={"EU DSA": ("Digital Services Act",)}),
        "risk": FieldSpec(kind="score", weight=1),
        "urgent": FieldSpec(kind="flag", raters=("ann1", "ann2")),
        "why": FieldSpec(kind="text"),
    },
    tiers={"high": 5, "low": 0},
    caps=(CapSpec(when={"source": "blog"}, cap=4),),
)
PLAIN = Columns()
TABLE = Columns.parse("id=article, reference = oracle_{field} ,answer=student.{field},confidence=p_{field}")


def read(*records: dict[str, Any], columns: Columns = PLAIN, **more: Any) -> Read:
    return Reader(TASK, columns, **more).rows(SourceRow(i, record) for i, record in enumerate(records, start=1))


def test_a_table_with_a_column_map_has_both_sides_overall_and_tier() -> None:
    record = {
        "article": 7, "title": "Flood", "source": "blog", "oracle_law": "gdpr", "oracle_risk": "8", "oracle_urgent": "yes",
        "oracle_why": "",
        "student": {"law": "digital services act", "risk": 4.2, "urgent": 0}, "p_law": "0.9", "p_risk": 2, "p_urgent": None,
        "ann1": "true", "ann2": "maybe",
    }  # fmt: skip
    found = read(record, columns=TABLE)
    (row,) = found.rows
    assert (row.id, row.split, row.text) == ("7", "test", "Flood")
    assert row.reference == {"law": "GDPR", "risk": 8, "urgent": True}
    assert row.answer == {"law": "EU DSA", "risk": 4.2, "urgent": False}
    assert row.confidence == {"law": 0.9}, "what is no probability is left out"
    assert (row.reference_overall, row.reference_tier) == (4, "low"), "the cap holds on both sides"
    assert (row.overall, row.tier) == (4, "low")
    assert row.raters == {"urgent": [True, None]}
    assert row.record == record
    (remark,) = found.remarks()
    assert remark.startswith("Of risk, 1 confidence is no probability from 0 to 1 (the first: 2)")


def test_lines_of_predictions_are_read_as_they_are() -> None:
    line = {
        "id": "a", "split": "valid", "reference": {"risk": 3, "law": None}, "answer": {"risk": 4}, "confidence": {"risk": 0.5, "law": 0.7},
        "probabilities": {"risk": {"raw": [0.0] * 10 + [1.0], "calibrated": [0.1] * 10 + [0]}, "urgent": {"raw": [0.25, 0.75]}, "law": [1]},
        "sure": 0.4, "defer": True, "sets": {"risk": [3, 5], "odd": [1]}, "nll": 1.5, "tokens": 3, "overall": 99,
    }  # fmt: skip
    (row,) = read(line).rows
    assert (row.split, row.reference, row.answer, row.confidence) == ("valid", {"risk": 3}, {"risk": 4}, {"risk": 0.5})
    assert row.probabilities == {"risk": [0.1] * 10 + [0], "urgent": [0.25, 0.75]}
    assert row.raw == {"risk": [0.0] * 10 + [1.0], "urgent": [0.25, 0.75]}
    assert (row.sure, row.defer, row.sets, row.nll, row.nll_tokens) == (0.4, True, {"risk": [3, 5]}, 1.5, 3)
    assert row.overall == 4, "the overall is the rubric's, whatever the line says"


def test_a_bare_distribution_is_the_one_to_go_by() -> None:
    (row,) = read({"id": "a", "reference": {"urgent": True}, "answer": {"urgent": True}, "probabilities": {"urgent": [0.2, 0.8]}}).rows
    assert (row.probabilities, row.raw) == ({"urgent": [0.2, 0.8]}, {})


def test_whole_answers_may_be_json_in_a_cell() -> None:
    (row,) = read({"reference": '{"risk": {"score": 3, "reasoning": "x"}}', "answer": '{"risk": {"score": "4"}, "colour": "red"}'}).rows
    assert (row.id, row.reference, row.answer) == ("1", {"risk": 3}, {"risk": 4})


@pytest.mark.parametrize(
    "answer", [None, "", "I think it is 7", "[7]", '"7"', "{", 7, [7], {}, {"colour": "red"}, {"risk": None}, "[" * 9999]
)
def test_what_is_no_answer_is_counted_as_invalid_and_stops_nothing(answer: Any) -> None:
    found = read({"reference": {"risk": 3}, "answer": answer}, {"reference": {"risk": 3}, "answer": {"risk": 3}})
    assert [row.answer for row in found.rows] == [None, {"risk": 3}]
    assert found.rows[0].overall is None
    assert judge(found.rows, TASK.fields, bootstrap=100)["metrics"]["valid_json"]["value"] == 0.5
    assert list(found.remarks()) == ["1 row has no valid answer: null, no JSON object, or nothing in it that a field can take."]


def test_a_value_that_its_field_cannot_take_is_no_answer_to_that_field_alone() -> None:
    reference = {"law": "GDPR", "risk": 3}
    found = read(
        {"reference": reference, "answer": {"law": "COPPA", "risk": 3}},
        {"reference": reference, "answer": {"law": "FERPA", "risk": "high"}},
        {"reference": reference, "answer": {"law": "GDPR", "risk": float("nan")}},
    )
    assert [row.answer for row in found.rows] == [{"risk": 3}, None, {"law": "GDPR"}]
    metrics = judge(found.rows, {"law": TASK.fields["law"]}, bootstrap=100)["metrics"]
    assert metrics["accuracy.law"]["value"] == pytest.approx(1 / 3)
    invalid, law, risk = found.remarks()
    assert invalid.startswith("1 row has no valid answer")
    assert law.startswith("2 values of law cannot be read: no answer to that field; the first: 'COPPA' is none of its choices")
    assert risk == "1 value of risk cannot be read: no answer to that field; the first: 'high' is no number."


def test_scores_outside_their_limits_are_taken_as_they_stand_and_told() -> None:
    found = read(*({"reference": {"risk": 0}, "answer": {"risk": said}} for said in (-0.5, "12", 10.25, 10.0)))
    assert [row.answer for row in found.rows] == [{"risk": -0.5}, {"risk": 12}, {"risk": 10.25}, {"risk": 10}]
    assert judge(found.rows, TASK.fields, bootstrap=100)["metrics"]["mae.risk"]["value"] == pytest.approx((0.5 + 10.25 + 10 + 12) / 4)
    assert list(found.remarks()) == ["3 scores lie outside the limits of risk, the furthest at 12; they are taken as they stand."]


def test_a_label_that_cannot_be_read_makes_the_row_bad() -> None:
    found = read({"reference": {"risk": 11}, "answer": {"risk": 3}}, {"reference": {"risk": 1}, "answer": {}}, missing=["skip"])
    assert [(row.reason, row.line) for row in found.bad] == [("risk: 11 is outside 0 to 10", 1)]
    assert "1 bad row left out, the first: risk: 11 is outside 0 to 10." in found.remarks()
    assert read({"reference": {"risk": "skip", "urgent": True}}, missing=["skip"]).rows[0].reference == {"urgent": True}


def test_labels_come_from_the_data_by_id_where_a_line_has_none() -> None:
    example = Example("7", {"id": "7", "source": "blog", "ann1": "no"}, "A flood.", {"risk": 9})
    found = read({"id": 7, "answer": {"risk": 8}, "extra": 1}, {"id": 8, "answer": {"risk": 8}}, labelled={"7": example})
    (row,) = found.rows
    assert (row.reference, row.text, row.raters) == ({"risk": 9}, "A flood.", {"urgent": [False, None]})
    assert row.record == {"id": "7", "answer": {"risk": 8}, "extra": 1, "source": "blog", "ann1": "no"}
    assert (row.reference_overall, row.overall) == (4, 4), "caps see the data's columns"
    assert list(found.remarks()) == ["1 row without any label left out, the first: 8."]


def test_labels_of_the_file_stand_before_those_of_the_data() -> None:
    example = Example("7", {"id": "7"}, "A flood.", {"risk": 9})
    (row,) = read({"id": "7", "reference": {"risk": 1}, "answer": {"risk": 8}}, labelled={"7": example}).rows
    assert (row.reference, row.text) == ({"risk": 1}, "A flood.")


def test_one_id_twice_in_a_split_is_bad_the_second_time() -> None:
    line = {"id": "a", "reference": {"risk": 1}, "answer": {"risk": 1}}
    found = read(line, line, {**line, "split": "valid"})
    assert [(row.id, row.split) for row in found.rows] == [("a", "test"), ("a", "valid")]
    assert [row.reason for row in found.bad] == ["the id 'a' stands on line 1 already"]


def test_what_could_not_be_read_as_a_row_is_kept_as_bad() -> None:
    found = Reader(TASK, Columns()).rows([BadRow("not JSON", 3)])
    assert ([row.reason for row in found.bad], found.rows) == (["not JSON"], [])


def test_labels_may_stand_where_the_recipes_data_have_them() -> None:
    (row,) = read({"id": "a", "law": "gdpr", "risk": 3, "answer": {"risk": 4}}).rows
    assert row.reference == {"law": "GDPR", "risk": 3}
    found = read({"id": "a", "law": "gdpr", "risk": 3, "answer": {"risk": 4}}, columns=Columns.parse("reference=gold_{field}"))
    assert found.unlabelled == ["a"], "a column that was named is the only one"


def test_a_field_called_as_a_key_of_our_lines_is_has_no_label_there() -> None:
    task = TaskSpec(input="{t}", fields={"confidence": FieldSpec(kind="choice", choices=("HIGH", "LOW")), "tier": FieldSpec(kind="text")})
    found = Reader(task, PLAIN).rows(
        [SourceRow(1, {"id": "a", "answer": {"confidence": "LOW"}, "confidence": {"confidence": 0.5}, "tier": "x"})]
    )
    assert (found.rows, found.bad, found.unlabelled) == ([], [], ["a"])


def test_of_a_single_field_the_value_may_stand_alone_in_its_column() -> None:
    task = TaskSpec(input="{t}", fields={"hate": FieldSpec(kind="choice", choices=("hateful", "non-hateful"))})
    columns = Columns.parse("id=case,reference=label_gold,answer=label_majority,confidence=p")
    record = {"case": "1", "label_gold": "hateful", "label_majority": "non-hateful", "p": "0.75"}
    (row,) = Reader(task, columns).rows([SourceRow(1, record)]).rows
    assert (row.reference, row.answer, row.confidence) == ({"hate": "hateful"}, {"hate": "non-hateful"}, {"hate": 0.75})
    found = Reader(task, columns).rows([SourceRow(1, {**record, "label_majority": "cannot tell"})])
    assert found.rows[0].answer is None and found.unread == {"hate": 1}


# the map of columns


def test_a_map_of_columns_names_some_and_leaves_the_others() -> None:
    found = Columns.parse("id=article_id,reference=oracle_{field},answer=a,b,confidence=p.{field}")
    assert (found.id, found.reference, found.answer, found.confidence) == ("article_id", "oracle_{field}", "a,b", "p.{field}")
    assert (found.split, found.told) == ("split", {"id", "reference", "answer", "confidence"})
    assert found.of("reference", TASK) == ["oracle_law", "oracle_risk", "oracle_urgent", "oracle_why"]
    assert found.of("answer", TASK) == ["a,b"]
    assert Columns.parse("") == Columns.parse(" ") == Columns()


@pytest.mark.parametrize(
    ("text", "said", "way"),
    [
        ("article_id", "'article_id' names no column", "reference=oracle_{field}"),
        ("id=", "names no column", "id=article_id"),
        ("idd=x", "'idd' is nothing that a column can hold", "did you mean id?"),
        ("label={field}", "'label' is nothing that a column can hold", "there is id, split, reference, answer, confidence"),
        ("id=a,id=b", "'id' stands there twice", "one column"),
        ("id=x_{field}", "cannot be the column of the id", "one of them a row"),
        ("answer=x_{name}", "cannot be the column of the answer", "{field}"),
        ("answer=x_{field", "cannot be the column of the answer", "{field}"),
    ],
)
def test_a_map_that_cannot_be_read_is_refused(text: str, said: str, way: str) -> None:
    with pytest.raises(DataError) as error:
        Columns.parse(text)
    assert said in error.value.message and way in (error.value.hint or "")


@pytest.mark.parametrize(
    ("columns", "record", "said", "way"),
    [
        ("", {"id": 1, "risk": 3}, "there is no column 'answer' for the answer", "--columns"),
        (
            "answer=student_{field}",
            {"studnt_risk": 3},
            "there is no column 'student_law' or 'student_risk' or 'student_urgent'",
            "studnt_risk",
        ),
        ("id=article", {"answer": {}, "articel": 1}, "there is no column 'article' for the id", "did you mean articel?"),
        ("reference=gold", {"answer": {}}, "there is no column 'gold' for the reference", "there is answer"),
        ("confidence=p_{field}", {"answer": {}}, "for the confidence", "there is answer"),
    ],
)
def test_columns_that_are_not_there_are_told_before_anything_is_read(columns: str, record: dict[str, Any], said: str, way: str) -> None:
    with pytest.raises(DataError) as error:
        Columns.parse(columns).require(record, TASK, "x.csv")
    assert said in error.value.message and way in (error.value.hint or "") and error.value.file == "x.csv"


def test_one_column_of_several_is_enough() -> None:
    columns, record = Columns.parse("answer=student_{field}"), {"student_risk": 1, "reference": {"risk": 2, "urgent": True}}
    columns.require(record, TASK, "x.csv")
    found = read(record, columns=columns)
    assert [row.answer for row in found.rows] == [{"risk": 1}] and found.seen == {"risk"}
    with pytest.raises(DataError) as error:
        columns.require({"risk": 1}, TASK, "x.csv")
    assert error.value.message == "there is no column 'student_law' or 'student_risk' or 'student_urgent' for the answer"


def test_a_column_that_is_empty_in_the_first_row_is_there() -> None:
    Columns().require({"answer": None}, TASK, "x.csv")
    assert [row.answer for row in read({"answer": None, "reference": {"risk": 3}}).rows] == [None]
    with pytest.raises(DataError):
        Columns().require({"reply": None}, TASK, "x.csv")


def test_where_texts_stay_at_home_remarks_count_and_quote_nothing() -> None:
    name = "Patient John Smith"
    columns = Columns.parse("confidence=p_{field}")
    records = [
        {"id": name, "reference": {"law": "GDPR"}, "answer": {"law": name, "risk": 4711}, "p_law": name},
        {"id": "b", "reference": {"risk": name}, "answer": {"law": "GDPR"}},
        {"id": f"{name} again", "answer": {"law": "GDPR"}},
    ]
    found = read(*records, columns=columns)
    told = " ".join(found.remarks())
    assert told.count(name) >= 3 and "4711" in told, "a reader who may see rows is told what is wrong with the first"
    kept = list(found.remarks(texts=False))
    assert len(kept) == len(list(found.remarks())) >= 4
    assert not any(name in remark or "4711" in remark or "first" in remark for remark in kept)
    assert "1 value of law cannot be read: no answer to that field." in kept
    assert "1 row without any label left out." in kept and "1 bad row left out." in kept
