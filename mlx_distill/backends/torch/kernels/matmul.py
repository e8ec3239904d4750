"""Products with packed weights that are read once: x Wᵀ, and y W for the way back. For few rows; 16-bit types only.

In x Wᵀ a group's scale and bias are common to all that is summed within the group, so that the matmul is of bare codes:

    y_mn = Σ_g s_ng (Σ_k x_mk (c + q_nk)) + (b_ng - c s_ng) Σ_k x_mk

with c = 128 in bfloat16, 1024 in float16, for which c + q is but the bits of q below those of c: a code becomes a number by one `or`.
(8 bits do not fit below 128: in bfloat16 they are converted, c = 0.) In y W the sum runs over rows, and weights are made whole first.

Where a matrix has too few tiles for the device, several programs sum parts of a tile.
"""
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc, no-any-unimported"
# ruff: noqa: RET505 - `else` is what makes the compiler leave a branch out

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlx_distill.backends.torch.kernels.codes import codes_of, pairs_of, plus, settle
from mlx_distill.backends.torch.kernels.plain import Packed

UNLIKE = ("many", "splits")
"""Numbers that differ from call to call: Triton would compile a kernel anew for those that are 1, and those that 16 divides."""


@triton.jit
def _numbers(weight, row, inside, step, columns, like: tl.constexpr, BITS: tl.constexpr, WIDTH: tl.constexpr):
    """c + code in the type `like`, exact, (rows, WIDTH); where codes come in pairs, in the order of `_paired`."""
    above: tl.constexpr = 0x6400 if like == tl.float16 else 0x4300
    if 32 % BITS == 0 and (BITS < 8 or like == tl.float16):
        return pairs_of(weight, row, inside, step, columns, above, BITS, WIDTH).to(like, bitcast=True)
    codes = codes_of(weight, row, inside, step, columns, BITS, WIDTH)
    if BITS < 8 or like == tl.float16:
        return (codes | above).to(tl.int16).to(like, bitcast=True)
    else:
        return codes.to(tl.float32).to(like)


