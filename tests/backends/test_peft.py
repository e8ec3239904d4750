"""PEFT reads our adapters onto transformers' model of the original checkpoint, and we read PEFT's: the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_distill.backends.base import Backend
from mlx_distill.records import Ids
from tests.backends import plain
from tests.backends.test_mlx_update import prepared
from tests.checkpoints import VOCABULARY
from tests.conftest import MakeBase

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers warns of its own calls
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


def our_logs(student: Any, ids: Ids, adapter: str) -> NDArray[np.float32]:
    session = student.session(ids[:8], adapter=adapter)
    handle = session.admit([ids[8:]])[0]
    return np.stack(session.read({handle: range(len(ids) - 8)}, {handle: [EVERYTHING] * (len(ids) - 8)})[handle])


@pytest.mark.parametrize("family", plain.FAMILIES)
def test_peft_loads_our_adapter_and_gives_the_same_logits(backend: Backend, base: MakeBase, tmp_path: Path, family: str) -> None:
    folder, shape = base(family), plain.shape_of(family)
    prepared(folder, shape, weights=plain.random_adapter(folder, shape)).save_adapter(tmp_path)
    theirs = their_logs(peft.PeftModel.from_pretrained(checkpoint(folder), tmp_path), IDS)
    ours = our_logs(backend.open(folder, adapters={"own": tmp_path}), IDS, "own")
    np.testing.assert_allclose(ours, theirs[8:], atol=1e-4)
    assert np.abs(theirs - their_logs(checkpoint(folder), IDS)).max() > 0.1, "the adapter does something"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_we_load_peft_s_adapter_and_give_the_same_logits(backend: Backend, base: MakeBase, tmp_path: Path, dtype: str) -> None:
    folder = base()
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = peft.get_peft_model(checkpoint(folder), settings)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(getattr(torch, dtype)) * 0.2
    model.save_pretrained(tmp_path)
    theirs = their_logs(model.float(), IDS)
    np.testing.assert_allclose(our_logs(backend.open(folder, adapters={"theirs": tmp_path}), IDS, "theirs"), theirs[8:], atol=1e-4)
