"""Attention over a shared prefix and rows of unequal lengths: as if each row had been attended alone, with the prefix before it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mlx_distill.backends.rows.batch import Places
from mlx_distill.backends.torch import choice, flash
from mlx_distill.backends.torch.attention import Layout, attended, merged
from mlx_distill.backends.torch.choice import over
from mlx_distill.backends.torch.flash import CpuFlash, CudaFlash, Kernel, Plain
from mlx_distill.backends.torch.kernels import proof
from mlx_distill.backends.torch.model import Layer

CPU = torch.device("cpu")
LENGTHS = (5, 1, 12, 7)
READ = ([4], [0], [0, 3, 11], [])
HEADS, KV_HEADS, WIDTH = 4, 2, 8


def layer(*, cap: float | None = None, window: int | None = None) -> Layer:
    return Layer(None, HEADS, KV_HEADS, WIDTH, scale=0.3, cap=cap, window=window)


def places(prefix: int) -> Places:
    return Places([np.zeros(n, np.int32) for n in LENGTHS], [np.array(of, np.int32) for of in READ], prefix)


def drawn(prefix: int, queries: int) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    sizes = [(queries, HEADS, WIDTH), (total, KV_HEADS, WIDTH), (total, KV_HEADS, WIDTH)]
    sizes += [(KV_HEADS, prefix, WIDTH)] * 2 if prefix else []
    return [torch.randn(size, generator=draw).requires_grad_() for size in sizes]


def by_itself(of: Layer, prefix: int, asked: Sequence[Sequence[int]], q: Tensor, k: Tensor, v: Tensor, *shared: Tensor) -> Tensor:
    """Every row with the prefix copied before it, and all scores written out, in float64."""
    out, first, start = [], 0, 0
    for n, positions in zip(LENGTHS, asked, strict=True):
        keys, values = (x[start : start + n].transpose(0, 1).double() for x in (k, v))
        if prefix:
            keys, values = (torch.cat([before.double(), x], 1) for before, x in zip(shared, (keys, values), strict=True))
        keys, values = (x.repeat_interleave(HEADS // KV_HEADS, 0) for x in (keys, values))
        at = torch.tensor(list(positions), dtype=torch.int64)[:, None] + prefix
        scores = q[first : first + len(at)].transpose(0, 1).double() @ keys.mT * of.scale
        if of.cap is not None:
            scores = of.cap * torch.tanh(scores / of.cap)
        seen = torch.arange(prefix + n) <= at
        if of.window is not None:
            seen &= torch.arange(prefix + n) > at - of.window
        out.append((scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values).transpose(0, 1))
        first, start = first + len(at), start + n
    return torch.cat(out)


@pytest.mark.parametrize("read", [False, True], ids=["every token asks", "the read ones alone"])
@pytest.mark.parametrize("of", [layer(), layer(cap=1.5), layer(window=4), layer(window=9, cap=2.0)], ids=["plain", "cap", "window", "both"])
@pytest.mark.parametrize("prefix", [0, 6])
def test_rows_attend_as_if_each_were_alone_behind_the_prefix(prefix: int, of: Layer, read: bool) -> None:
    layout = Layout(places(prefix), read=read, device=CPU)
    given = drawn(prefix, sum(layout.counts))
    out = attended(*given[:3], given[3:], layout, of)
    asked = READ if read else [range(n) for n in LENGTHS]
    wanted = by_itself(of, prefix, asked, *given)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    pulled = torch.autograd.grad(out, given, upstream)
    assert torch.allclose(out.double(), wanted, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(pulled, torch.autograd.grad(wanted, given, upstream.double()), strict=True):
        assert torch.allclose(mine, theirs.float(), rtol=1e-4, atol=1e-5)


def test_scores_in_many_small_tiles_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, of = Layout(places(6), read=False, device=CPU), layer(cap=1.5)
    given = drawn(6, sum(LENGTHS))
    whole = attended(*given[:3], given[3:], layout, of)
    monkeypatch.setitem(flash.TILES, "cpu", 30)
    tiled = attended(*given[:3], given[3:], layout, of)
    assert torch.allclose(whole, tiled, atol=1e-6)
    upstream = torch.ones_like(whole)
    for a, b in zip(torch.autograd.grad(tiled, given, upstream), torch.autograd.grad(whole, given, upstream), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


class ByCuda(CudaFlash):
    """What CUDA's kernel is documented to do, in its own layout: causal from the last key, sequence by sequence; without ends, one."""

    def _over(self, q, k, v, ends, longest, causal):  # type: ignore[no-untyped-def]
        ends = ends or self._one(longest)
        parts = [Plain(self.scale).over(*given, mask) for given, mask in self._sequences(ends, causal, q, k, v)]
        return torch.cat([out for out, _ in parts], 1), torch.cat([lse for _, lse in parts], 1)

    def _back(self, dout, q, k, v, out, lse, ends, longest, causal):  # type: ignore[no-untyped-def]
        pulled, ends = [], ends or self._one(longest)
        for (do, qs, o, ks, vs, ls), mask in self._sequences(ends, causal, dout, q, out, k, v, lse.T):
            pulled.append([x.transpose(0, 1) for x in Plain(self.scale).back(do, qs, ks, vs, o, ls, mask)])
        return tuple(torch.cat(parts) for parts in zip(*pulled, strict=True))

    def _one(self, longest):  # type: ignore[no-untyped-def]
        return [torch.tensor([0, length]) for length in longest]

    def _sequences(self, ends, causal, *given):  # type: ignore[no-untyped-def]
        asked, keys = (end.tolist() for end in ends)
        for i in range(len(asked) - 1):
            m, e = asked[i + 1] - asked[i], keys[i + 1] - keys[i]
            cut = []
            for x in given:
                bounds = asked if x.shape[0] == asked[-1] and (x.shape[1] == HEADS) else keys
                cut.append(x[bounds[i] : bounds[i + 1]].transpose(0, 1))
            yield cut, torch.arange(e) <= torch.arange(m)[:, None] + e - m if causal else None


