"""Noise that tokens are drawn with: a function of the row's key and the token's id, spread as it should be, and finite everywhere."""

from __future__ import annotations

import numpy as np
import torch

from mlx_distill.backends.torch.draw import BITS, gumbel, uniform


def keys(number: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(-(2**31), 2**31, (number, 2)).astype(np.int32))


def test_a_token_has_its_noise_whoever_else_draws_and_whatever_else_is_allowed() -> None:
    every, few = torch.arange(1000), torch.tensor([3, 17, 998])
    whole = gumbel(keys(5), every)
    assert torch.equal(gumbel(keys(5)[3:4], few)[0], whole[3, few])


def test_it_is_spread_as_gumbel_numbers_are_and_neighbours_have_nothing_in_common() -> None:
    """Mean: Euler's constant; variance: pi² / 6."""
    noise = gumbel(keys(50), torch.arange(20_000)).double()
    assert abs(float(noise.mean()) - 0.5772) < 0.005
    assert abs(float(noise.var()) - np.pi**2 / 6) < 0.01
    together = torch.corrcoef(noise[:20]) - torch.eye(20)
    assert float(together.abs().max()) < 0.04, "rows"
    behind = torch.corrcoef(torch.stack([noise[:, :-1].flatten(), noise[:, 1:].flatten()]))[0, 1]
    assert abs(float(behind)) < 0.005, "tokens"


def test_no_number_is_infinite() -> None:
    ends = uniform(torch.tensor([0, 2**BITS - 1]))
    assert float(ends[0]) > 0 and float(ends[1]) < 1
