"""A base answers as its original does: transformers' own forward of the checkpoint that it was made of, families and what configs ask for.

Of a packed base the original is transformers' model with the weights that the packed ones stand for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_distill.errors import BackendError
from mlx_distill.models.families import complete, family_of, problems, windows
from mlx_distill.models.rotary import longest
from mlx_distill.records import Group
from tests.checkpoints import FAMILIES, write_weights
from tests.conformance.contestants import BACKENDS, CLOSE, EVERYONE, gap, log_probabilities, open_student, prepared, random_adapter
from tests.conformance.reference import read_weights
from tests.conftest import MakeBase
from tests.rows import random_ids, random_row, shape_of

Case = tuple[str, int | None, dict[str, Any]]
Original = Callable[[Case], NDArray[np.float64]]
PREFIX, ROW = (random_ids(np.random.default_rng(seed), length) for seed, length in ((4, 7), (5, 29)))
LENGTH = len(PREFIX) + len(ROW)


def longrope(pairs: int, **more: Any) -> dict[str, Any]:
    """The long factors are far from the short ones."""
    factors = {"short_factor": [1.0 + i / 8 for i in range(pairs)], "long_factor": [2.0 + i for i in range(pairs)]}
    lengths = {"original_max_position_embeddings": LENGTH, "max_position_embeddings": 4 * LENGTH}
    return {"rope_scaling": {"type": "longrope", **factors}, **lengths, **more}


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
SLIDING = {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True, "sliding_window": 6}
CASES: dict[str, Case] = {
    **{family: (family, None, {}) for family in FAMILIES},
    **{f"{family}, 4 bits": (family, 4, {}) for family in FAMILIES},
    "qwen2 of late windows": ("qwen2", None, {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen2 of windows switched off": ("qwen2", None, {"use_sliding_window": False, "sliding_window": 6, "max_window_layers": 0}),
    "qwen3 of listed layers": ("qwen3", None, SLIDING),
    "mistral of windows": ("mistral", None, {"sliding_window": 6}),
    "phi3 of windows": ("phi3", None, {"sliding_window": 6}),
    "gemma2 of windows": ("gemma2", 4, {"sliding_window": 6}),
    "llama, linear": ("llama", None, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama, llama3": ("llama", None, {"rope_scaling": LLAMA3}),
    "llama, dynamic": ("llama", None, {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": LENGTH}),
    "qwen2, yarn": ("qwen2", None, {"rope_scaling": YARN, "max_position_embeddings": 64}),
    "qwen3, yarn of gains": ("qwen3", None, {"rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.2, "beta_fast": 8}}),
    "phi3, longrope": ("phi3", 4, longrope(8)),
    "phi3, longrope of part of a head": ("phi3", None, longrope(6, partial_rotary_factor=0.75)),
}  # fmt: skip


@pytest.fixture(scope="module")
def original(base: MakeBase, tmp_path_factory: pytest.TempPathFactory) -> Original:
    """Log probabilities (n, V) after each token of the row, each case forwarded once."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    known: dict[str, NDArray[np.float64]] = {}

    def forwarded(case: Case) -> NDArray[np.float64]:
        family, bits, config = case
        if (key := json.dumps(case)) not in known:
            folder = base(family, bits=bits, **config)
            source = folder.parent / "checkpoint"
            if bits is not None:
                source = dense(folder, source, tmp_path_factory.mktemp("dense"))
            net = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
            with torch.no_grad():
                logits = net(torch.tensor([[*PREFIX, *ROW]])).logits[0, len(PREFIX) :].double()
            known[key] = torch.log_softmax(logits, -1).numpy()
        return known[key]

    return forwarded


def dense(base: Path, source: Path, out: Path) -> Path:
    """The checkpoint with the weights that a packed base stands for."""
    (out / "config.json").write_bytes((source / "config.json").read_bytes())
    write_weights(out, {name: weight.astype(np.float32) for name, weight in read_weights(base).items()})
    return out


@pytest.mark.parametrize("name", EVERYONE)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_base_answers_as_its_original(base: MakeBase, original: Original, name: str, case: Case) -> None:
    family, bits, config = case
    assert gap(log_probabilities(open_student(name, base(family, bits=bits, **config)), PREFIX, ROW), original(case)) <= CLOSE


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("kind", ["phi3, longrope", "llama, dynamic"])
def test_a_row_longer_than_its_embedding_knows_is_refused(base: MakeBase, name: str, kind: str) -> None:
    """The prefix's keys are turned once, for rows of all lengths; the original would turn them otherwise for a longer row."""
    family, bits, config = CASES[kind]
    folder = base(family, bits=bits, **config)
    assert longest(json.loads((folder / "config.json").read_text())) == LENGTH
    session = open_student(name, folder).session(PREFIX)
    (handle,) = session.admit([ROW])
    with pytest.raises(BackendError, match=f"{LENGTH + 1} tokens.* up to {LENGTH}") as caught:
        session.extend({handle: [5]})
    assert f"train.max_tokens={LENGTH}" in str(caught.value.hint)
    shape = shape_of(family)
    student = prepared(name, folder, shape, weights=random_adapter(folder, shape))
    row = random_row(np.random.default_rng(0), "long", len(ROW) + 1)
    with pytest.raises(BackendError, match=f"{LENGTH + 1} tokens"):
        student.loss([Group(PREFIX, [[row]])])


# what a config says of windows


def windows_by_transformers(config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Off transformers' own config: it lists the kinds of layers, or has one kind."""
    transformers = pytest.importorskip("transformers")
    made = transformers.AutoConfig.for_model(**config)
    kinds = getattr(made, "layer_types", None) or ["sliding_attention"] * made.num_hidden_layers
    window = getattr(made, "sliding_window", None)
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "llama"])
@pytest.mark.parametrize(
    "config",
    [{}, {"sliding_window": None}, {"sliding_window": 9}, {"sliding_window": 9, "use_sliding_window": True, "max_window_layers": 2}],
    ids=str,
)
def test_windows_are_those_that_transformers_reads(family: str, config: dict[str, Any]) -> None:
    whole = {"model_type": family, "num_hidden_layers": 5, "num_attention_heads": 4, "hidden_size": 64, **config}
    assert windows(whole) == windows_by_transformers(whole)


def test_llama_has_windows_only_where_its_layers_are_said_to_slide() -> None:
    """transformers' Llama has none; a config that lists such layers was written for mlx-lm, which reads it so."""
    config = {"model_type": "llama", "num_hidden_layers": 2, "sliding_window": 9}
    assert windows(config) == (None, None)
    assert windows(config | {"layer_types": ["sliding_attention", "full_attention"]}) == (9, None)


def test_attention_in_both_directions_is_refused() -> None:
    config = {"model_type": "gemma2", "use_bidirectional_attention": True, "hidden_activation": "gelu_pytorch_tanh"}
    assert "use_bidirectional_attention true" in list(problems(complete(config, family_of(config)), family_of(config)))
