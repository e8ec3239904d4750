"""Matmuls of narrow numbers whose sums stay float32 to the end: over many tokens half precision would round them, or overflow."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """(m, k) @ (k, n), or a batch of them, in float32; both of one type, whatever it is."""
    if a.dtype == torch.float32:
        return a @ b
    if adds_wide(a.device, a.dtype):
        out: Tensor = (torch.mm if a.ndim == 2 else torch.bmm)(a, b, out_dtype=torch.float32)
        return out
    return a.float() @ b.float()


@cache
def adds_wide(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a matmul of narrow numbers can give float32 here (CUDA, PyTorch 2.8)."""
    if device.type != "cuda":
        return False
    try:
        one = torch.ones((1, 16, 16), device=device, dtype=dtype)
        return bool((torch.bmm(one, one, out_dtype=torch.float32) == 16).all())
    except (RuntimeError, TypeError):
        return False
