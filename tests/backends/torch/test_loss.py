"""Losses of read positions alone: what cross entropy gives, in pieces, and where few tokens are allowed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mlx_distill.backends.torch.loss import closed_nll, free_nll
from mlx_distill.backends.torch.model import Head, open_model
from tests.conftest import MakeBase
from tests.rows import FAMILIES


def head_of(base: MakeBase, family: str = "qwen2", bits: int | None = None) -> Head:
    return open_model(base(family, bits=bits), device=torch.device("cpu"), dtype=torch.float32).head


def drawn(positions: int, vocabulary: int) -> tuple[Tensor, np.ndarray]:
    draw = torch.Generator().manual_seed(0)
    hidden = (5 * torch.randn((positions, 64), generator=draw)).requires_grad_()
    return hidden, torch.randint(0, vocabulary, (positions,), generator=draw).numpy().astype(np.int32)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("at_once", [None, 384 * 3, 1])
def test_pieces_of_logits_give_the_loss_and_the_slope_of_all_at_once(
    at_once: int | None, family: str, bits: int | None, base: MakeBase
) -> None:
    head = head_of(base, family, bits)
    hidden, targets = drawn(11, head.vocabulary)
    mine = free_nll(head, hidden, targets, at_once=at_once)
    theirs = torch.nn.functional.cross_entropy(head.logits(hidden), torch.from_numpy(targets).long(), reduction="none")
    assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-5)
    upstream = torch.linspace(-1, 2, 11)
    [slope], [wanted] = torch.autograd.grad(mine, hidden, upstream), torch.autograd.grad(theirs, hidden, upstream)
    assert float((slope - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_a_head_that_is_trained_gets_its_gradient(family: str, base: MakeBase) -> None:
    head = head_of(base, family)
    head.table.weight.requires_grad_(True)
    hidden, targets = drawn(11, head.vocabulary)
    each = torch.linspace(0.5, 2, 11)
    theirs = torch.nn.functional.cross_entropy(head.logits(hidden), torch.from_numpy(targets).long(), reduction="none")
    given = [hidden, head.table.weight]
    pulled = torch.autograd.grad(free_nll(head, hidden, targets, at_once=384 * 4), given, each)
    for mine, wanted in zip(pulled, torch.autograd.grad(theirs, given, each), strict=True):
        assert float((mine - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    head.table.weight.requires_grad_(False)


def test_logits_never_exist_for_more_positions_than_asked(base: MakeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    head, sizes = head_of(base), []
    product = head._product

    def counted(hidden: Tensor, rows: Tensor | None) -> Tensor:
        sizes.append(len(hidden))
        return product(hidden, rows)

    monkeypatch.setattr(head, "_product", counted)
    hidden, targets = drawn(11, head.vocabulary)
    free_nll(head, hidden, targets, at_once=384 * 4).sum().backward()
    assert sizes == [4, 4, 3]


@pytest.mark.parametrize("bits", [None, 4])
def test_among_few_allowed_tokens_the_others_count_for_nothing(bits: int | None, base: MakeBase) -> None:
    head = head_of(base, bits=bits)
    hidden, targets = drawn(4, head.vocabulary)
    allowed = [np.unique([target, 5, 80 + i]).astype(np.int32) for i, target in enumerate(targets)]
    mine = closed_nll(head, hidden, allowed, targets).detach()
    hidden = hidden.detach()
    for i, ids in enumerate(allowed):
        logits = head.logits(hidden[i : i + 1])[0][torch.from_numpy(ids).long()]
        assert float(mine[i]) == pytest.approx(float(logits.logsumexp(-1) - logits[list(ids).index(targets[i])]), abs=1e-5)
    with pytest.raises(AssertionError, match="not among its allowed"):
        closed_nll(head, hidden, [np.array([1], np.int32)] * 4, targets)
