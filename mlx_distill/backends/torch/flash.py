"""Kernels of attention that tell their log-sum-exps, for one set of keys: PyTorch's flash attention where it runs, else plain matmuls.

    Plain       any mask, any cap, any device: scores for some queries at a time. It is what the others are proved against.
    CpuFlash    PyTorch's kernel for CPUs, float32, any mask
    CudaFlash   FlashAttention 2 as PyTorch carries it (Ampere and newer; Dao, 2023), all rows of a batch in one call

PyTorch reaches these kernels through `scaled_dot_product_attention`, which keeps the log-sum-exp to itself; so the operators beneath it are
called. They may change between releases: each is proved against `Plain` on small shapes before it is used (`choice`).

`h` heads of queries, `g` heads of keys, `m` queries, `e` keys, `w` numbers of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlx_distill.backends.torch.upload import uploaded
from mlx_distill.backends.torch.wide import product
from mlx_distill.records import Ids

if TYPE_CHECKING:
    from mlx_distill.backends.torch.attention import Layout

TILES = {"cpu": 1 << 19, "cuda": 1 << 26}
"""Scores that exist at once, float32: on CPUs what stays in a core's cache, on a GPU 256 MB."""
FLASH_WIDTH = 256
"""The widest head that FlashAttention 2 takes."""
AMPERE = (8, 0)
Pulled = tuple[Tensor, Tensor, Tensor]
Ends = tuple[Tensor, Tensor]
"""Where sequences end: of their queries, and of their keys, (sequences + 1,) int32 each."""
NO_ENDS = (None, None)
aten: Any = torch.ops.aten


def tile(device: torch.device) -> int:
    return TILES[device.type]


