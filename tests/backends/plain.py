"""The plain computation that everything is compared with: mlx-lm's own model and LoRA layers, every row forwarded alone, its whole prompt
before it, all logits. And random rows and adapters to compute with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import load_model
from numpy.typing import NDArray

from mlx_distill.backends.base import Backend, LoraShape
from mlx_distill.backends.lora import magnitude_name, names
from mlx_distill.backends.mlx.student import MlxStudent
from mlx_distill.convert import convert
from mlx_distill.records import Group, Ids, TokenRow
from tests.checkpoints import make_checkpoint, random_weights, write_weights
from tests.rows import FAMILIES as FAMILIES
from tests.rows import TARGETS as TARGETS
from tests.rows import TARGETS_OF as TARGETS_OF
from tests.rows import random_group as random_group
from tests.rows import random_ids as random_ids
from tests.rows import random_row as random_row
from tests.rows import shape_of as shape_of

Weights = dict[str, NDArray[np.float32]]


def random_adapter(base: Path, shape: LoraShape, seed: int = 0) -> Weights:
    """Neither A nor B is 0, so that every gradient is something. Under PEFT's names."""
    generator = np.random.default_rng([7, seed])
    weights: Weights = {}
    for path, module in projections(load_model(base)[0], shape).items():
        rows, columns = module.weight.shape
        fan_in = columns * 32 // module.bits if "scales" in module else columns
        for name, size in zip(names(path), ((shape.rank, fan_in), (rows, shape.rank)), strict=True):
            weights[name] = generator.normal(0, 0.3 / size[1] ** 0.5, size).astype(np.float32)
        if shape.dora:
            weights[magnitude_name(path)] = generator.uniform(0.5, 1.5, rows).astype(np.float32)
    return weights


def projections(model: nn.Module, shape: LoraShape) -> dict[str, Any]:
    first = 0 if shape.layers is None else len(model.layers) - shape.layers
    return {
        path: module
        for path, module in model.named_modules()
        if path.rpartition(".")[2] in shape.targets and int(path.split(".")[2]) >= first
    }


def indifferent_base(backend: Backend, folder: Path) -> Path:
    """A base whose head is 0: every token is as likely as every other, after any text."""
    source = make_checkpoint(folder / "source", tied=False, num_hidden_layers=1)
    weights = random_weights(json.loads((source / "config.json").read_text()), 0)
    write_weights(source, weights | {"lm_head.weight": np.zeros_like(weights["lm_head.weight"])})
    return convert(source, folder / "base", backend=backend, bits=None, group_size=64).out


FORMS = pytest.mark.parametrize(("bits", "unpack"), [(None, False), (4, False), (4, True)], ids=["whole", "packed", "unpacked"])
"""Weights as they are, packed, and packed on disk alone."""


def open_student(base: Path, *, unpack: bool = False) -> MlxStudent:
    """As `MlxBackend.open` does, which on CPUs unpacks what the memory has room for."""
    return MlxStudent(base, {}, cast="float32", unpack=unpack)


def plain_model(base: Path, weights: Mapping[str, NDArray[np.float32]] | None = None, shape: LoraShape | None = None) -> nn.Module:
    """mlx-lm's model of a base, with an adapter by mlx-lm's own layers where one is given."""
    model, _ = load_model(base)
    model.freeze()
    if weights is not None and shape is not None:
        adapted = []
        for path, module in projections(model, shape).items():
            kind = DoRALinear if shape.dora else LoRALinear
            layer = kind.from_base(module, r=shape.rank, dropout=0.0, scale=shape.scale)
            layer.lora_a, layer.lora_b = (mx.array(np.ascontiguousarray(weights[name].T)) for name in names(path))
            if shape.dora:
                layer.m = mx.array(weights[magnitude_name(path)])
            adapted.append((path, layer))
        model.update_modules(tree_unflatten(adapted))
        model.unfreeze(keys=["lora_a", "lora_b", "m"])
    model.eval()
    return model


def logits_of(model: nn.Module, tokens: Sequence[int] | Ids) -> mx.array:
    """(n, V) float32: after every token of a text that stands alone."""
    out: mx.array = model(mx.array(np.asarray(tokens, np.int32))[None])[0].astype(mx.float32)
    return out


def log_softmax(model: nn.Module, tokens: Sequence[int] | Ids) -> NDArray[np.float64]:
    logits = np.asarray(logits_of(model, tokens), np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def among(logs: NDArray[np.float64], ids: Ids) -> NDArray[np.float64]:
    """Log probabilities (V,) renormalised over some ids."""
    chosen = logs[ids]
    out: NDArray[np.float64] = chosen - np.log(np.exp(chosen).sum())
    return out


def row_nlls(model: nn.Module, prefix: Ids, row: TokenRow) -> mx.array:
    """Nats of a row's targets, (k,)."""
    logits = logits_of(model, [*prefix, *row.tokens])[mx.array(len(prefix) + row.read_at)]
    if row.allowed is not None:
        mask = np.full(logits.shape, -np.inf, np.float32)
        for i, ids in enumerate(row.allowed):
            mask[i, slice(None) if ids is None else ids] = 0
        logits = logits + mx.array(mask)
    return mx.logsumexp(logits, axis=-1) - logits[mx.arange(len(row.targets)), mx.array(row.targets)]


def row_nats(model: nn.Module, groups: Sequence[Group]) -> dict[str, float]:
    """Weighted nats of each row."""
    rows = [(group.prefix, row) for group in groups for row in group.rows]
    return {row.id: float((np.asarray(row_nlls(model, prefix, row), np.float64) * row.weight).sum()) for prefix, row in rows}


def gradient(model: nn.Module, groups: Sequence[Group]) -> dict[str, NDArray[np.float32]]:
    """Of sum(weight * nll) / sum(weight), by MLX's paths."""
    total = sum(float(row.weight.sum()) for group in groups for row in group.rows)

    def loss() -> mx.array:
        parts = [mx.sum(row_nlls(model, group.prefix, row) * mx.array(row.weight)) for group in groups for row in group.rows]
        return mx.stack(parts).sum() / total

    _, tree = nn.value_and_grad(model, loss)()
    return {path: np.asarray(value) for path, value in tree_flatten(tree)}


def our_gradient(student: MlxStudent, groups: Sequence[Group], step: int = 0) -> dict[str, NDArray[np.float32]]:
    """What `update` clips and applies, by MLX's paths."""
    return {path: np.asarray(value) for path, value in student.gradient(groups, step)[0].items()}


def distance(ours: Mapping[str, NDArray[np.float32]], theirs: Mapping[str, NDArray[np.float32]]) -> float:
    """Relative: the norm of the difference of the whole gradients, by the norm of the second."""
    assert ours.keys() == theirs.keys()
    gap = sum(float(np.square(ours[name].astype(np.float64) - theirs[name]).sum()) for name in ours)
    size = sum(float(np.square(theirs[name].astype(np.float64)).sum()) for name in ours)
    assert size > 0
    return float((gap / size) ** 0.5)
