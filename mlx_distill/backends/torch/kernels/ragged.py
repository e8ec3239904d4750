"""Attention of rows that go on over keys and values that lie in many places, in two launches however many there are.

Rows that are answered together have their articles, their answers so far and their new tokens in stretches of unlike lengths. Done stretch
by stretch, a step of decoding is thousands of launches, each shorter than it takes to make; here a table says where each piece of a row's
keys lies, a program takes one piece of one row ("Flash-Decoding", Dao et al., 2023), and a second launch merges the pieces of a query, and
what it has of the shared prefix, by their log-sum-exps.

`m` queries, each of `heads` heads.
"""
# mypy: disable-error-code="import-untyped, no-untyped-def, untyped-decorator, no-untyped-call, no-any-return, misc, no-any-unimported"

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlx_distill.backends.torch.model import Layer
from mlx_distill.backends.torch.pieces import FIELDS

NUMBERS = 1 << 13
"""Of keys at a time, so that two times as many and their values fit into any card's shared memory."""
STAGES = 2
NONE = tl.constexpr(float("-inf"))


@triton.jit(do_not_specialize=["i", "slots"])
def _piece(
    partial, lse, q, table, seen, new_keys, new_values, i, slots, scale, cap,
    HEADS: tl.constexpr, REPEATS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    CAPPED: tl.constexpr, FIELDS: tl.constexpr,
):  # fmt: skip
    """A program: the queries of one row, for one head of keys, over one piece. partial (m, slots, HEADS, WIDTH), lse (m, slots, HEADS)."""
    kind: tl.constexpr = q.dtype.element_ty
    entry = table + tl.program_id(0).to(tl.int64) * FIELDS
    first, count, base, layer = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2), tl.load(entry + 3)
    n, step, across = tl.load(entry + 4).to(tl.int32), tl.load(entry + 5), tl.load(entry + 6)
    mask, mask_step, slot = tl.load(entry + 7), tl.load(entry + 8), tl.load(entry + 9)
    group = tl.program_id(1)
    keys, values = base + 2 * i * layer, base + (2 * i + 1) * layer
    if layer == 0:  # the new tokens' lie where this layer has put them
        keys += new_keys.to(tl.int64)
        values += new_values.to(tl.int64)
    keys = tl.multiple_of((keys).to(tl.pointer_type(kind)), 16) + group * tl.multiple_of(across, 8)
    values = tl.multiple_of((values).to(tl.pointer_type(kind)), 16) + group * tl.multiple_of(across, 8)
    step = tl.multiple_of(step, 8)
    one = tl.arange(0, QUERIES)
    query, head = one // REPEATS, group * REPEATS + one % REPEATS
    asks = query < count
    number = tl.arange(0, PADDED)
    inside = number < WIDTH
    place = ((first + query) * HEADS + head)[:, None] * WIDTH + number[None, :]
    asked = tl.load(q + place, mask=asks[:, None] & inside[None, :], other=0.0)
    top = tl.full((QUERIES,), NONE, tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    mixed = tl.zeros((QUERIES, PADDED), tl.float32)
    for at in range(0, n, KEYS):
        key = at + tl.arange(0, KEYS)
        there = key < n
        where = key.to(tl.int64) * step
        k = tl.load(keys + where[None, :] + number[:, None], mask=there[None, :] & inside[:, None], other=0.0)
        scores = tl.dot(asked, k, input_precision="ieee") * scale
        if CAPPED:
            scores = cap * (2.0 / (1.0 + tl.exp(-2.0 * scores / cap)) - 1.0)
        shown = there[None, :] & asks[:, None]
        if mask >= 0:
            shown &= tl.load(seen + mask + query[:, None] * mask_step + key[None, :], mask=shown, other=0) != 0
        scores = tl.where(shown, scores, NONE)
        higher = tl.maximum(top, tl.max(scores, 1))
        level = tl.where(higher == NONE, 0.0, higher)
        weights = tl.exp(scores - level[:, None])
        fade = tl.exp(top - level)
        v = tl.load(values + where[:, None] + number[None, :], mask=there[:, None] & inside[None, :], other=0.0)
        mixed = tl.dot(weights.to(kind), v, mixed * fade[:, None], input_precision="ieee")
        total = total * fade + tl.sum(weights, 1)
        top = higher
    into = ((first + query) * slots + slot) * HEADS + head
    mixed = mixed / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(partial + into[:, None] * WIDTH + number[None, :], mixed, mask=asks[:, None] & inside[None, :])
    tl.store(lse + into, top + tl.log(total), mask=asks)


@triton.jit(do_not_specialize=["slots", "lse_query_step", "lse_head_step"])
def _merged(
    out, partial, lse, shared, shared_lse, slots, query_step, head_step, lse_query_step, lse_head_step,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
    """A program: one head of one query. out (m, HEADS, WIDTH); of the prefix `shared`, by its strides."""
    query, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    number = tl.arange(0, PADDED)
    inside = number < WIDTH
    top = tl.full((1,), NONE, tl.float32)
    total = tl.zeros((1,), tl.float32)
    mixed = tl.zeros((PADDED,), tl.float32)
    if SHARED:
        top = tl.zeros((1,), tl.float32) + tl.load(shared_lse + query * lse_query_step + head * lse_head_step)
        total += 1.0
        mixed += tl.load(shared + query * query_step + head * head_step + number, mask=inside, other=0.0).to(tl.float32)
    for slot in range(slots):
        at = (query * slots + slot) * HEADS + head
        height = tl.load(lse + at)
        if height != NONE:
            higher = tl.maximum(top, height)
            fade, weight = tl.exp(top - higher), tl.exp(height - higher)
            mixed = mixed * fade + weight * tl.load(partial + at * WIDTH + number, mask=inside, other=0.0)
            total = total * fade + weight
            top = higher
    mixed = mixed / total
    tl.store(out + (query * HEADS + head) * WIDTH + number, mixed.to(out.dtype.element_ty), mask=inside)


def attended(
    i: int, layer: Layer, q: Tensor, k: Tensor, v: Tensor, shared: tuple[Tensor, Tensor] | None, table: Tensor, seen: Tensor,
    slots: int, most: int,
) -> Tensor:  # fmt: skip
    """(m, heads, width) of queries (m, heads, width) in layer i.

    k, v: of the new tokens. `shared`: of the prefix, out (m, heads, width) and lse (m, heads). `table`, `seen`: see `pieces`; `slots`:
    pieces of a query at most; `most`: queries of a row that are computed together.
    """
    m, heads, width = q.shape
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    partial, lse = (
        q.new_empty((m, slots, heads, width), dtype=torch.float32),
        q.new_full((m, slots, heads), -torch.inf, dtype=torch.float32),
    )
    repeats, padded = heads // layer.kv_heads, triton.next_power_of_2(width)
    queries, keys = max(16, triton.next_power_of_2(most * repeats)), min(NUMBERS // padded, 128)
    _piece[len(table), layer.kv_heads](
        partial, lse, q, table, seen, k, v, i, slots, layer.scale, layer.cap or 1.0,
        HEADS=heads, REPEATS=repeats, WIDTH=width, PADDED=padded, QUERIES=queries, KEYS=keys, CAPPED=layer.cap is not None, FIELDS=FIELDS,
        num_stages=STAGES, enable_fp_fusion=True,
    )  # fmt: skip
    out = torch.empty_like(q)
    before = (q, lse) if shared is None else shared
    steps = before[0].stride()[:2], before[1].stride()[:2]
    _merged[m, heads](
        out, partial, lse, *before, slots, *steps[0], *steps[1], HEADS=heads, WIDTH=width, PADDED=padded, SHARED=shared is not None,
        enable_fp_fusion=True,
    )  # fmt: skip
    return out
