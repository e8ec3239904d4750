"""A base of random weights in the proportions of Qwen2.5-1.5B, and the adapter that everybody starts from.

Kept: the width of an attention head (128), the feed-forward's 5.83 times the hidden size, the head's 17.8 % of the layers' FLOPs, tied
embeddings. Grouped keys and values as near as the fewer heads allow. Files alone, written with NumPy: no tensor library.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlx_distill.backends import lora
from mlx_distill.backends.base import LoraShape
from mlx_distill.models.families import complete, family_of

HEAD = 128
"""Numbers of an attention head."""
FEED_FORWARD = 8960 / 1536
"""Qwen2.5-1.5B: intermediate over hidden size."""
VOCABULARY = 151936 * 1536 / (28 * (2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960))
"""Qwen2.5-1.5B: weights of the head over those of the layers' linear maps, 0.178."""
LORA = LoraShape(rank=16, alpha=32.0, dropout=0.0, targets=("q_proj", "k_proj", "v_proj", "o_proj"))


@dataclass(frozen=True, slots=True)
class Sizes:
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def layer_weights(self) -> int:
        """Of a layer's seven linear maps: multiplications for one token."""
        return self.hidden * (2 * self.heads * HEAD + 2 * self.kv_heads * HEAD + 3 * self.intermediate)

    @property
    def adapter_weights(self) -> int:
        """Of a layer's adapters on queries, keys, values and output."""
        queries, keys = self.heads * HEAD, self.kv_heads * HEAD
        return LORA.rank * (2 * (self.hidden + queries) + 2 * (self.hidden + keys))


def proportioned(hidden: int, layers: int) -> Sizes:
    """`hidden` is a multiple of 128."""
    heads = hidden // HEAD
    sizes = Sizes(hidden, round(FEED_FORWARD * hidden / 64) * 64, layers, heads, max(1, round(heads / 6)), 0)
    vocabulary = round(VOCABULARY * layers * sizes.layer_weights / hidden)
    return Sizes(**{**asdict(sizes), "vocabulary": vocabulary})


def write_base(folder: Path, sizes: Sizes, seed: int = 0) -> None:
    """config.json, model.safetensors and its index as `convert` writes them, float32."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    config = config_of(sizes)
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in family_of(config).shapes(config).items():
        noise = generator.normal(0, 0.1 if len(shape) == 1 else shape[-1] ** -0.5, shape).astype(np.float32)
        weights[name] = noise + 1 if name.endswith("norm.weight") else noise
    save_file(weights, folder / "model.safetensors", {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    total = sum(math.prod(weight.shape) for weight in weights.values())
    index = {"metadata": {"total_size": 4 * total, "total_parameters": total}, "weight_map": dict.fromkeys(weights, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_adapter(folder: Path, sizes: Sizes, seed: int = 0) -> None:
    """PEFT's files. Neither A nor B is zero, so that a trainer that scales or places an adapter differently shows in its first loss."""
    config = config_of(sizes)
    fans = {
        name.removesuffix(".weight"): (shape[1], shape[0])
        for name, shape in family_of(config).shapes(config).items()
        if name.removesuffix(".weight").rpartition(".")[2] in LORA.targets and name.endswith(".weight")
    }
    generator = np.random.default_rng(seed)
    weights = lora.initial(fans, LORA.rank, seed)
    for name, weight in weights.items():
        if not weight.any():
            weights[name] = generator.normal(0, 0.02, weight.shape).astype(np.float32)
    lora.save(folder, weights, LORA, base="random")


def config_of(sizes: Sizes, *, tied: bool = True, dtype: str = "float32") -> dict[str, Any]:
    """config.json of a Qwen2 of these sizes, completed."""
    written = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "vocab_size": sizes.vocabulary,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
    }
    return complete(written, family_of(written))
