"""Which way a product with packed weights goes: a kernel that reads them once, or dequantizing and the library's own matmul.

Dequantizing moves bits / 8 + 2 bytes a weight before the matmul begins, whatever the number of rows m; the matmul is 2 m FLOPs a weight,
at about 145 FLOPs for each byte that a card moves (70 % of the peak of its tensor cores over its bandwidth: H200 144, A100 107, RTX 4090
115). So both cost the same at m = 145 (bits / 8 + 2) / 2, 180 rows for 4 bits, and at ten times as many dequantizing is a tenth. A kernel
that dequantizes as it multiplies converts each weight again for every 64 rows, and is taken to reach half of the library's rate where codes
lie within words: it wins up to that m. Codes that lie in two words (3, 5, 6 bits) take about twice as many instructions: up to half of it.
These are computed, not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mlx_distill.backends.torch.choice import native
from mlx_distill.backends.torch.kernels import plain, proof
from mlx_distill.backends.torch.kernels.plain import Packed

FUSED = {2: 160, 3: 80, 4: 180, 5: 90, 6: 96, 8: 210}
"""Rows up to which the kernels multiply, by bits."""
FUSED_TYPES = (torch.bfloat16, torch.float16)
"""In float32 tensor cores would round to 10 bits; on a GPU it is for comparisons alone."""
BLOCK_BYTES = {"cpu": plain.BLOCK_BYTES, "cuda": 1 << 28}
"""Of dequantized weights at a time. 256 MB hold any layer of a 7B model, but not its head."""


def kernel(name: str) -> Any:
    """`unpacked`, `product` or `mixed`, as they are in `unpacking` and `matmul`. Imports Triton."""
    from mlx_distill.backends.torch.kernels import matmul, unpacking

    return getattr(unpacking if name == "unpacked" else matmul, name)


def product(x: Tensor, packed: Packed, bias: Tensor | None = None) -> Tensor:
    """(m, K) to (m, N): x Wᵀ + bias."""
    if _fused("product", x, packed):
        out: Tensor = _run("product", x, packed, bias)
        return out
    out = plain.product(x, packed, unpack=dequantize, limit=BLOCK_BYTES[x.device.type])
    return out if bias is None else out.add_(bias)


def mixed(weights: Tensor, packed: Packed) -> Tensor:
    """(m, N) to (m, K): weighted sums of W's rows."""
    if _fused("mixed", weights, packed):
        out: Tensor = _run("mixed", weights, packed)
        return out
    return plain.mixed(weights, packed, unpack=dequantize, limit=BLOCK_BYTES[weights.device.type])


def dequantize(packed: Packed) -> Tensor:
    """(N, K) in the type of the scales."""
    if _usable("unpacked", packed):
        out: Tensor = _run("unpacked", packed)
        return out
    return plain.dequantize(packed)


def rows(ids: Tensor, packed: Packed) -> Tensor:
    """Those rows, (k, K)."""
    if _usable("unpacked", packed):
        out: Tensor = _run("unpacked", packed, ids)
        return out
    return plain.dequantize(packed.at(ids))


def _run(name: str, *arguments: Any) -> Any:
    device = arguments[0].weight.device if isinstance(arguments[0], Packed) else arguments[0].device
    return on_its_device(kernel(name), device)(*arguments)


def on_its_device(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Triton launches on the current device, which need not be that of the tensors."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return function

    def there(*arguments: Any) -> Any:
        with torch.cuda.device(device):
            return function(*arguments)

    return there


def _fused(name: str, x: Tensor, packed: Packed) -> bool:
    same = x.dtype == packed.dtype and x.dtype in FUSED_TYPES and x.device == packed.weight.device
    return same and 0 < len(x) <= FUSED[packed.bits] and _multiplies(x.device) and _usable(name, packed)


def _usable(name: str, packed: Packed) -> bool:
    device = packed.weight.device
    return has_kernels(device) and packed.rows > 0 and proof.proved(name, packed, device)


def has_kernels(device: torch.device) -> bool:
    """Whether kernels can run there at all."""
    return device.type == "cuda" and _installed()


@cache
def _installed() -> bool:
    return find_spec("triton") is not None


def _multiplies(device: torch.device) -> bool:
    """For older cards (T4) Triton has no matmuls: there a kernel only dequantizes."""
    return device.type == "cuda" and native(device)
