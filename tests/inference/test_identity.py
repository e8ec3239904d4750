"""A resume goes on with what its results were made of, says all that changed where it is something else, and never guesses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.data.fingerprint import Fingerprint
from mlx_distill.errors import OutputError
from mlx_distill.inference import identity
from mlx_distill.inference.identity import Begun, Document, begin, document, finish, read, sizes
from mlx_distill.inference.output import Places

SHA = {letter: letter * 64 for letter in "abcdef"}
FILES = [Fingerprint("in.jsonl", 100, SHA["a"], 10)]


def student(**changes: Any) -> Document:
    return {"adapter_sha256": SHA["b"], "recipe_sha256": SHA["c"], "base": "key", "recipe": {"task.input": "{text}"}} | changes


def made(
    files: Sequence[Fingerprint] | None = FILES, *, folder: bool = False, options: Document | None = None, **students: Any
) -> Document:
    return document(students or {"floods": student()}, {"samples": 1, "seed": 0} | (options or {}), files, folder=folder)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Of a job that was stopped after its first answer."""
    places = Places(tmp_path / "out.jsonl")
    begin(places, made(), None, FILES, resume=False)
    places.output.write_text('{"id": "a", "answer": {}}\n')
    return places


def resume(places: Places, now: Document, files: Sequence[Fingerprint] | None = FILES) -> Begun:
    return begin(places, now, read(places), files, resume=True)


def test_the_same_goes_on_and_says_nothing(places: Places) -> None:
    assert resume(places, made()) == Begun()


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (made(floods=student(adapter_sha256=SHA["d"])), ["adapter_sha256: bbbbbbbbbbbb -> dddddddddddd"]),
        (made(floods=student(base="other")), ["base: key -> other"]),
        (made(floods=student(recipe={"task.input": "{title}"})), ["recipe.task.input: {text} -> {title}"]),
        (made(options={"samples": 5, "seed": 1}), ["--samples: 1 -> 5", "--seed: 0 -> 1"]),
        (made(options={"texts": False, "distributions": True}), ["--no-text: none -> given", "--distributions: none -> given"]),
        (made(None), ["input: a file -> standard input"]),
        (made(folder=True), ["input: a file -> a folder"]),
        (made(floods=student(), nature=student()), ["students: floods -> floods, nature"]),
    ],
)
def test_whatever_changed_is_named_and_nothing_is_touched(places: Places, now: Document, said: list[str]) -> None:
    before = {path: path.read_bytes() for path in places.all() if path.exists()}
    with pytest.raises(OutputError) as found:
        resume(places, now)
    assert found.value.message.splitlines()[1:] == [f"  {line}" for line in said]
    assert found.value.hint and "another OUTPUT" in found.value.hint
    assert {path: path.read_bytes() for path in places.all() if path.exists()} == before


def test_a_setting_that_changes_no_answer_does_not_matter_and_neither_does_the_name(places: Places) -> None:
    assert resume(places, made(crisis=student(recipe_sha256=SHA["f"]))) == Begun()


def test_of_several_students_the_one_that_changed_is_named(tmp_path: Path) -> None:
    places = Places(tmp_path / "out.jsonl")
    begin(places, made(a=student(), b=student()), None, FILES, resume=False)
    places.output.write_text('{"id": "a", "task": "a", "answer": {}}\n')
    assert resume(places, made(b=student(), a=student())) == Begun(), "in any order"
    with pytest.raises(OutputError) as found:
        resume(places, made(a=student(), b=student(adapter_sha256=SHA["e"])))
    assert found.value.message.splitlines()[1:] == ["  b: adapter_sha256: bbbbbbbbbbbb -> eeeeeeeeeeee"]


def test_a_changed_input_is_refused_with_bytes_and_hashes(places: Places) -> None:
    files = [Fingerprint("in.jsonl", 99, SHA["d"], 10)]
    with pytest.raises(OutputError, match=r"input: in.jsonl, 100 bytes \(aaaaaaaaaaaa\) -> 99 bytes \(dddddddddddd\)"):
        resume(places, made(files), files)


