"""transformers' models, opened from a Base: built without memory, filled tensor by tensor, packed weights left packed.

It knows weights and shapes; nothing of adapters, rows, losses or caches. The forward pass is in `decoder`: transformers' modules hold the
weights, and what a layer is like (its heads, its scale, its window) is read off them here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mlx_distill.backends.torch.packed import PackedEmbedding, PackedLinear
from mlx_distill.errors import CheckpointError
from mlx_distill.models.families import complete, family_of, windows
from mlx_distill.models.rotary import rotary

AGAIN = "convert it again"
UNREAD = ("quantization", "quantization_config", "torch_dtype", "dtype", "architectures")
"""Keys of a base's config that transformers would act upon, and that are seen to here."""
TABLE = "model.embed_tokens"


@dataclass(frozen=True, slots=True)
class Layer:
    """One of transformers' decoder layers, and what its attention is like."""

    module: Any
    heads: int
    kv_heads: int
    width: int
    """Numbers of one head."""
    scale: float
    """What multiplies q·k."""
    cap: float | None
    """What bends the scores (Gemma 2)."""
    window: int | None
    """A query sees itself and window - 1 tokens before it; None: all."""


class Head:
    """The last matmul of a model: hidden states to logits."""

    def __init__(self, table: Any, cap: float | None):
        self.table, self._cap = table, cap
        self.vocabulary = int(table.weight.shape[0])

    def logits(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """(k, hidden) to float32 logits: (k, V), or (k, len(rows)) for those rows of the head alone, packed ones too."""
        return self._capped(self._product(hidden, rows))[0]

    def bent(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (k, V), and their derivative by what the matmul gave, where they are capped."""
        return self._capped(self._product(hidden, None))

    def mixed(self, weights: Tensor) -> Tensor:
        """(k, V) weights to the weighted sum of the head's rows, (k, hidden) float32."""
        if self._packed:
            out: Tensor = self.table.mixed(weights)
            return out.float()
        return (weights.to(self.table.weight.dtype) @ self.table.weight).float()

    def rows(self, ids: Tensor) -> Tensor:
        """The head's rows of some tokens, (k, hidden) float32."""
        rows: Tensor = self.table.rows(ids) if self._packed else self.table.weight[ids]
        return rows.float()

    @property
    def _packed(self) -> bool:
        return isinstance(self.table, (PackedLinear, PackedEmbedding))

    def _product(self, hidden: Tensor, rows: Tensor | None) -> Tensor:
        if self._packed:
            out: Tensor = self.table.product(hidden, rows)
        else:
            out = nn.functional.linear(hidden, self.table.weight if rows is None else self.table.weight[rows])
        return out.float()

    def _capped(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        if self._cap is None:
            return logits, None
        bent = logits.div_(self._cap).tanh_()
        return self._cap * bent, bent.square().neg_().add_(1)


class Model:
    """`net` is transformers' own, in evaluation mode, frozen; its modules and parameters have the checkpoint's names."""

    def __init__(self, net: Any, config: dict[str, Any], device: torch.device, dtype: torch.dtype):
        self.net, self.config, self.device, self.dtype = net, config, device, dtype
        seen = windows(config)
        self.layers = [_layer(module, config, window) for module, window in zip(net.model.layers, seen, strict=True)]
        self.head = Head(net.lm_head, config.get("final_logit_softcapping"))
        turning = rotary(config)
        self.longest, self._gain = turning.longest, turning.gain
        self._frequencies = torch.from_numpy(turning.frequencies.astype(np.float32)).to(device)

    @property
    def embedding(self) -> Any:
        return self.net.model.embed_tokens

    @property
    def norm(self) -> Any:
        """After the last layer."""
        return self.net.model.norm

    @property
    def kind(self) -> str:
        return str(self.config["model_type"])

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding, (n, 1, turned / 2) float32; what a scaling multiplies them with is in them."""
        angles = positions[:, None].float() * self._frequencies
        return (angles.cos() * self._gain)[:, None], (angles.sin() * self._gain)[:, None]


def open_model(base: Path, *, device: torch.device, dtype: torch.dtype, unpack: bool = False) -> Model:
    """The base, to compute in `dtype`. `unpack`: hold packed weights as what they stand for.

    The host never holds more than one tensor beside what it keeps. Raises CheckpointError.
    """
    config = _read(base)
    packing = config.get("quantization") or {}
    files = sorted(base.glob("model*.safetensors"))
    whole = complete(config, family_of(config))
    try:
        names = {name: file for file in files for name in _names(file)}
        net = build(whole, {name.removesuffix(".scales") for name in names if name.endswith(".scales")}, packing, dtype)
        for file in files:
            _fill(net, file, device, dtype)
        _complete(net, base, device)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"the base cannot be opened: {error}", file=base, hint=AGAIN) from None
    if unpack:
        _unpack(net)
    net.requires_grad_(False)
    net.eval()
    return Model(net, whole, device, dtype)


def build(config: dict[str, Any], packed: set[str], packing: dict[str, Any], dtype: torch.dtype) -> Any:
    """transformers' model of a completed config on the meta device; the modules named in `packed` hold packed weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kept = {key: value for key, value in config.items() if key not in (*UNREAD, "model_type")}
    with torch.device("meta"):
        net = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **kept), dtype=dtype)
        table = net.model.embed_tokens
        net.model.embed_tokens = nn.Embedding(table.num_embeddings, table.embedding_dim, dtype=dtype)  # Gemma's own scales its rows, too
        for name in sorted(packed):
            parent, _, last = name.rpartition(".")
            setattr(net.get_submodule(parent), last, _packed(net.get_submodule(name), packing, dtype))
    if config["tie_word_embeddings"]:
        net.lm_head = _tied(net.model.embed_tokens)
    # Its buffers follow from the config, and lie in no file; our forward pass takes what `models.rotary` says.
    net.model.rotary_emb = type(net.model.rotary_emb)(config=net.config)
    return net


def _packed(module: Any, packing: dict[str, Any], dtype: torch.dtype) -> Any:
    how = {"bits": int(packing["bits"]), "group_size": int(packing["group_size"]), "dtype": dtype}
    if isinstance(module, nn.Embedding):
        return PackedEmbedding(module.num_embeddings, module.embedding_dim, **how)
    return PackedLinear(module.in_features, module.out_features, module.bias is not None, **how)


def _tied(table: Any) -> Any:
    """A head that is the embedding: the same tensors."""
    if isinstance(table, PackedEmbedding):
        return table
    head = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False, device="meta")
    head.weight = table.weight
    return head


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as shard:
        return list(shard.keys())


