"""Base and student on general benchmarks, on every backend that is installed: each is asked what it would be asked alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_distill.backends.base import Student
from mlx_distill.backends.choose import choose
from mlx_distill.errors import DataError
from mlx_distill.evaluation.benchmarks import bbh, humaneval, mmlu, truthfulqa
from mlx_distill.inference.free import Prompt, written
from mlx_distill.inference.likelihood import encoded, likelihoods, pair
from mlx_distill.observe.progress import Progress
from mlx_distill.recipe.schema import BenchmarkSpec, ForgettingSpec
from mlx_distill.task.prompt import load_tokenizer
from mlx_distill.workflows.general import forgetting
from tests.backends.sides import SIDES
from tests.inference.test_free import random_adapter
from tests.students import tiny_base, write_lines

QUIET = Progress(quiet=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("general"))


@pytest.fixture(scope="module")
def words(base: Path) -> Any:
    return load_tokenizer(base)


@pytest.fixture(scope="module", params=SIDES)
def backend(request: pytest.FixtureRequest) -> Any:
    return choose(request.param)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(choose("mlx").open(base), tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Questions in the benchmarks' forms, written for these tests."""
    folder = tmp_path_factory.mktemp("benchmarks")
    choices = [["the hill", "the school", "water", "rain"], ["forty", "a bridge", "north", "last night"]]
    return {
        "mmlu": write_lines(
            folder / "mmlu.jsonl",
            [
                {"subject": ("river", "road")[i % 2], "question": f"What about {i}?", "choices": choices[i % 2], "answer": i % 4}
                for i in range(24)
            ],
        ),
        "bbh": write_lines(
            folder / "bbh.jsonl", [{"task": "logic", "i": i, "input": f"not {i % 2 == 0} is", "target": str(i % 2 == 1)} for i in range(6)]
        ),
        "truthfulqa": write_lines(
            folder / "truth.jsonl",
            [
                {
                    "question": f"Is road {i} closed?",
                    "mc1_targets": {"choices": ["It is open", "Families were moved", "No"], "labels": [1, 0, 0]},
                }
                for i in range(10)
            ],
        ),
        "humaneval": write_lines(
            folder / "code.jsonl",
            [
                {
                    "task_id": f"T/{i}",
                    # whatever is written stands in a comment
                    "prompt": f"def f(x):\n    return x + {i}  #",
                    "entry_point": "f",
                    "canonical_solution": " so\n",
                    "test": "def check(candidate):\n    assert candidate(1) == 2\n",
                }
                for i in range(3)
            ],
        ),
    }


def ask(student: Student, words: Any, files: dict[str, Path], *kinds: str, **more: Any) -> dict[str, Any]:
    base = more.pop("base", None)
    spec = ForgettingSpec(benchmarks={kind: BenchmarkSpec(kind=kind, path=str(files[kind]), **more) for kind in kinds})
    return forgetting(spec, student, words, QUIET, base=base)


def by_likelihood(student: Student, words: Any, module: Any, path: Path, adapter: str | None = None) -> float:
    """The share that is right, each choice scored alone and whole."""
    right = []
    for question in module.read(path).questions:
        before = module.heading(question.task) + question.prompt
        logs = [likelihoods(student, [pair(words, before, f" {choice}")], adapter=adapter)[0] for choice in question.choices]
        right.append(question.choices[int(np.argmax(logs))] == question.answer)
    return float(np.mean(right))


def test_choices_are_those_that_each_side_finds_likeliest(
    backend: Any, base: Path, adapter: Path, words: Any, files: dict[str, Path]
) -> None:
    found = ask(backend.open(base, adapters={"run": adapter}), words, files, "mmlu", "truthfulqa")["benchmarks"]
    for kind, module in (("mmlu", mmlu), ("truthfulqa", truthfulqa)):
        alone = by_likelihood(backend.open(base), words, module, files[kind])
        own = by_likelihood(backend.open(base, adapters={"run": adapter}), words, module, files[kind], "run")
        assert (found[kind]["base"]["value"], found[kind]["student"]["value"]) == (alone, own)
    assert found["mmlu"]["base"]["value"] != found["mmlu"]["student"]["value"], "both said the same: nothing was compared"
    assert found["mmlu"]["floor"]["value"] == 0.6 and len(found["mmlu"]["tasks"]) == 2


