"""Plain continuations and likelihoods, of every backend that is installed, beside transformers' own model of the same checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_distill.backends.base import BARE, Capacity, Student
from mlx_distill.backends.choose import choose
from mlx_distill.errors import BackendError
from mlx_distill.inference import likelihood
from mlx_distill.inference.ask import Told
from mlx_distill.inference.free import Prompt, _write, before_stop, written
from mlx_distill.inference.likelihood import Pair, greedy, likelier, likelihoods, pair
from mlx_distill.inference.row import Row
from mlx_distill.records import Example, Ids
from mlx_distill.task.prompt import load_tokenizer
from tests.backends.sides import SIDES
from tests.small_tokenizers import KINDS
from tests.small_tokenizers import tokenizer as small_tokenizer
from tests.students import tiny_base

torch = pytest.importorskip("torch")
TEXTS = ["The river", "The river rose above the bridge last night and", "The road", "The riverbank is closed; ", "The r"]


class Reference:
    """Forwards every text alone and whole, each time anew."""

    def __init__(self, checkpoint: Path):
        from transformers import AutoModelForCausalLM

        self._model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def logs(self, ids: Sequence[int]) -> Any:
        """(n, V) log probabilities behind each token."""
        with torch.no_grad():
            return self._model(torch.tensor([list(ids)])).logits[0].double().log_softmax(-1).numpy()

    def continued(self, ids: Sequence[int], number: int) -> list[int]:
        out = list(ids)
        for _ in range(number):
            out.append(int(self.logs(out)[-1].argmax()))
        return out[len(ids) :]

    def likelihood(self, before: Ids, after: Ids) -> float:
        logs = self.logs([*before, *after])
        return float(sum(logs[len(before) - 1 + i, token] for i, token in enumerate(after)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("free")


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    return tiny_base(folder)


@pytest.fixture(scope="module")
def reference(base: Path, folder: Path) -> Reference:
    return Reference(folder / "checkpoint")


@pytest.fixture(scope="module", params=SIDES)
def opened(request: pytest.FixtureRequest, base: Path) -> Student:
    return choose(request.param).open(base)


@pytest.fixture(scope="module")
def words(base: Path) -> Any:
    return load_tokenizer(base)


def prompts(words: Any, texts: Sequence[str] = TEXTS, **how: Any) -> list[Prompt]:
    return [Prompt(likelihood.encoded(words, text), **how) for text in texts]


def test_a_continuation_is_the_likeliest_token_again_and_again(opened: Student, words: Any, reference: Reference) -> None:
    asked = prompts(words, most=9)
    expected = [words.decode(reference.continued(prompt.ids, 9), skip_special_tokens=False) for prompt in asked]
    assert written(opened, words, asked) == expected
    assert len(set(expected)) > 1


def test_neighbours_order_and_a_small_capacity_change_nothing(opened: Student, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Prompt(prompt.ids, most=most) for prompt, most in zip(prompts(words), (3, 12, 1, 7, 5), strict=True)]
    alone = [written(opened, words, [prompt])[0] for prompt in asked]
    assert written(opened, words, asked) == alone
    monkeypatch.setattr(type(opened), "capacity", lambda self: Capacity(8, 24))
    assert written(opened, words, asked[::-1]) == alone[::-1]


def test_it_ends_before_the_first_stop_and_writes_no_further(
    opened: Student, words: Any, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    (prompt,) = prompts(words, TEXTS[:1], most=12)
    (whole,) = written(opened, words, [prompt])
    stop = whole[5:7]
    steps: list[int] = []
    session = type(opened.session(prompt.ids[:0]))
    monkeypatch.setattr(session, "choose", counted(session.choose, steps))
    (cut,) = written(opened, words, [Prompt(prompt.ids, (stop, "never"), 12)])
    assert cut == whole[: whole.index(stop)] and len(steps) < 12


def counted(method: Any, steps: list[int]) -> Any:
    def call(*arguments: Any, **named: Any) -> Any:
        steps.append(1)
        return method(*arguments, **named)

    return call


def test_an_end_token_ends_it_and_is_not_written(opened: Student, words: Any, reference: Reference) -> None:
    (prompt,) = prompts(words, TEXTS[:1], most=8)
    tokens = reference.continued(prompt.ids, 8)
    end = tokens[3]
    expected = tokens[: tokens.index(end)]
    assert written(opened, words, [prompt], ends=[end]) == [words.decode(expected)]


def test_no_prompts_no_answers_and_progress_is_told(opened: Student, words: Any) -> None:
    done: list[int] = []
    assert written(opened, words, []) == []
    written(opened, words, prompts(words, most=2), advance=done.append)
    assert sum(done) == len(TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_spelled_as_behind_its_prompt(kind: str) -> None:
    """A tokenizer that puts a space before its first word must not take one away from the middle of a program."""
    made = small_tokenizer(kind)
    before, whole = (np.array(made(text, add_special_tokens=False)["input_ids"]) for text in ("def f():\n", "def f():\n    return 7"))
    rest, found = whole[len(before) :], dict[int, str]()
    program = _write(Row(Example("0", {}, ""), before, trimmed=False), Prompt(before, most=len(rest)), 0, made, (), found)
    next(program)
    with pytest.raises(StopIteration):
        for token in rest:
            program.send(Told([], int(token), -1.0))
    assert found == {0: "    return 7"}


def test_the_earliest_stop_counts() -> None:
    assert before_stop("a b c", ["c", "b"]) == "a " and before_stop("a", ["b"]) == "a" and before_stop("ab", []) == "ab"


# likelihoods

PAIRS = [
    ("The river", " rose"),
    ("The river", " rose above the bridge"),
    ("", "The hill"),
    ("The road ", "is closed"),
    ("The river rose", "?"),
]


def pairs_of(words: Any) -> list[Pair]:
    return [pair(words, before, after) for before, after in PAIRS]


def test_a_likelihood_is_the_sum_over_the_continuations_tokens(opened: Student, words: Any, reference: Reference) -> None:
    pairs = pairs_of(words)
    expected = [reference.likelihood(*each) for each in pairs]
    np.testing.assert_allclose(likelihoods(opened, pairs), expected, rtol=1e-5)
    assert likelihoods(opened, []) == []


def test_packing_changes_no_likelihood(opened: Student, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = pairs_of(words)
    before = likelihoods(opened, pairs)
    monkeypatch.setattr(type(opened), "capacity", lambda self: Capacity(6, 24))
    np.testing.assert_allclose(likelihoods(opened, pairs), before, rtol=1e-5)


def test_greedy_is_what_would_have_been_written(opened: Student, words: Any, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    before = likelihood.encoded(words, "The river")
    own = np.array(reference.continued(before, 4), np.int32)
    other = own.copy()
    other[2] = (other[2] + 1) % 300
    late = own.copy()
    late[3] = (late[3] + 1) % 300
    pairs = [(before, own), (before, other), (before, own[:1]), (before, late), (before, other[2:]), (np.append(before, own[:2]), own[2:])]
    expected = [True, False, True, False, False, True]
    assert greedy(opened, pairs) == expected
    monkeypatch.setattr(type(opened), "capacity", lambda self: Capacity(3, 24))
    assert greedy(opened, pairs) == expected and greedy(opened, []) == []


def test_the_likelier_choice_is_found_in_one_place_or_in_many(opened: Student, words: Any, reference: Reference) -> None:
    letters = [[pair(words, text, letter) for letter in "ABCD"] for text in TEXTS if not text.endswith(" ")]
    several = [
        [pair(words, text, after) for after in (" the hill", " water", " a bridge and more")] for text in TEXTS if not text.endswith(" ")
    ]
    assert all(len(after) == 1 for asked in letters for _, after in asked)
    assert not any(likelihood._one_place(asked) for asked in several)
    mixed = [question for both in zip(letters, several, strict=True) for question in both]
    expected = [int(np.argmax([reference.likelihood(*each) for each in asked])) for asked in mixed]
    done: list[int] = []
    assert likelier(opened, mixed, advance=done.append) == expected
    assert sum(done) == len(mixed) and len(set(expected)) > 1


def test_a_base_whose_weights_are_no_numbers_is_refused(opened: Student, words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = type(opened.session(np.zeros(0, np.int32)))
    monkeypatch.setattr(session, "read", lambda self, at, allowed: {h: [np.full(len(allowed[h][0]), np.nan)] for h in at})
    with pytest.raises(BackendError, match="not numbers"):
        likelier(opened, [[pair(words, "The river", letter) for letter in "AB"]])


def test_white_space_before_an_answer_belongs_to_it() -> None:
    letters = small_tokenizer("letters")
    before, after = pair(letters, "Is it? ", "yes")
    assert letters.decode(before) == "Is it?" and letters.decode(after) == " yes"
    first, rest = pair(letters, "", "yes")
    assert first.tolist() == [letters.bos_token_id] and letters.decode(rest) == "yes"
    begun, _ = pair(small_tokenizer("metaspace"), "Is it?", " yes")
    assert begun[0] == small_tokenizer("metaspace").bos_token_id, "a tokenizer that begins texts with a token still does"


# the base and the student


@pytest.mark.parametrize("name", SIDES)
def test_the_base_answers_beside_its_adapter_as_if_it_were_alone(name: str, base: Path, words: Any, tmp_path: Path) -> None:
    backend = choose(name)
    adapter = random_adapter(backend.open(base), tmp_path)
    both, plain, own = backend.open(base, adapters={"run": adapter}), backend.open(base), backend.open(base, adapters={"x": adapter})
    asked, pairs = prompts(words, most=6), pairs_of(words)
    by_base, by_student = written(plain, words, asked), written(own, words, asked, adapter="x")
    assert by_base != by_student
    letters = [[pair(words, text, letter) for letter in "ABCDEFGHIJKL"] for text in TEXTS if not text.endswith(" ")]
    chosen, chosen_own = likelier(plain, letters), likelier(own, letters, adapter="x")
    assert all(map(likelihood._one_place, letters)) and chosen != chosen_own
    for _ in range(2):  # in turns
        assert written(both, words, asked, adapter=BARE) == by_base and written(both, words, asked, adapter="run") == by_student
        assert likelihoods(both, pairs, adapter=BARE) == pytest.approx(likelihoods(plain, pairs), rel=1e-5)
        assert likelihoods(both, pairs, adapter="run") == pytest.approx(likelihoods(own, pairs, adapter="x"), rel=1e-5)
        assert likelihoods(both, pairs, adapter="run") != pytest.approx(likelihoods(plain, pairs), rel=1e-3)
        assert greedy(both, pairs, adapter=BARE) == greedy(plain, pairs)
        assert likelier(both, letters, adapter=BARE) == chosen and likelier(both, letters, adapter="run") == chosen_own


def random_adapter(student: Student, folder: Path) -> Path:
    """Neither A nor B is 0."""
    from safetensors.numpy import load_file

    from tests.rows import shape_of

    student.prepare(shape_of(), optimizer="adamw", weight_decay=0.0, initial=None, seed=0)
    student.save_adapter(folder)
    generator = np.random.default_rng(0)
    file = folder / "adapter_model.safetensors"
    save_file({name: generator.normal(0, 0.2, value.shape).astype(np.float32) for name, value in load_file(file).items()}, file)
    return folder
