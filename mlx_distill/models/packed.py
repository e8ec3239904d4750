"""The layout of a Base, which is mlx-lm's: which tensors are packed, what they become, which file they go to, what config.json says.

A packed `X.weight` (N, K) becomes `X.weight` uint32 (N, K * bits / 32), `X.scales` and `X.biases` (N, K / group_size). It knows
names, types and shapes; no weight is read or written here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_distill.models.tensors import Shape, TensorPlace, tensor_bytes

BITS = (2, 3, 4, 5, 6, 8)
GROUP_SIZES = (32, 64, 128)
DTYPES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Names in configs, and safetensors' names."""
SHARD_BYTES = 5 << 30
"""The largest file of weights; a single larger tensor gets a file of its own."""
UNREAD = ("_name_or_path", "auto_map")
"""Keys of config.json that name places and code which a Base does not carry."""


@dataclass(frozen=True, slots=True)
class Packing:
    """`bits` None: nothing is packed. `dtype` None: every tensor keeps its type."""

    bits: int | None
    group_size: int
    dtype: str | None

    def packs(self, name: str, shape: Shape) -> bool:
        """Linear and embedding weights, the matrices of a decoder, whose rows are whole groups."""
        return self.bits is not None and name.endswith(".weight") and len(shape) == 2 and shape[1] % self.group_size == 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one tensor. `outputs`: name: (type, shape)."""

    source: TensorPlace
    name: str
    packed: bool
    outputs: Mapping[str, tuple[str, Shape]]

    @property
    def nbytes(self) -> int:
        return sum(tensor_bytes(dtype, shape) for dtype, shape in self.outputs.values())


def resolve_dtype(config: Mapping[str, Any], tensors: Mapping[str, TensorPlace], dtype: str | None) -> str | None:
    """The type of what is not packed: the one asked for, else the config's, else the tensors' own; None where those differ."""
    named = dtype or config.get("torch_dtype") or config.get("dtype")
    if named in DTYPES:
        return str(named)
    own = {place.dtype for place in tensors.values()}
    return next((name for name, code in DTYPES.items() if own == {code}), None)


def plan(tensors: Mapping[str, TensorPlace], packing: Packing) -> list[Plan]:
    return [_plan_one(name, place, packing) for name, place in tensors.items()]


def shards(plans: Sequence[Plan], limit: int) -> Iterator[tuple[str, list[Plan]]]:
    """(file name, its tensors), filled in order up to `limit` bytes each."""
    groups: list[list[Plan]] = []
    used = 0
    for item in plans:
        if not groups or used + item.nbytes > limit:
            groups.append([])
            used = 0
        groups[-1].append(item)
        used += item.nbytes
    for number, group in enumerate(groups, 1):
        single = len(groups) == 1
        yield "model.safetensors" if single else f"model-{number:05d}-of-{len(groups):05d}.safetensors", group


def index_of(files: Sequence[tuple[str, list[Plan]]]) -> dict[str, Any]:
    """model.safetensors.index.json."""
    plans = [item for _, group in files for item in group]
    weight_map = {name: file for file, group in files for item in group for name in item.outputs}
    sizes = {"total_size": sum(item.nbytes for item in plans), "total_parameters": sum(math.prod(item.source.shape) for item in plans)}
    return {"metadata": sizes, "weight_map": dict(sorted(weight_map.items()))}


def config_of(config: Mapping[str, Any], packing: Packing, eos: Any = None) -> dict[str, Any]:
    """config.json of the Base. `packing.dtype` is written under its old name and its new one; `eos` is the generation config's."""
    base = {key: value for key, value in config.items() if key not in UNREAD}
    if packing.dtype is not None:
        base["torch_dtype"] = base["dtype"] = packing.dtype
    if packing.bits is not None:
        quantization = {"group_size": packing.group_size, "bits": packing.bits, "mode": "affine"}
        base["quantization"] = base["quantization_config"] = quantization
    if eos:
        base["eos_token_id"] = eos
    return dict(sorted(base.items()))


def _plan_one(name: str, place: TensorPlace, packing: Packing) -> Plan:
    dtype = place.dtype if packing.dtype is None else DTYPES[packing.dtype]
    if not packing.packs(name, place.shape) or packing.bits is None:
        return Plan(place, name, False, {name: (dtype, place.shape)})
    rows, columns = place.shape
    stem = name.removesuffix("weight")
    groups = (dtype, (rows, columns // packing.group_size))
    words = ("U32", (rows, columns * packing.bits // 32))
    return Plan(place, name, True, {name: words, f"{stem}scales": groups, f"{stem}biases": groups})
