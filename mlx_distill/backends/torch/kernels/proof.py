"""A kernel is used once it has been right: on small shapes, on the very device, against plain PyTorch, the first time that it is asked for.

The shapes are ragged, and the numbers such that every product and sum is exact in float32, in whatever order it is taken: what a kernel
gives must equal the reference bit for bit. A kernel that fails to compile, to run, or to agree is not used in this process, and `notes`
says so. What a proof compiles is what runs afterwards, so it costs little.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mlx_distill.backends.torch.kernels import plain
from mlx_distill.backends.torch.kernels.plain import Packed

GROUPS = 9
ROWS = 469
"""No tile divides them, and there are steps enough that several programs share a tile, with groups of any size."""
WHOLE = 16
"""Where it divides a matrix's rows, Triton compiles another kernel, which loads and stores several numbers at once."""
MANY = {"unpacked": (7,), "product": (1, 13, 33, 75), "mixed": (3, 20, 75)}
"""Of ids, or of rows that are multiplied: one for each shape of a program (see `matmul`), and one that is cut into several."""

_failed: dict[str, str] = {}


def notes() -> list[str]:
    """A line for each kernel that is not used, and why; none where all is well, or nothing was asked for."""
    return [f"{name} is not used: {reason}; plain PyTorch takes its place, and is slower" for name, reason in _failed.items()]


def proved(kernel: str, packed: Packed, device: torch.device) -> bool:
    """Whether that kernel of `routes` gives what plain PyTorch gives, for these bits, group and type, on the device."""
    return _proved(kernel, packed.bits, packed.group_size, packed.dtype, device, packed.rows % WHOLE == 0)


@cache
def _proved(kernel: str, bits: int, group_size: int, dtype: torch.dtype, device: torch.device, whole: bool) -> bool:
    what = f"{bits} bits, groups of {group_size}, {str(dtype).removeprefix('torch.')}"
    rows = ROWS // WHOLE * WHOLE if whole else ROWS
    packed = exact(rows, GROUPS, bits=bits, group_size=group_size, dtype=dtype, device=device)
    return holds(f"the kernel {kernel} for {what}, on {called(device)}", lambda: _difference(kernel, packed))


def holds(kernel: str, difference: Callable[[], str | None]) -> bool:
    """Whether there is none; else it is noted, as is what the attempt raises."""
    try:
        reason = difference()
    except Exception as error:  # of Triton, its compiler, the driver: whatever it is, there is another way
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if reason is not None:
        _failed[kernel] = reason
    return reason is None


def exact(rows: int, groups: int, *, bits: int, group_size: int, dtype: torch.dtype, device: torch.device) -> Packed:
    """Random codes; scales are powers of two, and biases 0 or minus half of the codes' range, so that weights have at most 8 bits."""
    draw = torch.Generator().manual_seed(bits * group_size)
    words = torch.randint(-(1 << 31), 1 << 31, (rows, groups * group_size * bits // 32), generator=draw, dtype=torch.int64)
    signs = 1 - 2 * torch.randint(0, 2, (rows, groups), generator=draw)
    scales = signs * 2.0 ** torch.randint(-2, 1, (rows, groups), generator=draw)
    biases = -scales * (1 << (bits - 1)) * torch.randint(0, 2, (rows, groups), generator=draw)
    return Packed(words.int().to(device), scales.to(device, dtype), biases.to(device, dtype), bits)


def small(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Whole numbers from -2 to 2."""
    draw = torch.Generator().manual_seed(shape[0])
    return torch.randint(-2, 3, shape, generator=draw).to(device, dtype)


def _difference(kernel: str, packed: Packed) -> str | None:
    """What is wrong with it, in words."""
    from mlx_distill.backends.torch.kernels import routes

    whole, run = plain.dequantize(packed), routes.kernel(kernel)
    for many in MANY[kernel]:
        got, wanted = _both(kernel, run, packed, whole, many)
        if not torch.equal(got, wanted):
            return f"it differs by up to {float((got.float() - wanted.float()).abs().max()):.3g} for {many} rows"
    return None


def _both(kernel: str, run: Any, packed: Packed, whole: Tensor, many: int) -> tuple[Tensor, Tensor]:
    device, dtype = whole.device, whole.dtype
    if kernel == "unpacked":
        ids = torch.arange(many, device=device) * 31 % len(whole)
        return torch.cat([run(packed), run(packed, ids)]), torch.cat([whole, whole[ids]])
    x = small(many, len(whole) if kernel == "mixed" else whole.shape[1], dtype=dtype, device=device)
    if kernel == "mixed":
        return run(x, packed), (x.float() @ whole.float()).to(dtype)
    bias = small(len(whole), dtype=dtype, device=device)
    return run(x, packed, bias), (x.float() @ whole.float().T + bias.float()).to(dtype)


def called(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
