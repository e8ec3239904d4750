"""Our student as a model of lm-evaluation-harness: beside the library's own model of the same checkpoint, and through a local task."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlx_distill import workflows
from mlx_distill.backends.choose import choose
from mlx_distill.errors import DistillError
from mlx_distill.observe.progress import Progress
from mlx_distill.task.prompt import load_tokenizer
from mlx_distill.workflows import Setting
from mlx_distill.workflows import lm_eval as ours
from mlx_distill.workflows.general import Side
from tests.backends.sides import SIDES
from tests.checkpoints import make_checkpoint
from tests.students import recipe, tiny_base, water, write_lines


def test_a_file_of_a_task_is_known_by_the_name_in_it(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("dataset_path: json\ntask: 'rivers'  # ours\n")
    (tmp_path / "none.yaml").write_text("dataset_path: json\n")
    assert ours.named(["hellaswag", str(tmp_path / "own.yaml")]) == (["hellaswag", "rivers"], [tmp_path])
    with pytest.raises(DistillError, match="names no task"):
        ours.named([str(tmp_path / "none.yaml")])
    with pytest.raises(DistillError, match="cannot be read"):
        ours.named([str(tmp_path / "other.yaml")])


def test_without_the_library_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(DistillError, match="not installed") as caught:
        ours.lm_eval(Setting(Progress(quiet=True), tmp_path), tmp_path, ["hellaswag"])
    assert caught.value.hint == "pip install 'mlx-distill[lm-eval]'"


needs = pytest.mark.skipif(
    not all(map(find_spec, ("lm_eval", "torch"))), reason="needs PyTorch and lm-evaluation-harness: pip install 'mlx-distill[lm-eval]'"
)
LONGEST = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("harness")


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    return tiny_base(folder)


@pytest.fixture(scope="module")
def theirs(base: Path, folder: Path) -> Any:
    """The library's model, made by transformers of the checkpoint that ours was made of."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.float32).eval()
    return HFLM(pretrained=model, tokenizer=load_tokenizer(base), max_length=LONGEST, batch_size=2, device="cpu")


@pytest.fixture(scope="module", params=SIDES)
def side(request: pytest.FixtureRequest, base: Path) -> Side:
    return Side("base", choose(request.param).open(base), None, load_tokenizer(base))


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


LONG = "The river rose above the bridge last night and forty families were moved to the school on the hill. " * 2


@needs
def test_likelihoods_are_those_of_the_librarys_own_model(side: Side, theirs: Any) -> None:
    pairs = [("The river", " rose"), ("", "The hill is"), ("The road is ", "closed"), (LONG, " water"), ("Is it?", " A"), ("x\n\n", "y")]
    found = ours.adapted(side, LONGEST).loglikelihood(requests(*pairs))
    expected = theirs.loglikelihood(as_instances(pairs))
    np.testing.assert_allclose([logs for logs, _ in found], [logs for logs, _ in expected], rtol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def as_instances(arguments: list[tuple[Any, ...]], kind: str = "loglikelihood") -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, i) for i, each in enumerate(arguments)]


@needs
def test_the_likeliest_continuation_is_called_greedy(side: Side) -> None:
    model = ours.adapted(side, 512)
    (said,) = model.generate_until(requests(("The river", {"until": [], "max_gen_toks": 1})))
    (logs, greedy), (_, other) = model.loglikelihood(requests(("The river", said), ("The river", said + " and more")))
    assert greedy and logs < 0 and not other


@needs
def test_a_long_text_is_scored_in_windows_each_token_once(side: Side, theirs: Any) -> None:
    texts = [("The river",), (LONG,)]
    np.testing.assert_allclose(
        ours.adapted(side, LONGEST).loglikelihood_rolling(requests(*texts)),
        theirs.loglikelihood_rolling(as_instances(texts, "loglikelihood_rolling")),
        rtol=1e-4,
    )


@needs
def test_continuations_are_those_of_the_librarys_own_model(side: Side, theirs: Any) -> None:
    how = {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": False}
    asked = [("The river", how), (LONG, how), ("Volunteers bring", how)]
    assert ours.adapted(side, LONGEST).generate_until(requests(*asked)) == theirs.generate_until(as_instances(asked, "generate_until"))


@needs
def test_drawn_continuations_and_endless_ones_are_refused(side: Side) -> None:
    model = ours.adapted(side, LONGEST)
    with pytest.raises(DistillError, match="drawn"):
        model.generate_until(requests(("The river", {"until": [], "do_sample": True, "temperature": 0.7})))
    with pytest.raises(DistillError, match="a continuation of"):
        model.loglikelihood(requests(("x", LONG)))


TASK = """
task: rivers
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


@needs
def test_a_task_is_asked_of_student_and_base_and_stands_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    make_checkpoint(tmp_path / "checkpoint")
    write_lines(tmp_path / "rows.jsonl", water())
    questions = [
        {"question": f"What about {i}?", "choices": ["the hill", "the bridge and the road", "water"], "answer": i % 3} for i in range(12)
    ]
    write_lines(tmp_path / "questions.jsonl", questions)
    (tmp_path / "rivers.yaml").write_text(TASK.format(file=tmp_path / "questions.jsonl"))
    setting = Setting(Progress(quiet=True), tmp_path / "bases")
    workflows.train(setting, recipe(tmp_path / "recipe.yaml", train={"epochs": 1}), tmp_path / "run", [], resume=False)
    document = ours.lm_eval(setting, tmp_path / "run", [str(tmp_path / "rivers.yaml")], limit=9)
    entry = document["lm_eval"]["tasks"]["rivers"]
    assert entry["n"] == 9 and set(entry["metrics"]) == {"acc"}
    assert entry["metrics"]["acc"]["base"]["value"] == pytest.approx(share_right(tmp_path, questions[:9]))
    assert set(entry["metrics"]["acc"]) == {"student", "base"} and entry["metrics"]["acc"]["student"]["stderr"] is not None
    assert json.loads((tmp_path / "run" / ours.FILE).read_text("utf-8")) == document["lm_eval"]


def share_right(folder: Path, questions: list[dict[str, Any]]) -> float:
    """By transformers' model of the checkpoint."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "checkpoint", dtype=torch.float32).eval()
    words = load_tokenizer(folder / "checkpoint")

    def logs(before: str, after: str) -> float:
        first, whole = (words(text)["input_ids"] for text in (before, before + after))
        with torch.no_grad():
            found = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        return float(sum(found[i - 1, whole[i]] for i in range(len(first), len(whole))))

    chosen = [
        int(np.argmax([logs(f"{question['question']}\nAnswer:", f" {choice}") for choice in question["choices"]])) for question in questions
    ]
    return float(np.mean([question["answer"] == own for question, own in zip(questions, chosen, strict=True)]))


@needs
def test_a_task_that_nobody_knows_is_told(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="no task named no_such_task"):
        ours.lm_eval(Setting(Progress(quiet=True), tmp_path), tmp_path / "run", ["no_such_task"])