def test_an_input_that_grew_goes_on_and_that_is_said(places: Places) -> None:
    files = [Fingerprint("in.jsonl", 130, SHA["d"], 13, SHA["a"])]
    assert resume(places, made(files), files).remarks == ("in.jsonl has grown by 30 bytes since; what it began with is the same",)
    assert resume(places, made(files), files) == Begun(), "and the next time it is what it was"


def test_a_file_that_was_renamed_is_the_same_file(places: Places) -> None:
    files = [Fingerprint("backlog.jsonl", 100, SHA["a"], 10)]
    assert sizes(read(places), ["backlog.jsonl"]) == {"backlog.jsonl": 100}
    assert resume(places, made(files), files) == Begun()


def test_of_a_folder_files_may_come_and_none_may_go(tmp_path: Path) -> None:
    one, two, three = (Fingerprint(f"{name}.jsonl", 10, SHA[name], 1) for name in "abc")
    places = Places(tmp_path / "out.jsonl")
    begin(places, made([one, two], folder=True), None, [one, two], resume=False)
    places.output.write_text('{"id": "a", "answer": {}}\n')
    assert resume(places, made([one, two, three], folder=True), [one, two, three]).remarks == ("c.jsonl came to the input since",)
    with pytest.raises(OutputError, match=r"b\.jsonl is gone"):
        resume(places, made([one, three], folder=True), [one, three])


def test_standard_input_is_not_compared_and_that_is_said(tmp_path: Path) -> None:
    places = Places(tmp_path / "out.jsonl")
    begin(places, made(None), None, None, resume=False)
    places.output.write_text('{"id": "a", "answer": {}}\n')
    (remark,) = resume(places, made(None), None).remarks
    assert "standard input is not compared" in remark


def test_finished_work_is_known_by_its_counts_until_its_files_change(places: Places) -> None:
    finish(places, made(), {"rows": 1, "results": 1})
    found = resume(places, made()).finished
    assert found is not None and found["rows"] == 1
    places.output.write_text("")
    assert resume(places, made()).finished is None, "what was lost is answered again"


def test_results_of_which_nothing_is_known_are_refused_with_a_way_out(places: Places) -> None:
    places.job.unlink()
    with pytest.raises(OutputError, match="nothing says what these results were made of") as found:
        resume(places, made())
    assert found.value.file == str(places.output) and "rename these results" in str(found.value.hint)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 2}', "null", "\0"])
def test_a_damaged_job_file_is_named(places: Places, content: str) -> None:
    places.job.write_text(content)
    with pytest.raises(OutputError, match="cannot be told") as found:
        read(places)
    assert found.value.file == str(places.job)


def test_what_answered_no_row_is_in_nobody_s_way(places: Places) -> None:
    places.output.unlink()
    places.rejects.write_text('{"id": "a", "line": 1, "reason": "no column"}\n')
    changed = made(floods=student(adapter_sha256=SHA["d"]))
    begun = begin(places, changed, read(places), FILES, resume=False)
    assert begun.remarks == ("no row had been answered: begun anew",)
    assert not places.rejects.exists() and read(places) == changed


def test_results_are_never_begun_anew(places: Places) -> None:
    with pytest.raises(OutputError, match="there are results already"):
        begin(places, made(), read(places), FILES, resume=False)
    assert places.output.read_text()


def test_the_document_is_plain_json_and_names_no_place(places: Places) -> None:
    found = json.loads(places.job.read_text("utf-8"))
    assert found == json.loads(json.dumps(made()))
    assert str(places.output.parent) not in json.dumps(found)


def test_a_job_that_was_begun_before_there_was_a_setting_had_its_default() -> None:
    def of(**settings: object) -> dict[str, object]:
        return {"adapter_sha256": "a", "recipe": {"train.epochs": 3, **settings}}

    changes = [list(identity._differences(of(), of(**{"data.split.calibrate": share}), "")) for share in (0.0, 0.1)]
    assert changes == [[], ["recipe.data.split.calibrate: 0.0 -> 0.1"]]
    assert list(identity._differences(of(**{"task.fields.a.b.loss": 1.0}), of(), "")) == []