class Kernel:
    """Queries (h, m, w) over keys and values (g, e, w). `mask` (m, e): True where a query sees a key."""

    def __init__(self, scale: float, cap: float | None = None):
        self.scale, self.cap = scale, cap

    def over(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False) -> tuple[Tensor, Tensor]:
        """out (h, m, w) and lse (h, m) float32; where a query sees nothing, 0 and -inf."""
        raise NotImplementedError

    def back(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Pulled:
        """dq, dk and dv of these keys. `out` and `lse` are those over all keys that the queries see."""
        raise NotImplementedError

    def own(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None) -> tuple[Tensor, Tensor]:
        """Each row over itself: queries (m, h, w), keys (n, g, w). out (h, m, w), lse (h, m)."""
        out, lse = q.new_empty(q.shape).transpose(0, 1), q.new_empty((q.shape[1], q.shape[0]), dtype=torch.float32)
        for asked, keys, mask in _rows(layout, window):
            part = self.over(heads_first(q[asked]), heads_first(k[keys]), heads_first(v[keys]), mask, causal=mask is None)
            out[:, asked], lse[:, asked] = part
        return out, lse

    def own_back(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, layout: Layout, window: int | None
    ) -> Pulled:
        """The same, back: dq (m, h, w), dk and dv (n, g, w). `dout` and `out` have the heads first."""
        dq, dk, dv = q.new_empty(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)  # rows that nobody reads ask nothing
        for asked, keys, mask in _rows(layout, window):
            given = heads_first(q[asked]), heads_first(k[keys]), heads_first(v[keys]), out[:, asked], lse[:, asked]
            pulled = self.back(dout[:, asked], *given, mask, causal=mask is None)
            dq[asked], dk[keys], dv[keys] = (part.transpose(0, 1) for part in pulled)
        return dq, dk, dv


class Plain(Kernel):
    def over(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False) -> tuple[Tensor, Tensor]:
        outs, logs = [], []
        for at in self._blocks(q, k):
            scores, _ = self._scores(q[:, at], k, _cut(mask, at, causal, k))
            lse = scores.logsumexp(-1, keepdim=True)
            weights = scores.sub_(lse.clamp_min(torch.finfo(torch.float32).min)).exp_()
            outs.append(_ungrouped(product(weights.to(v.dtype), v), q).to(q.dtype))
            logs.append(_ungrouped(lse, q)[..., 0])
        return torch.cat(outs, 1), torch.cat(logs, 1)

    def back(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Pulled:
        dqs = []
        dk, dv = torch.zeros(k.shape, device=k.device), torch.zeros(v.shape, device=v.device)
        along = (dout.float() * out.float()).sum(-1, keepdim=True)
        for at in self._blocks(q, k):
            scores, slope = self._scores(q[:, at], k, _cut(mask, at, causal, k))
            weights = scores.sub_(_grouped(lse[:, at, None], k)).exp_()
            upstream = _grouped(dout[:, at], k)
            dscores = product(upstream, v.mT).sub_(_grouped(along[:, at], k)).mul_(weights)
            if slope is not None:
                dscores *= slope
            dscores = dscores.mul_(self.scale).to(q.dtype)
            dqs.append(_ungrouped(product(dscores, k), q))
            dk += product(dscores.mT, _grouped(q[:, at], k))
            dv += product(weights.to(v.dtype).mT, upstream)
        return torch.cat(dqs, 1).to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)

    def _blocks(self, q: Tensor, k: Tensor) -> list[slice]:
        step = max(1, tile(q.device) // (q.shape[0] * max(1, k.shape[1])))
        return [slice(at, min(at + step, q.shape[1])) for at in range(0, q.shape[1], step)]

    def _scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(g, h / g * m, e) float32; and, where they are capped, the derivative of the cap."""
        scores = product(_grouped(q, k), k.mT).mul_(self.scale)
        slope = None
        if self.cap is not None:
            bent = scores.div_(self.cap).tanh_()
            slope = bent.square().neg_().add_(1)
            scores = bent.mul_(self.cap)
        if mask is not None:
            scores = scores.view(-1, *mask.shape).masked_fill_(~mask, -torch.inf).view(scores.shape)
        return scores, slope


class CpuFlash(Kernel):
    def over(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False) -> tuple[Tensor, Tensor]:
        call = aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = call(q[None], k[None], v[None], 0.0, causal, attn_mask=additive(mask, q), scale=self.scale)
        if mask is not None:
            lse.masked_fill_(~mask.any(-1), -torch.inf)
        return out[0], lse[0]

    def back(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Pulled:
        call = aten._scaled_dot_product_flash_attention_for_cpu_backward
        given = [x[None] for x in (dout, q, k, v, out, lse)]
        dq, dk, dv = call(*given, 0.0, causal, attn_mask=additive(mask, q), scale=self.scale)
        return dq[0], dk[0], dv[0]


class CudaFlash(Kernel):
    """No masks but the causal one, which is aligned to the last key: a row's queries are its last ones."""

    def over(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool = False) -> tuple[Tensor, Tensor]:
        assert mask is None
        return self._over(heads_first(q), heads_first(k), heads_first(v), None, (q.shape[1], k.shape[1]), causal)

    def back(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, *, causal: bool = False
    ) -> Pulled:
        longest = (q.shape[1], k.shape[1])
        dq, dk, dv = self._back(
            heads_first(dout), heads_first(q), heads_first(k), heads_first(v), heads_first(out), lse, None, longest, causal
        )
        return heads_first(dq), heads_first(dk), heads_first(dv)

    def own(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout, window: int | None) -> tuple[Tensor, Tensor]:
        tails = layout.tails()
        out, lse = self._over(tails.filled(q), k, v, tails.ends, tails.longest, True)
        return tails.picked(out.transpose(0, 1)).transpose(0, 1), tails.picked(lse.T).T

    def own_back(
        self, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, layout: Layout, window: int | None
    ) -> Pulled:
        tails = layout.tails()
        given = tails.filled(heads_first(dout)), tails.filled(q), k, v, tails.filled(heads_first(out)), tails.filled(lse.T).T
        dq, dk, dv = self._back(*given, tails.ends, tails.longest, True)
        return tails.picked(dq), dk, dv

    def _over(self, q: Tensor, k: Tensor, v: Tensor, ends: Ends | None, longest: tuple[int, int], causal: bool) -> tuple[Tensor, Tensor]:
        """(h, m, w) and (h, m) of packed queries (m, h, w), keys and values (e, g, w). `ends` None: one sequence.

        That one goes as a batch of one, which asks for no numbers on the device, and for few queries splits the keys among programs.
        """
        if ends is None:
            q, k, v = q[None], k[None], v[None]
        out, lse, *_ = aten._flash_attention_forward(q, k, v, *(ends or NO_ENDS), *longest, 0.0, causal, False, scale=self.scale)
        if ends is None:
            out, lse = out[0], lse[0]
        return out.transpose(0, 1), lse

    def _back(
        self,
        dout: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        ends: Ends | None,
        longest: tuple[int, int],
        causal: bool,
    ) -> Pulled:
        # The state of a dropout of nothing is never read.
        dropped = torch.empty(2, dtype=torch.uint64, device=q.device), torch.empty(0, device=q.device)
        given = dout.contiguous(), q, k, v, out.contiguous(), lse.contiguous()
        if ends is None:
            given = tuple(x[None] for x in given)
        pulled = aten._flash_attention_backward(*given, *(ends or NO_ENDS), *longest, 0.0, causal, *dropped, scale=self.scale)
        dq, dk, dv = pulled if ends is not None else (x[0] for x in pulled)
        return dq, dk, dv


class Tails:
    """What FlashAttention takes where a row's queries are the read positions alone: the row's last tokens, from the first read one on.

    Its causal mask is aligned to the last key. A token in between that nobody reads asks with 0, and its answer is dropped.
    """

    def __init__(self, lengths: Sequence[int], asked: Sequence[Ids] | None, device: torch.device):
        # A row that nobody reads asks with its last token: FlashAttention leaves what it has no queries for unwritten.
        firsts = [0] * len(lengths) if asked is None else [int(of[0]) if len(of) else n - 1 for n, of in zip(lengths, asked, strict=True)]
        counts = [n - first for n, first in zip(lengths, firsts, strict=True)]
        starts = np.cumsum(counts) - counts
        places = [] if asked is None else [start + of - first for start, of, first in zip(starts, asked, firsts, strict=True)]
        at = np.concatenate([np.zeros(0, np.int64), *places]).astype(np.int64)
        of_queries, of_keys, sent = uploaded([_ends(counts), _ends(lengths), at], device)
        self.ends: Ends = of_queries, of_keys
        self._size, self._at = sum(counts), None if asked is None else sent
        self.longest = max(counts), max(lengths)

    def filled(self, x: Tensor) -> Tensor:
        """(m, ...) of the queries to (tokens, ...) of the tails."""
        return x if self._at is None else x.new_zeros((self._size, *x.shape[1:])).index_copy_(0, self._at, x)

    def picked(self, x: Tensor) -> Tensor:
        """The way back."""
        return x if self._at is None else x[self._at]


# shapes


def heads_first(x: Tensor) -> Tensor:
    """(m, heads, w) with the heads first, or back."""
    return x.transpose(0, 1)


def _grouped(x: Tensor, k: Tensor) -> Tensor:
    """(h, m, w) to (g, h / g * m, w): heads that share keys ask together."""
    return x.reshape(k.shape[0], -1, x.shape[-1])


def _ungrouped(x: Tensor, q: Tensor) -> Tensor:
    return x.reshape(q.shape[0], -1, x.shape[-1])


def _cut(mask: Tensor | None, at: slice, causal: bool, k: Tensor) -> Tensor | None:
    """Of some queries."""
    if not causal:
        return None if mask is None else mask[at]
    asked = torch.arange(at.start, at.stop, device=k.device)
    return torch.arange(k.shape[1], device=k.device) <= asked[:, None]


def additive(mask: Tensor | None, q: Tensor) -> Tensor | None:
    return None if mask is None else q.new_zeros(mask.shape).masked_fill_(~mask, -torch.inf)


def _ends(lengths: Sequence[int]) -> NDArray[np.uint32]:
    """Not int32, which `uploaded` widens: FlashAttention takes no other."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.uint32)


def _rows(layout: Layout, window: int | None) -> Iterator[tuple[slice, slice, Tensor | None]]:
    """Of each row that asks: its queries, its keys, and what they see."""
    for i, mask in enumerate(layout.masks(window)):
        if layout.counts[i]:
            first, start = layout.firsts[i], layout.starts[i]
            yield slice(first, first + layout.counts[i]), slice(start, start + layout.lengths[i]), mask
