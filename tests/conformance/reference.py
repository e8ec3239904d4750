"""The families' models in plain NumPy, every row forwarded alone with its whole prompt: what a backend must compute.

A text of n tokens goes through the layers as (n, hidden). Attention sees (heads, n, n) scores at once; nothing is shared, tiled, fused or
left out. float64, so that what differs from a backend is the backend's rounding. Checked by finite differences, and by transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.lora import float32, magnitude_name, names
from mlx_distill.models.families import complete, family_of, windows
from mlx_distill.models.rotary import rotary
from mlx_distill.models.tensors import read_header
from mlx_distill.models.unpack import unpack
from mlx_distill.records import Ids, TokenRow
from tests.conformance.tape import Array, Value, constant, detached, exp, joined, log_sum_exp, power, tanh

Trained = dict[str, Value]
"""What is learned, under its name in files: an adapter's weights (PEFT's names), or the checkpoint's own."""


def read_weights(base: Path) -> dict[str, Array]:
    """Every weight of a base as what it stands for, (outputs, inputs), under the checkpoint's names."""
    raw = {name: place.rows(0, place.shape[0]) for file in sorted(base.glob("*.safetensors")) for name, place in read_header(file).items()}
    weights: dict[str, Array] = {}
    for name in (name for name in raw if not name.endswith((".scales", ".biases"))):
        if raw[name].dtype != "U32":
            weights[name] = float32(raw[name])
            continue
        stem = name.removesuffix("weight")
        scales, biases = float32(raw[f"{stem}scales"]), float32(raw[f"{stem}biases"])
        packing = json.loads((base / "config.json").read_text(encoding="utf-8"))["quantization"]
        weights[name] = unpack(raw[name].data, scales, biases, scales.shape[1] * packing["group_size"])
    return weights


class Model:
    """A base, and beside it an adapter, or weights of its own that are learned."""

    def __init__(self, base: Path, dtype: type[np.floating[Any]] = np.float64):
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        self.config = complete(config, family_of(config))
        self.weights = {name: weight.astype(dtype) for name, weight in read_weights(base).items()}
        self.vocabulary = len(self.weights["model.embed_tokens.weight"])
        self._gemma = self.config["model_type"] == "gemma2"
        self._windows, self._rotary = windows(config), rotary(config)
        self._heads, self._kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]

    def logits(self, tokens: Sequence[int] | Ids, trained: Trained, shape: LoraShape | None) -> Value:
        """(n, V) after every token of a text; `shape` None: what is learned is the model's own weights."""
        return _Forward(self, trained, shape)(np.asarray(tokens, np.int64))


