"""Benchmarks in every format that they are published in come out as the same questions; what is wrong in a file is named with its line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.catalog import find, names
from mlx_distill.errors import DataError
from mlx_distill.evaluation import sandbox
from mlx_distill.evaluation.benchmarks import Question, asked, bbh, drawn, humaneval, mmlu, truthfulqa
from mlx_distill.recipe.schema import BenchmarkSpec

HEADER = "subject,question,A,B,C,D,answer,error_type\n"
ROW = 'marine_law,"Whose is the sea, then?",Nobody\'s,Everybody\'s,"The king\'s, of old",Ours,B,'
RECORD = {
    "subject": "marine_law",
    "question": "Whose is the sea, then?",
    "choices": ["Nobody's", "Everybody's", "The king's, of old", "Ours"],
}
PROMPT = "Whose is the sea, then?\nA. Nobody's\nB. Everybody's\nC. The king's, of old\nD. Ours\nAnswer:"


def file(folder: Path, name: str, content: str | list[Any]) -> Path:
    path = folder / name
    text = content if isinstance(content, str) else "".join(json.dumps(record) + "\n" for record in content)
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_every_kind_of_the_recipe_has_a_reader_and_every_reader_a_kind() -> None:
    kinds = BenchmarkSpec.__dataclass_fields__["kind"].metadata["choices"]
    assert sorted(kinds) == names("evaluation.benchmarks")
    assert {kind: find("evaluation.benchmarks", kind).FLOOR for kind in kinds} == {
        "mmlu": 0.6,
        "bbh": 0.5,
        "truthfulqa": 0.5,
        "humaneval": 0.3,
    }
    assert tuple(kind for kind in kinds if find("evaluation.benchmarks", kind).SHOTS) == BenchmarkSpec.SHOTS


# MMLU


@pytest.mark.parametrize("form", ["redux", "headerless", "jsonl", "letter", "gz", "parquet"])
def test_mmlu_is_the_same_in_all_its_formats(tmp_path: Path, form: str) -> None:
    if form == "redux":
        path = file(tmp_path, "redux.csv", HEADER + ROW + "ok\n")
    elif form == "headerless":
        path = file(tmp_path, "marine_law_test.csv", ROW.removeprefix("marine_law,").removesuffix(",") + "\n")
    elif form == "parquet":
        import pyarrow
        import pyarrow.parquet

        path = tmp_path / "test.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([RECORD | {"answer": 1}]), path)
    else:
        path = file(tmp_path, "mmlu.jsonl.gz" if form == "gz" else "mmlu.jsonl", [RECORD | {"answer": "B" if form == "letter" else 1}])
    (question,) = mmlu.read(path).questions
    assert question == Question("marine_law/0", "marine_law", PROMPT, "B", "choice", ("A", "B", "C", "D"), 0.25)
    assert asked(question, mmlu.heading(question.task), ()) == (
        "The following are multiple choice questions (with answers) about marine law.\n\n" + PROMPT
    )


def test_rows_whose_key_is_wrong_are_left_out_and_counted(tmp_path: Path) -> None:
    path = file(tmp_path, "r.csv", HEADER + ROW + "ok\n" + ROW + "wrong groundtruth\n" + ROW + "wrong_groundtruth\n" + ROW + "expert\n")
    read = mmlu.read(path)
    assert len(read.questions) == 1 and read.left_out == {"wrong groundtruth": 2, "expert": 1}


def test_a_folder_of_subjects_is_read_whole(tmp_path: Path) -> None:
    for name in ("art_test.csv", "law_test.csv"):
        file(tmp_path, name, "What?,1,2,3,4,D\nWhich?,a,b,c,d,A\n")
    file(tmp_path, "README.txt", "not a table")
    questions = mmlu.read(tmp_path).questions
    assert [(question.task, question.answer) for question in questions] == [("art", "D"), ("art", "A"), ("law", "D"), ("law", "A")]
    assert len({question.id for question in questions}) == 4


def test_the_first_row_of_a_file_without_a_header_is_a_question(tmp_path: Path) -> None:
    """Also where its cells are alike, as no header's could be."""
    (question,) = mmlu.read(file(tmp_path, "x.csv", "Which letter?,A,B,A,B,A\n")).questions
    assert question.answer == "A" and question.task == "x"