def test_puzzles_are_answered_by_what_is_written(
    backend: Any, base: Path, adapter: Path, words: Any, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bbh, "TOKENS", 6)
    student = backend.open(base, adapters={"run": adapter})
    questions = bbh.read(files["bbh"]).questions
    said = written(backend.open(base), words, [Prompt(encoded(words, question.prompt), bbh.STOPS, 6) for question in questions])
    # one target is what the base writes, so that something is right
    rows = [json.loads(line) for line in files["bbh"].read_text().splitlines()]
    rows[1]["target"] = said[1].strip() or "?"
    planted = {"bbh": write_lines(files["bbh"].with_name("planted.jsonl"), rows)}
    entry = ask(student, words, planted, "bbh")["benchmarks"]["bbh"]
    expected = [bbh.right(question, text) for question, text in zip(bbh.read(planted["bbh"]).questions, said, strict=True)]
    assert entry["base"]["value"] == np.mean(expected) > 0


def test_programs_are_not_judged_unless_somebody_asks(backend: Any, base: Path, adapter: Path, words: Any, files: dict[str, Path]) -> None:
    entry = ask(backend.open(base, adapters={"run": adapter}), words, files, "humaneval")["benchmarks"]["humaneval"]
    assert entry["student"] is None and "run_code: true" in entry["notes"][0]


def test_programs_are_run_where_somebody_asks(
    backend: Any, base: Path, adapter: Path, words: Any, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(humaneval, "TOKENS", 2)
    monkeypatch.setattr(humaneval, "STOPS", ("\n",))
    entry = ask(backend.open(base, adapters={"run": adapter}), words, files, "humaneval", run_code=True)["benchmarks"]["humaneval"]
    assert entry["base"]["value"] == entry["student"]["value"] == pytest.approx(1 / 3), "f(1) == 2 of the second alone"
    assert entry["guard"] in ("kernel", "calls", "sandbox", "python") and any(note.startswith("Programs ") for note in entry["notes"])


def test_where_all_weights_were_trained_the_base_is_opened_again(
    backend: Any, base: Path, words: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    from mlx_distill.backends import full

    learner = backend.open(base)
    learner.prepare(None, optimizer="adafactor", weight_decay=0.0, initial=None, seed=0)
    learner.save_adapter(tmp_path)
    assert full.is_full(tmp_path)
    del learner
    student = backend.open(base, adapters={"run": tmp_path})
    assert ask(student, words, files, "mmlu")["benchmarks"]["mmlu"]["base"] is None
    entry = ask(student, words, files, "mmlu", base=lambda: backend.open(base))["benchmarks"]["mmlu"]
    assert entry["base"] == entry["student"], "nothing was learned"


def test_solved_questions_stand_before_each_and_are_not_asked(
    base: Path, words: Any, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_distill.workflows import general

    seen: list[str] = []
    real = general.pair
    monkeypatch.setattr(general, "pair", lambda tokenizer, before, after: (seen.append(before), real(tokenizer, before, after))[1])
    entry = ask(choose("mlx").open(base), words, files, "mmlu", shots=2, rows=8)["benchmarks"]["mmlu"]
    assert entry["n"] == 8 and entry["of"] == 24 and [task["n"] for task in entry["tasks"]] == [4, 4]
    prompts = set(seen)
    assert len(prompts) == 8 and all(prompt.count("Answer:") == 3 for prompt in prompts)
    shown = {part for prompt in prompts for part in prompt.split("\n\n")[1:3]}
    assert len(shown) == 4 and all(part.rsplit("Answer:", 1)[1].strip() in "ABCD" for part in shown)
    assert "8 of 24 questions, drawn evenly over the tasks." in entry["notes"]


def test_a_file_that_cannot_be_read_is_told_before_anything_is_asked(base: Path, words: Any, tmp_path: Path) -> None:
    student = choose("mlx").open(base)
    with pytest.raises(DataError, match="there is no file"):
        ask(student, words, {"mmlu": tmp_path / "none.csv"}, "mmlu")


def test_senseless_settings_are_told() -> None:
    def told(**settings: Any) -> list[str]:
        return [path for path, _, _ in BenchmarkSpec(path="x", **settings).problems()]

    assert told(kind="mmlu", shots=5) == told(kind="humaneval", run_code=True) == []
    assert told(kind="mmlu", run_code=True) == ["run_code"] and told(kind="truthfulqa", shots=1) == told(kind="humaneval", shots=1) == [
        "shots"
    ]
    assert [path for path, _, _ in ForgettingSpec(benchmarks={}).problems()] == ["benchmarks"]
