"""From a file to examples: texts, labels, ids, and the bad rows with their lines and reasons."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.data.examples import Examples, Reader, collect, divide, load
from mlx_distill.data.sources import SourceRow
from mlx_distill.errors import DataError
from mlx_distill.recipe.schema import DataSpec, FieldSpec, SourceSpec, SplitSpec, TaskSpec
from mlx_distill.records import BadRow, Example

FIELDS = {"score": FieldSpec(kind="score"), "level": FieldSpec(kind="choice", choices=("HIGH", "LOW"))}
TASK = TaskSpec(input="{title}: {text}", fields=FIELDS)


def row(i: int, **columns: Any) -> dict[str, Any]:
    return {"id": f"a{i}", "title": f"T{i}", "text": f"text {i}", "score": i % 11, "level": "HIGH"} | columns


def write(folder: Path, rows: Sequence[Any]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows), encoding="utf-8")
    return path


def read(path: Path, *, task: TaskSpec = TASK, missing: tuple[str, ...] = (), max_bad_share: float = 1.0, kind: str = "jsonl") -> Examples:
    return collect(task, SourceSpec(kind=kind, path=str(path)), path, missing=missing, max_bad_share=max_bad_share)


def made(record: dict[str, Any], task: TaskSpec = TASK, missing: Sequence[str] | None = ()) -> Example | BadRow:
    (found,) = Reader(task, missing).examples([SourceRow(1, record)])
    return found


def test_a_row_becomes_an_example(tmp_path: Path) -> None:
    (example,) = read(write(tmp_path, [row(7)])).rows
    assert (example.id, example.text, example.labels, example.line) == ("a7", "T7: text 7", {"score": 7, "level": "HIGH"}, 1)
    assert example.record == row(7)


def test_a_flat_file_gives_the_same_examples(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,title,text,score,level\na1,T1,text 1,1.0,HIGH\na2,T2,text 2,,LOW\n")
    first, second = read(path, kind="csv").rows
    assert first.labels == {"score": 1, "level": "HIGH"} and first.text == "T1: text 1"
    assert second.labels == {"level": "LOW"}, "an empty cell is no label"


def test_values_of_data_missing_are_no_labels(tmp_path: Path) -> None:
    rows = [row(1, level="Not labeled"), row(2, score=-1), row(3)]
    found = read(write(tmp_path, rows), missing=("Not labeled", "-1"))
    assert [example.labels for example in found.rows] == [{"score": 1}, {"level": "HIGH"}, {"score": 3, "level": "HIGH"}]
    assert [bad.line for bad in read(write(tmp_path, rows)).bad] == [1, 2], "without the setting they are mistakes"


# bad rows


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"score": 11}, "score: 11 is outside 0 to 10"),
        ({"score": "many"}, "score: 'many' is no number"),
        ({"level": "HIHG"}, "level: 'HIHG' is none of its choices; did you mean HIGH?"),
        ({"level": "high"}, "level: 'high' is none of its choices; did you mean HIGH?"),
    ],
)
def test_a_label_that_is_not_legal_makes_its_row_bad(tmp_path: Path, changed: dict[str, Any], reason: str) -> None:
    path = write(tmp_path, [row(1), row(2) | changed, row(3)])
    found = read(path)
    assert [example.id for example in found.rows] == ["a1", "a3"]
    assert found.bad == [BadRow(reason, 2, "a2", str(path))]


def test_a_column_that_the_template_lacks_makes_a_row_bad(tmp_path: Path) -> None:
    without = {"id": "a2", "text": "x", "score": 1, "level": "LOW"}
    (bad,) = read(write(tmp_path, [row(1), without])).bad
    assert (bad.line, bad.id, bad.reason) == (2, "a2", "no column 'title'; there is id, text, score, level")


def test_what_is_not_of_the_sources_format_is_bad_among_the_others(tmp_path: Path) -> None:
    found = read(write(tmp_path, [row(1), "{broken", row(3)]))
    assert [example.line for example in found.rows] == [1, 3]
    (bad,) = found.bad
    assert bad.line == 2 and bad.id is None and "not JSON" in bad.reason


def test_an_id_that_stands_there_twice_is_bad_and_names_the_first(tmp_path: Path) -> None:
    found = read(write(tmp_path, [row(1), row(2), row(3, id="a1"), row(4, id="a1")]))
    assert [example.line for example in found.rows] == [1, 2]
    assert [(bad.line, bad.id, bad.reason) for bad in found.bad] == [
        (3, "a1", "the id 'a1' stands on line 1 already"),
        (4, "a1", "the id 'a1' stands on line 1 already"),
    ]


def test_an_id_that_another_file_has_already_is_bad_with_that_file(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps(row(1)) + "\n")
    found = read(tmp_path)
    assert len(found.rows) == 1
    assert found.bad == [BadRow(f"the id 'a1' stands on line 1 of {tmp_path / 'a.jsonl'} already", 1, "a1", str(tmp_path / "b.jsonl"))]


def test_a_bad_row_does_not_take_its_id_from_a_good_one(tmp_path: Path) -> None:
    found = read(write(tmp_path, [row(1, score=99), row(1)]))
    assert [example.line for example in found.rows] == [2] and len(found.bad) == 1


def test_an_id_as_number_and_as_text_is_the_same_id(tmp_path: Path) -> None:
    found = read(write(tmp_path, [row(1, id=7), row(2, id="7")]))
    assert [example.id for example in found.rows] == ["7"] and len(found.bad) == 1


def test_too_many_bad_rows_stop_everything_with_their_list(tmp_path: Path) -> None:
    path = write(tmp_path, [row(i, score=99 if i in (3, 5) else 1) for i in range(1, 11)])
    with pytest.raises(DataError) as caught:
        read(path, max_bad_share=0.1)
    error = caught.value
    assert (error.file, error.line) == (str(path), 3)
    assert error.message == (
        f"2 of 10 rows are bad, more than data.max_bad_share (10.0%) allows:\n  {path}:3: score: 99 is outside 0 to 10 (2 rows: lines 3, 5)"
    )
    assert error.hint is not None and "max_bad_share" in error.hint
    assert len(read(path, max_bad_share=0.2).rows) == 8, "exactly the share is allowed"


def test_of_very_many_bad_rows_the_first_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path, [row(i, score=99 + i) for i in range(1, 41)])
    with pytest.raises(DataError) as caught:
        read(path, max_bad_share=0.01)
    assert caught.value.message.count("\n") == 11
    assert caught.value.message.endswith("\n  and 30 more")


def test_bad_rows_with_one_reason_are_one_line_and_the_others_are_still_seen(tmp_path: Path) -> None:
    path = write(tmp_path, [*(row(i, score=99) for i in range(1, 31)), row(31, score=-4)])
    with pytest.raises(DataError) as caught:
        read(path, max_bad_share=0.01)
    assert caught.value.message.splitlines()[1:] == [
        f"  {path}:1: score: 99 is outside 0 to 10 (30 rows: lines 1, 2, 3 and 27 more)",
        f"  {path}:31: score: -4 is outside 0 to 10",
    ]


def test_the_default_allows_one_bad_row_in_a_hundred(tmp_path: Path) -> None:
    path = write(tmp_path, [row(i, score=99 if i == 1 else 1) for i in range(1, 101)])
    data = DataSpec(source=SourceSpec(kind="jsonl", path=str(path)))
    assert len(load(TASK, data, path).rows) == 99
    path = write(tmp_path, [row(i, score=99 if i <= 2 else 1) for i in range(1, 101)])
    with pytest.raises(DataError, match="2 of 100 rows are bad"):
        load(TASK, data, path)


def test_a_file_whose_rows_have_no_label_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row has a label for score, level"):
        read(write(tmp_path, [{"title": "a", "text": "b"}]))


def test_a_field_that_no_row_has_a_label_for_is_refused_with_the_column_that_was_meant(tmp_path: Path) -> None:
    def learn(path: Path) -> Examples:
        return load(TASK, DataSpec(source=SourceSpec(kind="jsonl", path=str(path))), path)

    with pytest.raises(DataError, match="no row has a label for level: there is no column 'level'") as caught:
        learn(write(tmp_path, [{"title": "a", "text": "b", "score": 1, "levle": "LOW"}]))
    assert "did you mean levle?" in str(caught.value.hint)
    with pytest.raises(DataError, match="no row has a label for level: the column 'level' has none"):
        learn(write(tmp_path, [{"title": "a", "text": "b", "score": 1, "level": ""}]))


# ids


def test_a_row_without_an_id_gets_the_hash_of_its_content_and_which_copy_it_is(tmp_path: Path) -> None:
    bare = [{"title": "a", "text": text, "score": 1, "level": "LOW"} for text in ("x", "y", "x", "x")]
    ids = [example.id for example in read(write(tmp_path, bare)).rows]
    digests = [name.rpartition("-")[0] for name in ids]
    assert [name.rpartition("-")[2] for name in ids] == ["1", "1", "2", "3"]
    assert digests[0] == digests[2] == digests[3] != digests[1] and len(digests[0]) == 16
    turned = [dict(reversed(record.items())) for record in reversed(bare)]
    assert {example.id for example in read(write(tmp_path, turned)).rows} == set(ids), "the order of rows and columns does not matter"


@pytest.mark.parametrize("empty", [None, "", "  ", float("nan"), [], {}])
def test_an_empty_id_is_none(empty: Any) -> None:
    found = made(row(1, id=empty))
    assert isinstance(found, Example) and found.id.endswith("-1")


@pytest.mark.parametrize(
    ("given", "name"),
    [(0, "0"), (12, "12"), ("é\x00", "é\x00"), ("Ω", "Ω"), (["x", "é"], '["x", "é"]'), ({"a": None}, '{"a": null}'), (True, "true")],
)
def test_an_id_of_any_content_is_kept(given: Any, name: str) -> None:
    found = made(row(1, id=given))
    assert isinstance(found, Example) and found.id == name


def test_a_field_named_id_takes_the_column_and_rows_are_named_by_their_content() -> None:
    task = TaskSpec(input="{title}", fields={"id": FieldSpec(kind="choice", choices=("passport", "visa"))})
    reader = Reader(task, ())
    rows = [SourceRow(i, {"id": "visa", "title": title}) for i, title in enumerate(("a", "b", "b"), start=1)]
    found = [example for example in reader.examples(rows) if isinstance(example, Example)]
    assert [example.labels for example in found] == [{"id": "visa"}] * 3
    assert len({example.id for example in found}) == 3 and all("-" in example.id for example in found)


def test_a_field_named_id_with_from_leaves_the_column_alone() -> None:
    task = TaskSpec(input="{title}", fields={"id": FieldSpec(kind="choice", choices=("passport", "visa"), source="labels.id")})
    found = made({"id": "row 1", "title": "a", "labels": {"id": "visa"}}, task)
    assert isinstance(found, Example) and (found.id, found.labels) == ("row 1", {"id": "visa"})


def test_texts_to_answer_need_no_labels_and_a_wrong_one_does_no_harm() -> None:
    task = TaskSpec(input="{title}", fields={"id": FieldSpec(kind="flag"), "score": FieldSpec(kind="score")})
    found = made({"id": "row 1", "title": "a", "score": 99}, task, missing=None)
    assert isinstance(found, Example) and (found.id, found.labels) == ("row 1", {})


def test_a_row_with_half_a_surrogate_pair_is_a_row_like_any_other(tmp_path: Path) -> None:
    path = write(tmp_path, ['{"title": "cut \\ud83d", "text": "b", "score": 1, "level": "LOW"}'])
    (example,) = read(path).rows
    assert example.text == "cut \ufffd: b"
    assert example.id.endswith("-1")


# the hash of it all


def test_the_hash_changes_with_ids_texts_and_labels_and_with_nothing_else(tmp_path: Path) -> None:
    def sha(**changed: Any) -> str:
        return read(write(tmp_path, [row(1) | changed, row(2)])).sha256

    same = sha()
    assert sha(source="another column") == same
    assert len({same, sha(id="b1"), sha(text="changed"), sha(score=2), sha(level=None)}) == 5


# who trains


def examples() -> list[Example]:
    """40 rows of 8 sources, 5 each; every fourth is English."""
    columns = [{"source": f"s{i % 8}", "meta": {"lang": "el" if i % 4 else "en"}} for i in range(40)]
    return [Example(f"a{i}", record, f"text {i}", {"score": i % 11}) for i, record in enumerate(columns)]


def test_a_split_by_column_by_path_and_by_field_is_kept(tmp_path: Path) -> None:
    rows = examples()
    chosen = divide(TASK, SplitSpec(train=0.5, valid=0.25, test=0.25, group_by="source", stratify_by="meta.lang"), rows, tmp_path)
    where = {name: split for split, names in chosen.items() for name in names}
    assert len(where) == 40
    for group in range(8):
        assert len({where[f"a{i}"] for i in range(group, 40, 8)}) == 1, "a source stands in one split"
    by_label = divide(TASK, SplitSpec(train=0.5, valid=0.25, test=0.25, stratify_by="score"), rows, tmp_path)
    scores = {split: sorted({int(name[1:]) % 11 for name in names}) for split, names in by_label.items()}
    assert scores["train"] == list(range(11))


def test_a_split_may_be_stratified_by_tier(tmp_path: Path) -> None:
    fields = {"score": FieldSpec(kind="score", weight=1.0)}
    task = TaskSpec(input="{t}", fields=fields, tiers={"high": 5, "low": 0})
    rows = [Example(f"a{i}", {}, f"text {i}", {"score": 9 if i < 10 else 1}) for i in range(100)]
    chosen = divide(task, SplitSpec(train=0.8, valid=0.1, test=0.1, stratify_by="tier"), rows, tmp_path)
    assert {split: sum(int(name[1:]) < 10 for name in names) for split, names in chosen.items()} == {"train": 8, "valid": 1, "test": 1}


def test_a_split_by_what_is_not_there_names_what_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.split names 'event', and there is no such column \(there is source, meta\)"):
        divide(TASK, SplitSpec(group_by="event"), examples(), tmp_path)


def test_too_few_groups_for_the_shares_are_said_so(tmp_path: Path) -> None:
    rows = [Example(f"a{i}", {"event": "one"}, f"text {i}", {}) for i in range(40)]
    with pytest.raises(DataError, match="1 group of 'event' is too few: nothing is left for valid and test"):
        divide(TASK, SplitSpec(group_by="event"), rows, tmp_path)