@pytest.mark.parametrize(
    ("name", "content", "line", "words"),
    [
        ("a.csv", HEADER + ROW + "ok\n" + ROW.replace(",B,", ",E,") + "ok\n", 3, "answer is 'E'"),
        ("a.csv", HEADER + '"two\nlines' + ROW, 2, None),
        ("a.csv", "What?,1,2,3,4\n", 1, "5 cells, and 6 are wanted"),
        ("a.jsonl", [RECORD | {"answer": 1}, RECORD | {"answer": 4}], 2, "answer is 4"),
        ("a.jsonl", [RECORD | {"answer": True}], 1, "answer is True"),
        ("a.jsonl", [RECORD | {"answer": 0, "choices": ["a", "b"]}], 1, "four choices are wanted"),
        ("a.jsonl", [{"answer": 0}], 1, "no text 'question'"),
        ("a.jsonl", '{"question": \n', 1, "not JSON"),
        ("a.csv", HEADER + ROW + "expert\n", None, "no row is left"),
        ("a.xlsx", "x", None, "none of its formats"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, name: str, content: Any, line: int | None, words: str | None) -> None:
    path = file(tmp_path, name, content)
    with pytest.raises(DataError, match=words) as caught:
        mmlu.read(path)
    assert caught.value.file == str(path) and caught.value.hint
    if words is not None:
        assert caught.value.line == line


@pytest.mark.parametrize("kind", names("evaluation.benchmarks"))
def test_no_file_an_empty_folder_and_a_file_of_something_else(tmp_path: Path, kind: str) -> None:
    read = find("evaluation.benchmarks", kind).read
    with pytest.raises(DataError, match="there is no file"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path)
    with pytest.raises(DataError, match="no text"):
        read(file(tmp_path, "other.jsonl", [{"a": 1}]))


# BBH: rows of its form, written for these tests


OPTIONS = "Which bird is largest?\nOptions:\n(A) wren\n(B) swan\n(C) finch"
BBH = [
    ("birds", OPTIONS, "(B)"), ("logic", "not False is", "True"), ("sums", "2 - 9 =", "-7"), ("products", "10 * 200 =", "2000"),
    ("sort", "Sort: b a", "a b"), ("close", "( [", "] )"),
]  # fmt: skip


def bbh_questions(folder: Path) -> dict[str, Question]:
    path = file(folder, "bbh.jsonl", [{"task": task, "i": 3, "input": text, "target": target} for task, text, target in BBH])
    return {question.task: question for question in bbh.read(path).questions}


def test_bbh_is_read_from_lines_and_from_a_file_a_task(tmp_path: Path) -> None:
    by_lines = bbh_questions(tmp_path)
    assert by_lines["birds"] == Question("birds/3", "birds", f"Q: {OPTIONS}\nA:", "(B)", "exact", chance=1 / 3)
    assert {task: question.chance for task, question in by_lines.items()} == {
        "birds": 1 / 3,
        "logic": 0.5,
        "sums": 0,
        "products": 0,
        "sort": 0,
        "close": 0,
    }
    file(tmp_path, "birds.json", json.dumps({"canary": "...", "examples": [{"input": OPTIONS, "target": "(B)"}]}))
    (whole,) = bbh.read(tmp_path / "birds.json").questions
    assert (whole.task, whole.prompt, whole.answer) == ("birds", by_lines["birds"].prompt, "(B)")


@pytest.mark.parametrize(
    ("task", "said", "right"),
    [
        ("birds", " (B)", True), ("birds", " (B) swan", True), ("birds", " B", True), ("birds", " B. swan\n\n", True),
        ("birds", " swan", True), ("birds", " The answer is (B).", True), ("birds", " (A) is small, so the answer is (B)", True),
        ("birds", " (A)", False), ("birds", " (A) or (B)", False), ("birds", " A swan is", False), ("birds", "", False),
        ("birds", " owl", False),
        ("logic", " True", True), ("logic", " true.", True), ("logic", " It is True", True), ("logic", " False", False),
        ("logic", " untrue", False),
        ("birds", " (A) is small. So the answer is (B) swan", True),
        ("products", " It makes 2,000 in all", True), ("products", " 200", False),
        ("sums", " -7", True), ("sums", " = -7.", True), ("sums", " 7", False), ("sums", " -70", False), ("sums", " 2 - 9 = -7", False),
        ("sums", " We take 9 from 2. So the answer is -7.", True),
        ("sort", " a b", True), ("sort", " a, b\n", True), ("sort", " b a", False), ("close", " ] )", True), ("close", " )", False),
    ],
)  # fmt: skip
def test_what_is_written_is_held_against_the_target(tmp_path: Path, task: str, said: str, right: bool) -> None:
    assert bbh.right(bbh_questions(tmp_path)[task], said) is right


def test_a_task_s_file_without_examples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no list `examples`"):
        bbh.read(file(tmp_path, "x.json", '{"rows": []}'))
    with pytest.raises(DataError, match="not JSON") as caught:
        bbh.read(file(tmp_path, "x.json", '{"examples": [\n  oops]}'))
    assert caught.value.line == 2


# TruthfulQA


def test_truthfulqa_is_the_same_in_both_its_formats(tmp_path: Path) -> None:
    own = [{"question": "Do fish sleep?", "mc1_targets": {"They rest": 1, "Never": 0, "At noon": 0}, "mc2_targets": {}}]
    other = [{"question": "Do fish sleep?", "mc1_targets": {"choices": ["They rest", "Never", "At noon"], "labels": [1, 0, 0]}}]
    paths = [file(tmp_path, "mc_task.json", json.dumps(own)), file(tmp_path, "a.jsonl", other), file(tmp_path, "b.json", other)]
    for path in paths:
        (question,) = truthfulqa.read(path).questions
        assert question == Question(
            "truthfulqa/0", "truthfulqa", "Q: Do fish sleep?\nA:", "They rest", "choice", ("They rest", "Never", "At noon"), 1 / 3
        )
    assert asked(question, truthfulqa.heading(""), ()).count("Q:") == 7


@pytest.mark.parametrize("targets", [None, {"a": 0, "b": 0}, {"a": 1}, {"a": 1, "b": 1}, {"choices": ["a", "b"], "labels": [1]}])
def test_a_question_without_exactly_one_right_answer_is_refused(tmp_path: Path, targets: Any) -> None:
    with pytest.raises(DataError, match="mc1_targets"):
        truthfulqa.read(file(tmp_path, "a.jsonl", [{"question": "x?", "mc1_targets": targets}]))


# HumanEval: a problem of its form, written for these tests


PROBLEM = {
    "task_id": "Test/0",
    "prompt": 'def twice(x):\n    return 2 * x\n\n\ndef four(x):\n    """Four times x."""\n',
    "entry_point": "four",
    "canonical_solution": "    return twice(twice(x))\n",
    "test": "def check(candidate):\n    assert candidate(2) == 8\n    assert candidate(1) == twice(2) == four(1)\n",
}


@pytest.mark.parametrize("name", ["HumanEval.jsonl", "HumanEval.jsonl.gz"])
def test_a_program_of_humaneval_passes_its_tests_or_not(tmp_path: Path, name: str) -> None:
    (question,) = humaneval.read(file(tmp_path, name, [PROBLEM])).questions
    assert (question.id, question.kind, question.entry_point) == ("Test/0", "code", "four")
    passed = {
        said: sandbox.judge(humaneval.case(question, said)).passed for said in ("    return 4 * x\n", "    return 3 * x\n", "", "    (")
    }
    assert list(passed.values()) == [True, False, False, False]
    assert sandbox.judge(humaneval.case(question, question.answer)).passed


def test_a_prompt_that_lacks_its_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="defines no function 'five'"):
        humaneval.read(file(tmp_path, "h.jsonl", [PROBLEM | {"entry_point": "five"}]))


# drawing


def questions(**tasks: int) -> list[Question]:
    return [Question(f"{task}/{i}", task, f"{task} {i}", "x", "exact") for task, n in tasks.items() for i in range(n)]


def test_rows_are_drawn_evenly_over_the_tasks() -> None:
    chosen, shots = drawn(questions(a=50, b=3, c=20), rows=13, shots=0, seed=0)
    assert {task: sum(question.task == task for question in chosen) for task in "abc"} == {"a": 5, "b": 3, "c": 5}
    assert [question.id for question in chosen] == sorted((q.id for q in chosen), key=[q.id for q in questions(a=50, b=3, c=20)].index)
    assert not any(shots.values())


def test_a_draw_follows_from_its_seed_and_from_nothing_else() -> None:
    one, other = drawn(questions(a=50, b=30), rows=10, shots=2, seed=1), drawn(questions(b=30, a=50), rows=10, shots=2, seed=1)
    assert {question.id for question in one[0]} == {question.id for question in other[0]} and one[1] == other[1]
    assert {question.id for question in drawn(questions(a=50, b=30), rows=10, shots=2, seed=2)[0]} != {question.id for question in one[0]}
    assert len(drawn(questions(a=5), rows=None, shots=0, seed=0)[0]) == 5


def test_solved_questions_are_never_asked_and_a_task_of_few_has_none() -> None:
    chosen, shots = drawn(questions(a=6, b=2), rows=None, shots=2, seed=0)
    assert len(shots["a"]) == 2 and shots["b"] == []
    assert len(chosen) == 6 and not {question.id for question in chosen} & {question.id for question in shots["a"]}
    whole = asked(chosen[0], "Go.\n\n", shots["a"])
    assert whole.startswith(f"Go.\n\n{shots['a'][0].prompt} x\n\n") and whole.endswith(chosen[0].prompt)
