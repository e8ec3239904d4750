"""PEFT reads our adapters onto transformers' model of the original checkpoint, and we read PEFT's: the same logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.records import Ids
from tests.backends import plain
from tests.backends.test_mlx_update import prepared
from tests.checkpoints import VOCABULARY
from tests.conftest import MakeBase

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # transformers warns of its own calls
    pytest.mark.filterwarnings("error:.*adapter keys"),  # PEFT warns of tensors that are missing, or too many
]
IDS = plain.random_ids(np.random.default_rng(0), 24)
EVERYTHING = np.arange(VOCABULARY, dtype=np.int32)


def checkpoint(base: Path) -> Any:
    """transformers' model of what a base was converted from."""
    return transformers.AutoModelForCausalLM.from_pretrained(base.parent / "checkpoint", dtype=torch.float32, attn_implementation="eager")


def their_logs(model: Any, ids: Ids) -> NDArray[np.float32]:
    with torch.no_grad():
        logits = model.eval()(input_ids=torch.tensor(ids[None].astype(np.int64))).logits[0]
    out: NDArray[np.float32] = torch.log_softmax(logits, -1).numpy()
    return out


def our_logs(student: Any, ids: Ids, adapter: str | None) -> NDArray[np.float32]:
    session = student.session(ids[:8], adapter=adapter)
    handle = session.admit([ids[8:]], read_at=[range(len(ids) - 8)])[0]
    return np.stack(session.read({handle: range(len(ids) - 8)}, {handle: [EVERYTHING] * (len(ids) - 8)})[handle])


def same_in_peft(backend: Backend, folder: Path, shape: LoraShape, tmp_path: Path) -> None:
    student = prepared(folder, shape, weights=plain.random_adapter(folder, shape))
    student.save_adapter(tmp_path)
    theirs = their_logs(peft.PeftModel.from_pretrained(checkpoint(folder), tmp_path), IDS)
    ours = our_logs(backend.open(folder, adapters={"own": tmp_path}), IDS, "own")
    np.testing.assert_allclose(ours, theirs[8:], atol=1e-4)
    np.testing.assert_allclose(our_logs(student, IDS, None), theirs[8:], atol=1e-4)
    assert np.abs(theirs - their_logs(checkpoint(folder), IDS)).max() > 0.1, "the adapter does something"


@pytest.mark.parametrize("family", plain.FAMILIES)
def test_peft_loads_our_adapter_and_gives_the_same_logits(backend: Backend, base: MakeBase, tmp_path: Path, family: str) -> None:
    same_in_peft(backend, base(family), plain.shape_of(family), tmp_path)


@pytest.mark.parametrize("kind", [{"rslora": True}, {"dora": True}, {"layers": 1}, {"dora": True, "rslora": True, "layers": 1}], ids=str)
def test_peft_loads_every_kind_of_adapter_of_ours(backend: Backend, base: MakeBase, tmp_path: Path, kind: dict[str, Any]) -> None:
    same_in_peft(backend, base(), replace(plain.shape_of(), **kind), tmp_path)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"layers_to_transform": [0]},
        {"layers_to_transform": 1, "layers_pattern": "layers"},
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": r".*layers\.0.*(q|up)_proj"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_we_load_peft_s_adapter_and_give_the_same_logits(
    backend: Backend, base: MakeBase, tmp_path: Path, dtype: str, kind: dict[str, Any]
) -> None:
    folder = base()
    torch.manual_seed(0)
    whole: dict[str, Any] = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM"} | kind
    settings = peft.LoraConfig(**whole, init_lora_weights=False)
    model = peft.get_peft_model(checkpoint(folder), settings)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, dtype)) * (0.2 if parameter.ndim == 2 else 1.5)
    model.save_pretrained(tmp_path)
    theirs = their_logs(model.float(), IDS)
    np.testing.assert_allclose(our_logs(backend.open(folder, adapters={"theirs": tmp_path}), IDS, "theirs"), theirs[8:], atol=1e-4)
