"""Packed rows to plain ones, all of them or those of some ids: bound by memory, (bits / 8 + bytes of a number) a weight."""
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc, no-any-unimported"

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlx_distill.backends.torch.kernels.codes import codes_of
from mlx_distill.backends.torch.kernels.plain import Packed

TILE = 4096
"""Weights of one program: 32 a thread, so that a thread loads 16 bytes of 4-bit words and stores 64."""
WARPS = 4


@triton.jit(do_not_specialize=["rows"])
def _unpack(
    out, weight, scales, biases, ids, rows, columns, HAS_IDS: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr
):
    """Tile (ROWS, GROUP): a group of each of some rows."""
    group = tl.program_id(0)  # neighbours read on where this one ends
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    source = row.to(tl.int64)
    if HAS_IDS:
        source = tl.load(ids + row, mask=inside, other=0)
    codes = codes_of(weight, source, inside, group, columns, BITS, GROUP)
    at = source * (columns // GROUP) + group
    scale = tl.load(scales + at, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(biases + at, mask=inside, other=0.0).to(tl.float32)
    whole = codes.to(tl.float32) * scale[:, None] + bias[:, None]
    there = row.to(tl.int64)[:, None] * columns + group * GROUP + tl.arange(0, GROUP)[None, :]
    tl.store(out + there, whole.to(out.dtype.element_ty), mask=inside[:, None])


def unpacked(packed: Packed, ids: Tensor | None = None) -> Tensor:
    """(N, K), or (k, K) of ids (k,) int64, in the type of the scales."""
    rows = packed.rows if ids is None else len(ids)
    out = packed.scales.new_empty((rows, packed.columns))
    height = TILE // packed.group_size
    grid = (packed.columns // packed.group_size, triton.cdiv(rows, height))
    _unpack[grid](
        out, packed.weight, packed.scales, packed.biases, packed.weight if ids is None else ids.contiguous(), rows, packed.columns,
        HAS_IDS=ids is not None, BITS=packed.bits, GROUP=packed.group_size, ROWS=height, num_warps=WARPS,
        # In float32 a product that is fused with the sum is rounded once, not twice; with scales of 16 bits it is exact anyway.
        enable_fp_fusion=packed.dtype != torch.float32,
    )  # fmt: skip
    return out