def _fill(net: Any, file: Path, device: torch.device, dtype: torch.dtype) -> None:
    """The tensors of one file, one after another to where they are used."""
    with safe_open(file, "pt", device="cpu") as shard:
        for name in shard.keys():  # noqa: SIM118 - a file, not a mapping
            module, last = _place(net, name)
            if module is None:
                continue
            there, value = getattr(module, last), shard.get_tensor(name)
            if there.dtype == torch.int32:
                value = value.view(torch.int32)
            if there.shape != value.shape:
                raise ValueError(f"{name} is {tuple(value.shape)}; the config asks for {tuple(there.shape)}")
            value = value.to(device, there.dtype if there.dtype == torch.int32 else dtype, copy=True)
            if isinstance(there, nn.Parameter):
                module._parameters[last] = nn.Parameter(value, requires_grad=False)
            else:
                module._buffers[last] = value


def _place(net: Any, name: str) -> tuple[Any, str]:
    """The module that holds a tensor, and its name there. None for a head that is the embedding: some files have it too."""
    path, _, last = name.rpartition(".")
    if path == "lm_head" and net.config.tie_word_embeddings:
        return None, last
    try:
        module = net.get_submodule(path)
        getattr(module, last)
    except AttributeError:
        raise ValueError(f"{name} has no place in a {net.config.model_type}") from None
    return module, last


def _complete(net: Any, base: Path, device: torch.device) -> None:
    """Tie what is tied, and see that nothing is left without a value."""
    if net.config.tie_word_embeddings:
        net.lm_head = _tied(net.model.embed_tokens)
    net.model.rotary_emb.to(device)
    if empty := next((name for name, tensor in _tensors(net) if tensor.is_meta), None):
        raise ValueError(f"its files lack {empty}")


def _tensors(net: Any) -> Iterator[tuple[str, Tensor]]:
    yield from net.named_parameters()
    yield from net.named_buffers()


def _unpack(net: Any) -> None:
    """Each packed module becomes a plain one; its packed tensors are let go before the next."""
    tied = net.config.tie_word_embeddings
    for path, module in list(net.named_modules()):
        if not isinstance(module, (PackedLinear, PackedEmbedding)) or (tied and path == "lm_head"):
            continue
        plain = _plain(module)
        parent, _, last = path.rpartition(".")
        setattr(net.get_submodule(parent), last, plain)
    if tied:
        net.lm_head = _tied(net.model.embed_tokens)


def _plain(module: Any) -> Any:
    weight = nn.Parameter(module.dequantized(), requires_grad=False)
    if isinstance(module, PackedEmbedding):
        plain: Any = nn.Embedding(*weight.shape, device="meta")
    else:
        plain = nn.Linear(*reversed(weight.shape), bias=module.bias is not None, device="meta")
        plain.bias = module.bias
    plain.weight = weight
    return plain


def _layer(module: Any, config: dict[str, Any], window: int | None) -> Layer:
    attention, heads = module.self_attn, int(config["num_attention_heads"])
    return Layer(
        module=module,
        heads=heads,
        kv_heads=int(config["num_key_value_heads"]),
        width=int(attention.head_dim),
        scale=float(attention.scaling),
        cap=config.get("attn_logit_softcapping"),
        window=window,
    )


def _read(base: Path) -> dict[str, Any]:
    file = base / "config.json"
    if not file.is_file():
        raise CheckpointError("this is no base", file=base, hint="make one: mlx-distill convert MODEL OUT")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"config.json cannot be read: {error}", file=base, hint=AGAIN) from None
    if not isinstance(config, dict):
        raise CheckpointError("config.json holds no mapping", file=base, hint=AGAIN)
    return config
