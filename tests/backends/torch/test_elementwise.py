"""The functions between the matmuls: what PyTorch computes, forward and back, in any type, keeping their inputs alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mlx_distill.backends.torch.elementwise import geglu, rms_norm, swiglu, turned

Function = Callable[..., Tensor]


def drawn(*sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [(3 * torch.randn(size, generator=draw)).to(dtype).requires_grad_() for size in sizes]


def both(mine: Function, theirs: Function, given: list[Tensor], tolerance: float) -> None:
    """Values and gradients, relative to the largest, against float64."""
    wide = [x.detach().double().requires_grad_() for x in given]
    out, wanted = mine(*given), theirs(*wide)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    pairs = [
        (out, wanted),
        *zip(torch.autograd.grad(out, given, upstream), torch.autograd.grad(wanted, wide, upstream.double()), strict=True),
    ]
    for a, b in pairs:
        assert float((a.detach().double() - b.detach()).abs().max()) <= tolerance * float(b.detach().abs().max())


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_functions_are_those_of_pytorch(dtype: torch.dtype, tolerance: float) -> None:
    both(
        lambda x, w: rms_norm(x, w, 1e-6),
        lambda x, w: functional.rms_norm(x, (24,), w, 1e-6),
        drawn((7, 24), (24,), dtype=dtype),
        tolerance,
    )
    both(
        lambda x, w: rms_norm(x, w, 1e-3),
        lambda x, w: functional.rms_norm(x, (8,), w, 1e-3),
        drawn((7, 3, 8), (8,), dtype=dtype),
        tolerance,
    )
    pair = drawn((7, 24), (7, 24), dtype=dtype)
    both(swiglu, lambda gate, up: functional.silu(gate) * up, pair, tolerance)
    both(geglu, lambda gate, up: functional.gelu(gate, approximate="tanh") * up, pair, tolerance)


def test_a_norm_of_large_numbers_in_float16_does_not_overflow() -> None:
    x = torch.full((2, 64), 1e4, dtype=torch.float16)
    assert torch.allclose(rms_norm(x, torch.ones(64, dtype=torch.float16), 1e-6), torch.ones_like(x))


@pytest.mark.parametrize("part", [8, 6], ids=["all of a head", "its first six numbers"])
def test_heads_are_turned_by_their_positions_and_gradients_turned_back(part: int) -> None:
    angles = torch.arange(5)[:, None, None] * torch.tensor([1.0, 0.3, 0.1, 0.01][: part // 2])

    def by_complex_numbers(x: Tensor) -> Tensor:
        half = part // 2
        pairs = torch.complex(x[..., :half], x[..., half:part]) * torch.polar(torch.ones_like(angles), angles).to(torch.complex128)
        return torch.cat([pairs.real, pairs.imag, x[..., part:]], -1)

    both(lambda x: turned(x, angles.cos(), angles.sin()), by_complex_numbers, drawn((5, 3, 8)), 1e-6)


def test_what_is_kept_for_the_backward_pass_are_the_inputs() -> None:
    gate, up = drawn((50, 64), (50, 64))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        rms_norm(gate, torch.ones(64), 1e-6)
        swiglu(gate, up)
    large = [x.data_ptr() for x in kept if x.numel() >= gate.numel()]
    assert set(large) == {gate.data_ptr(), up.data_ptr()}
