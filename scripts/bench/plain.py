"""mlx-lm's model with mlx-lm's own LoRA layers, and adapters in PEFT's files put into it and taken out of it."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

from bench.model import LORA
from mlx_distill.backends import lora


def adapted(base: Path, adapter: Path) -> nn.Module:
    model, _ = load_model(base)
    model.freeze()
    keys = [f"self_attn.{target}" for target in LORA.targets]
    config = {"rank": LORA.rank, "scale": LORA.alpha / LORA.rank, "dropout": LORA.dropout, "keys": keys}
    linear_to_lora_layers(model, len(model.layers), config)
    wear(model, adapter)
    return model


def wear(model: nn.Module, adapter: Path) -> None:
    weights, _ = lora.load(adapter)
    values = [(path, mx.array(np.ascontiguousarray(weights[_name(path)].T))) for path, _ in tree_flatten(model.trainable_parameters())]
    model.load_weights(values, strict=False)
    mx.eval(model.parameters())


def save(model: nn.Module, folder: Path) -> None:
    trained = tree_flatten(model.trainable_parameters())
    lora.save(folder, {_name(path): np.ascontiguousarray(np.asarray(value).T) for path, value in trained}, LORA, base="random")


def _name(path: str) -> str:
    """model.layers.0.self_attn.q_proj.lora_a becomes PEFT's name of it."""
    module, _, which = path.rpartition(".")
    return lora.names(module)[which == "lora_b"]
