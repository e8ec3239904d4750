"""transformers' model with PEFT's own LoRA layers, opened from a base of the benchmarks with an adapter in PEFT's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from bench.shapes import Row
from mlx_distill.records import Ids

UNLEARNED = -100
"""The label of a token that is not learned, to transformers."""


def opened(base: Path, dtype: torch.dtype = torch.float32) -> Any:
    """On the CUDA device where there is one."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, attn_implementation=attention())
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def attention() -> str:
    """The fastest that transformers has here."""
    from transformers.utils import is_flash_attn_2_available

    return "flash_attention_2" if is_flash_attn_2_available() else "sdpa"


def adapted(base: Path, adapter: Path) -> Any:
    return PeftModel.from_pretrained(opened(base), adapter, is_trainable=True)


def wear(model: Any, adapter: Path) -> None:
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(model, load_file(adapter / "adapter_model.safetensors"))


def save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, save_embedding_layers=False)  # else the hub is asked what its vocabulary was


def tokenizer_of(vocabulary: int) -> Any:
    """It says no more than which token pads: a trainer asks for one, though rows are tokens already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {"<pad>": 0, "<end>": 1, "<unknown>": 2}
    made = Tokenizer(WordLevel(words | {str(i): i for i in range(len(words), vocabulary)}, unk_token="<unknown>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>")


def whole(prefix: Ids, row: Row) -> dict[str, list[int]]:
    """A row as trainers take it: all its tokens, and a label for those of the answer."""
    prompt = [*prefix.tolist(), *row.article.tolist()]
    answer = row.answer.tolist()
    return {"input_ids": prompt + answer, "labels": [UNLEARNED] * len(prompt) + answer}


def judged(base: Path, adapters: Mapping[str, Path], prefix: Ids, rows: Sequence[Row]) -> dict[str, float]:
    """Nats an answer token of each adapter: each row alone and whole, all logits."""
    model = adapted(base, next(iter(adapters.values()))).eval()
    out = {}
    for name, adapter in adapters.items():
        wear(model, adapter)
        with torch.no_grad():
            out[name] = sum(map(float, _nats(model, prefix, rows))) / sum(len(row.answer) for row in rows)
    return out


def _nats(model: Any, prefix: Ids, rows: Sequence[Row]) -> Iterator[Tensor]:
    for row in rows:
        tokens = torch.from_numpy(np.concatenate([prefix, row.article, row.answer]).astype(np.int64))[None].to(model.device)
        logits = model(input_ids=tokens[:, :-1]).logits[0, -len(row.answer) :]
        yield torch.nn.functional.cross_entropy(logits.float(), tokens[0, -len(row.answer) :], reduction="sum")