@triton.jit
def _paired(x, like: tl.constexpr, BITS: tl.constexpr):
    """Columns of x (many, WIDTH) in the order in which `_numbers` gives codes."""
    if 32 % BITS == 0 and (BITS < 8 or like == tl.float16):
        half: tl.constexpr = 16 // BITS
        words = tl.reshape(x, (x.shape[0], x.shape[1] // (2 * half), 2, half))
        return tl.reshape(tl.permute(words, (0, 1, 3, 2)), x.shape)
    else:
        return x


@triton.jit(do_not_specialize=UNLIKE)
def _forward(
    out, x, weight, scales, biases, bias, partial, counters, many, rows, columns, splits,
    HAS_BIAS: tl.constexpr, BITS: tl.constexpr, GROUP: tl.constexpr, MANY: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """x (many, columns) by rows of W: out (many, rows). A tile is (ROWS, MANY), a group or half of one after another."""
    kind: tl.constexpr = x.dtype.element_ty
    c: tl.constexpr = 1024.0 if kind == tl.float16 else (128.0 if BITS < 8 else 0.0)
    split = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    one = tl.program_id(2) * MANY + tl.arange(0, MANY)
    inside, given = row < rows, one < many
    width: tl.constexpr = min(GROUP, 64)
    steps, groups = columns // width, columns // GROUP
    source = row.to(tl.int64)
    x_at = x + one.to(tl.int64)[:, None] * columns + tl.arange(0, width)[None, :]
    total = tl.full((ROWS, MANY), 0.0, tl.float32)
    for step in range(split * steps // splits, (split + 1) * steps // splits):
        group = step // (GROUP // width)
        taken = tl.load(x_at + step * width, mask=given[:, None], other=0.0)
        scale = tl.load(scales + source * groups + group, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(biases + source * groups + group, mask=inside, other=0.0).to(tl.float32) - c * scale
        numbers = _numbers(weight, source, inside, step, columns, kind, BITS, width)
        part = tl.dot(numbers, tl.trans(_paired(taken, kind, BITS)))
        total += part * scale[:, None] + shift[:, None] * tl.reduce(taken.to(tl.float32), 1, plus)[None, :]
    there = inside[:, None] & given[None, :]
    if HAS_BIAS:
        total += tl.load(bias + row, mask=row < tl.where(split == 0, rows, 0), other=0.0).to(tl.float32)[:, None]
    tile = tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
    settle(total, out, one.to(tl.int64)[None, :] * rows + row[:, None], there, partial, counters, tile, split, splits, many * rows)


@triton.jit(do_not_specialize=UNLIKE)
def _backward(
    out, y, weight, scales, biases, partial, counters, many, rows, columns, splits,
    BITS: tl.constexpr, GROUP: tl.constexpr, MANY: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """y (many, rows) by W: out (many, columns). A tile is (MANY, group or half of one), ROWS rows of W after one another."""
    width: tl.constexpr = min(GROUP, 64)
    part, split = tl.program_id(0), tl.program_id(1)
    group = part // (GROUP // width)
    one = tl.program_id(2) * MANY + tl.arange(0, MANY)
    given = one < many
    groups = columns // GROUP
    steps = (rows + ROWS - 1) // ROWS
    total = tl.full((MANY, width), 0.0, tl.float32)
    for step in range(split * steps // splits, (split + 1) * steps // splits):
        row = step * ROWS + tl.arange(0, ROWS)
        inside = row < rows
        source = row.to(tl.int64)
        taken = tl.load(y + one.to(tl.int64)[:, None] * rows + row[None, :], mask=given[:, None] & inside[None, :], other=0.0)
        scale = tl.load(scales + source * groups + group, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(biases + source * groups + group, mask=inside, other=0.0).to(tl.float32)
        codes = codes_of(weight, source, inside, part, columns, BITS, width).to(tl.float32)
        total = tl.dot(taken, (codes * scale[:, None] + shift[:, None]).to(taken.dtype), total)
    at = one.to(tl.int64)[:, None] * columns + part * width + tl.arange(0, width)[None, :]
    tile = tl.program_id(2) * tl.num_programs(0) + part
    settle(total, out, at, given[:, None], partial, counters, tile, split, splits, many * columns)


@dataclass(frozen=True, slots=True)
class Tile:
    """How a program is shaped: MANY of x or y, ROWS of W, warps, and stages of loads that are under way at once."""

    many: int
    rows: int
    warps: int
    stages: int


FORWARD = (Tile(8, 128, 4, 4), Tile(16, 128, 4, 4), Tile(32, 128, 4, 3), Tile(64, 128, 8, 3))
"""By how many rows there are; more are cut into tiles of the last. None spills, and three to five programs share the memory of an SM."""
BACKWARD = (Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 8, 3))
PROGRAMS = 3
"""For each SM, so that loads of one hide the arithmetic of another ..."""
LEAST_STEPS = 4
"""... but none with fewer steps of its loop than this: what a program costs beside its loop is worth about as many."""
COUNTERS = 1 << 14
_counters: dict[tuple[torch.device, int], Tensor] = {}
"""For each device and stream, zeros between launches."""


def product(x: Tensor, packed: Packed, bias: Tensor | None = None) -> Tensor:
    """(m, K) to (m, N): x Wᵀ + bias."""
    many, tile = len(x), _tile(FORWARD, len(x))
    out = x.new_empty((many, packed.rows))
    tiles = (triton.cdiv(packed.rows, tile.rows), triton.cdiv(many, tile.many))
    splits, partial, counters = _shared(out, tiles, packed.columns // _width(packed))
    _forward[(tiles[0], splits, tiles[1])](
        out, x.contiguous(), packed.weight, packed.scales, packed.biases, x if bias is None else bias, partial, counters,
        many, packed.rows, packed.columns, splits, HAS_BIAS=bias is not None, BITS=packed.bits, GROUP=packed.group_size,
        MANY=tile.many, ROWS=tile.rows, num_warps=tile.warps, num_stages=tile.stages,
        enable_fp_fusion=True,
    )  # fmt: skip
    return out


def mixed(y: Tensor, packed: Packed) -> Tensor:
    """(m, N) to (m, K): y W."""
    many, tile = len(y), _tile(BACKWARD, len(y))
    out = y.new_empty((many, packed.columns))
    tiles = (packed.columns // _width(packed), triton.cdiv(many, tile.many))
    splits, partial, counters = _shared(out, tiles, triton.cdiv(packed.rows, tile.rows))
    _backward[(tiles[0], splits, tiles[1])](
        out, y.contiguous(), packed.weight, packed.scales, packed.biases, partial, counters, many, packed.rows, packed.columns, splits,
        BITS=packed.bits, GROUP=packed.group_size, MANY=tile.many, ROWS=tile.rows, num_warps=tile.warps, num_stages=tile.stages,
        enable_fp_fusion=True,
    )  # fmt: skip
    return out


def _width(packed: Packed) -> int:
    """Columns of one step: a group, or half of one of 128, which would take twice the registers and shared memory."""
    return min(packed.group_size, 64)


def _tile(tiles: tuple[Tile, ...], many: int) -> Tile:
    return next((tile for tile in tiles if many <= tile.many), tiles[-1])


def _shared(out: Tensor, tiles: tuple[int, int], steps: int) -> tuple[int, Tensor, Tensor]:
    """Programs to a tile, room for what each of them sums, and the tiles' counters."""
    splits = splits_of(tiles[0] * tiles[1], steps, processors(out.device))
    partial = out.new_empty(splits * out.numel() if splits > 1 else 1, dtype=torch.float32)
    stream = torch.cuda.current_stream(out.device).cuda_stream if out.is_cuda else 0
    key = (out.device, stream)
    if key not in _counters:
        _counters[key] = torch.zeros(COUNTERS, dtype=torch.int32, device=out.device)
    return splits, partial, _counters[key]


def splits_of(tiles: int, steps: int, processors: int) -> int:
    """Programs to a tile of so many steps.

    >>> splits_of(28, 56, 132), splits_of(148, 56, 132), splits_of(1188, 56, 132), splits_of(1, 1, 132)
    (14, 2, 1, 1)
    """
    return max(1, min(PROGRAMS * processors // tiles, steps // LEAST_STEPS)) if tiles <= COUNTERS else 1


@cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors; as a CPU stands for a device in tests, it has a few."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 4