@pytest.mark.parametrize("read", [False, True])
def test_the_rows_last_tokens_are_what_cudas_kernel_is_asked_for(read: bool) -> None:
    layout = Layout(places(6), read=read, device=CPU)
    q, k, v, *_ = (x.detach() for x in drawn(6, sum(layout.counts)))
    dout = torch.randn(HEADS, sum(layout.counts), WIDTH, generator=torch.Generator().manual_seed(1))
    results = []
    for kernel in (ByCuda(0.3), CpuFlash(0.3)):
        out, lse = kernel.own(q, k, v, layout, None)
        results.append([out, lse, *kernel.own_back(dout, q, k, v, out, lse, layout, None)])
    for mine, theirs in zip(*results, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_what_cudas_kernel_is_asked_for_is_proved_at_every_width() -> None:
    assert all(choice._proved(ByCuda, CPU, torch.float32, width) for width in (16, 24)), proof.notes()


def test_cudas_kernel_is_called_as_pytorch_declares_it() -> None:
    """Shapes alone, on the meta device: what PyTorch says that its operators take and give."""
    kernel, ends = CudaFlash(0.3), torch.tensor([0, 12, 19], dtype=torch.int32)
    q, k = (torch.empty((19, heads, WIDTH), dtype=torch.bfloat16, device="meta") for heads in (HEADS, KV_HEADS))
    for given in ((ends.to("meta"), ends.to("meta")), None):
        out, lse = kernel._over(q, k, k, given, (12, 12), True)
        assert (out.shape, lse.shape, lse.dtype) == ((HEADS, 19, WIDTH), (HEADS, 19), torch.float32)
        pulled = kernel._back(q, q, k, k, out.transpose(0, 1), lse, given, (12, 12), True)
        assert [x.shape for x in pulled] == [q.shape, k.shape, k.shape]


def test_where_rows_end_is_told_in_the_only_type_that_cudas_kernel_takes() -> None:
    tails = Layout(places(6), read=True, device=CPU).tails()
    assert [(end.dtype, end.tolist()) for end in tails.ends] == [(torch.int32, [0, 1, 2, 14, 15]), (torch.int32, [0, 5, 6, 18, 25])]


def test_a_kernel_that_is_wrong_or_does_not_run_is_not_used_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(CpuFlash):
        def over(self, q, k, v, mask, *, causal=False):  # type: ignore[no-untyped-def]
            out, lse = super().over(q, k, v, mask, causal=causal)
            return out * 1.01, lse

    class Missing(CpuFlash):
        def back(self, *given, **named):  # type: ignore[no-untyped-def]
            raise NotImplementedError("no kernel\nhere")

    monkeypatch.setattr(proof, "_failed", {})
    assert not choice._proved(Wrong, CPU, torch.float32)
    assert not choice._proved(Missing, CPU, torch.float32)
    assert choice._proved(CpuFlash, CPU, torch.float32)
    wrong, missing = proof.notes()
    assert re.match(
        r"Wrong, attention for heads of 16, on cpu, is not used: it differs by \d\.\de-02; plain PyTorch takes its place", wrong
    )
    assert missing.startswith("Missing, attention for heads of 16, on cpu, is not used: NotImplementedError: no kernel; plain PyTorch")


def kernels() -> list[Kernel]:
    return [CpuFlash(0.3), Plain(0.3)]


@pytest.mark.parametrize("kernel", kernels(), ids=lambda kernel: type(kernel).__name__)
def test_a_query_that_sees_nothing_adds_nothing(kernel: Kernel) -> None:
    q, k, v, *_ = (x.detach().transpose(0, 1) for x in drawn(0, 3))
    mask = torch.ones(3, k.shape[1], dtype=torch.bool)
    mask[1] = False
    out, lse = kernel.over(q, k, v, mask)
    assert (out[:, 1] == 0).all()
    assert (lse[:, 1] == -torch.inf).all()
    whole = merged([(out, lse), kernel.over(q, k, v, None)])
    assert torch.allclose(whole[:, 1], kernel.over(q, k, v, None)[0][:, 1], atol=1e-6)


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("masked", [False, True])
def test_many_rows_over_their_own_keys_are_as_each_alone(masked: bool, cap: float | None) -> None:
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(3, HEADS, 2, WIDTH, generator=draw)
    k, v = (torch.randn(3, KV_HEADS, 5, WIDTH, generator=draw) for _ in range(2))
    mask = torch.rand(3, 1, 2, 5, generator=draw) > 0.4 if masked else None
    out, lse = over(q, k, v, scale=0.3, mask=mask, cap=cap)
    for i in range(3):
        alone = Plain(0.3, cap).over(q[i], k[i], v[i], None if mask is None else mask[i, 0])
        assert torch.allclose(out[i], alone[0], atol=1e-6)
        assert torch.allclose(lse[i], alone[1], atol=1e-6)