class _Forward:
    """One text through the layers."""

    def __init__(self, model: Model, trained: Trained, shape: LoraShape | None):
        self._model, self._config, self._trained, self._shape = model, model.config, trained, shape

    def __call__(self, tokens: Ids) -> Value:
        x = self._weight("model.embed_tokens.weight")[tokens]
        if self._model._gemma:
            x = x * self._config["hidden_size"] ** 0.5
        for i in range(self._config["num_hidden_layers"]):
            x = self._layer(x, i)
        head = "lm_head.weight" if "lm_head.weight" in self._model.weights else "model.embed_tokens.weight"
        return _capped(self._norm(x, "model.norm") @ self._weight(head).T, self._config.get("final_logit_softcapping"))

    def _layer(self, x: Value, i: int) -> Value:
        at = f"model.layers.{i}."
        mixed = self._attention(self._norm(x, f"{at}input_layernorm"), i, f"{at}self_attn.")
        if self._model._gemma:  # norms before and after each half
            x = x + self._norm(mixed, f"{at}post_attention_layernorm")
            inner = self._feed_forward(self._norm(x, f"{at}pre_feedforward_layernorm"), f"{at}mlp.")
            return x + self._norm(inner, f"{at}post_feedforward_layernorm")
        x = x + mixed
        return x + self._feed_forward(self._norm(x, f"{at}post_attention_layernorm"), f"{at}mlp.")

    def _attention(self, x: Value, i: int, at: str) -> Value:
        heads, kv_heads = self._model._heads, self._model._kv_heads
        if f"{at}qkv_proj.weight" in self._model.weights:
            whole = self._linear(x, f"{at}qkv_proj")
            width = whole.shape[-1] // (heads + 2 * kv_heads)
            cuts = heads * width, (heads + kv_heads) * width
            parts = whole[:, : cuts[0]], whole[:, cuts[0] : cuts[1]], whole[:, cuts[1] :]
        else:
            parts = self._linear(x, f"{at}q_proj"), self._linear(x, f"{at}k_proj"), self._linear(x, f"{at}v_proj")
        queries, keys, values = (
            part.reshape(len(x.data), count, -1) for part, count in zip(parts, (heads, kv_heads, kv_heads), strict=True)
        )
        if f"{at}q_norm.weight" in self._model.weights:
            queries, keys = self._norm(queries, f"{at}q_norm"), self._norm(keys, f"{at}k_norm")
        shared = np.repeat(np.arange(kv_heads), heads // kv_heads)  # which keys each head of queries asks
        queries = self._turned(queries).transpose(1, 0, 2)
        keys, values = self._turned(keys).transpose(1, 0, 2)[shared], values.transpose(1, 0, 2)[shared]
        scale = self._config.get("query_pre_attn_scalar", queries.shape[-1]) ** -0.5
        scores = _capped(queries @ keys.transpose(0, 2, 1) * scale, self._config.get("attn_logit_softcapping"))
        scores = scores + constant(self._hidden(len(x.data), self._model._windows[i]), scores)
        mixed = exp(scores - log_sum_exp(scores)) @ values
        return self._linear(mixed.transpose(1, 0, 2).reshape(len(x.data), -1), f"{at}o_proj")

    @staticmethod
    def _hidden(n: int, window: int | None) -> Array:
        """(n, n): -inf where a query does not see a key: one behind it, or one `window` tokens or more before it."""
        before = np.arange(n)[:, None] - np.arange(n)
        return np.where((before < 0) | (before >= (window or n)), -np.inf, 0.0)

    def _turned(self, x: Value) -> Value:
        """(n, heads, width): token t's pairs turned by t * frequencies."""
        rotary = self._model._rotary
        half = len(rotary.frequencies)
        angles = np.arange(x.shape[0])[:, None, None] * rotary.frequencies
        cos, sin = rotary.gain * np.cos(angles), rotary.gain * np.sin(angles)
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        turned = [first * constant(cos, x) - second * constant(sin, x), second * constant(cos, x) + first * constant(sin, x)]
        return joined([*turned, rest], 2)

    def _feed_forward(self, x: Value, at: str) -> Value:
        if f"{at}gate_up_proj.weight" in self._model.weights:
            both = self._linear(x, f"{at}gate_up_proj")
            half = both.shape[-1] // 2
            gate, up = both[:, :half], both[:, half:]
        else:
            gate, up = self._linear(x, f"{at}gate_proj"), self._linear(x, f"{at}up_proj")
        bent = _gelu if self._model._gemma else _silu
        return self._linear(bent(gate) * up, f"{at}down_proj")

    def _norm(self, x: Value, name: str) -> Value:
        """Root mean square (Zhang & Sennrich, 2019); Gemma's weights are what is added to 1."""
        weight = self._weight(f"{name}.weight")
        size = power((x * x).sum(-1, keepdims=True) * (1 / x.shape[-1]) + self._config["rms_norm_eps"], -0.5)
        return x * size * (weight + 1.0 if self._model._gemma else weight)

    def _linear(self, x: Value, path: str) -> Value:
        """LoRA: W x + s B A x. DoRA: m / |W + s B A| times that, where the norm of each row is a constant in the backward pass."""
        weight = self._weight(f"{path}.weight")
        y = x @ weight.T
        if (own := self._adapter(path)) is not None and self._shape is not None:
            a, b, magnitude = own
            y = y + (x @ a.T) @ b.T * self._shape.scale
            if magnitude is not None:
                whole = detached(weight + (b @ a) * self._shape.scale)
                y = y * (magnitude * power((whole * whole).sum(-1), -0.5))
        return y + self._weight(f"{path}.bias") if f"{path}.bias" in self._model.weights else y

    def _adapter(self, path: str) -> tuple[Value, Value, Value | None] | None:
        a, b = names(path)
        return (self._trained[a], self._trained[b], self._trained.get(magnitude_name(path))) if a in self._trained else None

    def _weight(self, name: str) -> Value:
        return self._trained[name] if name in self._trained else Value(self._model.weights[name])


def nats(logits: Callable[[Ids], Value], prefix: Ids, row: TokenRow) -> Value:
    """(k,) of a row's targets, each among the ids that are allowed there."""
    text = np.concatenate([prefix, row.tokens])
    said = logits(text)[len(prefix) + row.read_at]
    if row.allowed is not None:
        closed = np.full(said.shape, -np.inf)
        for i, ids in enumerate(row.allowed):
            closed[i, slice(None) if ids is None else ids] = 0
        said = said + constant(closed, said)
    chosen = said[np.arange(len(row.targets)), row.targets]
    return log_sum_exp(said).reshape(-1) - chosen


def values(weights: Mapping[str, Array], dtype: type[np.floating[Any]] = np.float64) -> Trained:
    """Fresh leaves, of which derivatives are wanted."""
    return {name: Value(weight.astype(dtype)) for name, weight in weights.items()}


def _capped(x: Value, cap: float | None) -> Value:
    return x if cap is None else tanh(x * (1 / cap)) * cap


def _silu(x: Value) -> Value:
    return x * power(exp(x * -1.0) + 1.0, -1)


def _gelu(x: Value) -> Value:
    """By tanh (Hendrycks & Gimpel, 2016)."""
    inner = (x + x * x * x * 0.044715) * (2 / np.pi) ** 0.5
    return x * (tanh(inner) + 1.0) * 0.5
