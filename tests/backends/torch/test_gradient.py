"""The gradient of an effective batch is that of transformers and PEFT, rows forwarded alone; and what makes it cheap changes nothing."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.torch.student import RISES, TorchStudent
from mlx_distill.models.families import complete, family_of
from mlx_distill.records import Group, TokenRow
from tests.conftest import MakeBase
from tests.rows import FAMILIES, random_group, shape_of

CPU = torch.device("cpu")


def random_adapter(base: Path, shape: LoraShape) -> dict[str, np.ndarray]:
    """Neither A nor B is 0, so that every gradient is something."""
    config = json.loads((base / "config.json").read_text())
    sizes = {name.removesuffix(".weight"): of for name, of in family_of(config).shapes(complete(config, family_of(config))).items()}
    generator, weights = np.random.default_rng(7), {}
    for path in adapters.chosen([path for path in sizes if path.endswith("_proj")], shape):
        rows, columns = sizes[path]
        for name, size in zip(adapters.names(path), ((shape.rank, columns), (rows, shape.rank)), strict=True):
            weights[name] = generator.normal(0, 0.3 / size[1] ** 0.5, size).astype(np.float32)
        if shape.dora:
            weights[adapters.magnitude_name(path)] = generator.uniform(0.5, 1.5, rows).astype(np.float32)
    return weights


def opened(base: Path, *, dtype: torch.dtype = torch.float32, unpack: bool = False) -> TorchStudent:
    return TorchStudent(base, {}, device=CPU, dtype=dtype, unpack=unpack, limit=1 << 34)


def student_of(base: Path, shape: LoraShape | None, *, recompute: bool = False, dtype: torch.dtype = torch.float32) -> TorchStudent:
    student = opened(base, dtype=dtype)
    initial = None if shape is None else random_adapter(base, shape)
    student.prepare(shape, optimizer="adamw", weight_decay=0.0, initial=initial, seed=3, recompute=recompute)
    return student


def groups() -> list[Group]:
    generator = np.random.default_rng(5)
    return [random_group(generator, 9, [[4, 7], [12, 1]]), random_group(generator, 0, [[3], [5, 6]])]


def peft_gradient(checkpoint: Path, adapter: Path, groups: list[Group]) -> dict[str, Tensor]:
    """Of sum(weight * nll) / sum(weight), by PEFT's names."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    model = PeftModel.from_pretrained(net, adapter, is_trainable=True)
    model.eval()
    rows = [(group.prefix, row) for group in groups for row in group.rows]
    sum(_nats(model, prefix, row) for prefix, row in rows).backward()
    total = sum(float(row.weight.sum()) for _, row in rows)
    return {name.replace(".default", ""): value.grad / total for name, value in model.named_parameters() if value.requires_grad}


def _nats(model: Any, prefix: np.ndarray, row: TokenRow) -> Tensor:
    tokens = torch.from_numpy(np.concatenate([prefix, row.tokens]).astype(np.int64))
    logits = model(tokens[None]).logits[0, len(prefix) + torch.from_numpy(row.read_at.astype(np.int64))]
    if row.allowed is not None:
        mask = torch.full(logits.shape, -torch.inf)
        for i, ids in enumerate(row.allowed):
            mask[i, slice(None) if ids is None else ids] = 0
        logits = logits + mask
    each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(row.targets.astype(np.int64)), reduction="none")
    return (each * torch.from_numpy(row.weight)).sum()


def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The norm of the difference of the whole gradients, by the norm of the second."""
    assert ours.keys() == theirs.keys()
    gap = sum(float((ours[name].double() - theirs[name].double()).square().sum()) for name in ours)
    return float((gap / sum(float(value.double().square().sum()) for value in theirs.values())) ** 0.5)


def by_file_names(student: TorchStudent, groups: list[Group], step: int = 0) -> dict[str, Tensor]:
    return {student._own.file_name(path): gradient for path, gradient in student.gradient(groups, step)[0].items()}


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "computed again"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_transformers_and_peft(family: str, recompute: bool, base: MakeBase, tmp_path: Path) -> None:
    folder, shape = base(family), shape_of(family)
    adapters.save(tmp_path / "adapter", random_adapter(folder, shape), shape, base="it")
    ours = by_file_names(student_of(folder, shape, recompute=recompute), groups())
    assert distance(ours, peft_gradient(folder.parent / "checkpoint", tmp_path / "adapter", groups())) <= 1e-5


@pytest.mark.parametrize("bits", [4, 3])
def test_packed_weights_give_the_gradient_of_what_they_stand_for(bits: int, base: MakeBase) -> None:
    folder, shape = base(bits=bits), shape_of()
    packed, whole = opened(folder), opened(folder, unpack=True)
    for student in (packed, whole):
        student.prepare(shape, optimizer="adamw", weight_decay=0.0, initial=random_adapter(folder, shape), seed=0)
    assert distance(packed.gradient(groups(), 0)[0], whole.gradient(groups(), 0)[0]) <= 1e-6


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("dora", [False, True])
def test_activations_that_are_computed_again_are_what_they_were_dropped_ones_too(dropout: float, dora: bool, base: MakeBase) -> None:
    shape = replace(shape_of(), dropout=dropout, dora=dora)
    kept, again = (student_of(base(), shape, recompute=recompute) for recompute in (False, True))
    assert distance(again.gradient(groups(), 7)[0], kept.gradient(groups(), 7)[0]) <= 1e-6


def test_dropout_follows_from_seed_and_step_and_is_none_when_losses_are_measured(base: MakeBase) -> None:
    student = student_of(base(), replace(shape_of(), dropout=0.4))
    first, same, other = (student.gradient(groups(), step)[0] for step in (1, 1, 2))
    assert distance(first, same) == 0
    assert distance(first, other) > 0.1
    losses = student.loss(groups())
    assert losses == student.loss(groups())
    undropped = student_of(base(), shape_of()).loss(groups())
    assert [loss.nats for loss in losses.values()] == pytest.approx([loss.nats for loss in undropped.values()], rel=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype, within", [(torch.bfloat16, 0.08), (torch.float16, 0.02)])
def test_sixteen_bits_give_the_gradient_as_exactly_as_they_can(dtype: torch.dtype, within: float, family: str, base: MakeBase) -> None:
    shape = shape_of(family)
    exact, narrow = (student_of(base(family), shape, dtype=it)._normed(groups(), 0)[0] for it in (torch.float32, dtype))
    assert all(value.dtype == torch.float32 for value in narrow.values())
    assert distance(narrow, exact) <= within


def test_small_gradients_survive_float16_and_a_scale_that_overflows_is_halved(base: MakeBase) -> None:
    faint = [replace_weights(group, 1e-7) for group in groups()]
    exact = student_of(base(), shape_of()).gradient(faint, 0)[0]
    student = student_of(base(), shape_of(), dtype=torch.float16)
    assert distance(student.gradient(faint, 0)[0], exact) <= 0.02
    loud = [replace_weights(group, 1e4) for group in groups()]
    before = student._scale
    step = student.update(loud, learning_rate=1e-4, clip_norm=1.0, step=0)
    assert step.applied
    assert student._scale < before
    student._scale = 1.0
    assert distance(student.gradient(faint, 0)[0], exact) > 0.5, "what the scale is for"


def test_a_batch_that_no_scale_helps_leaves_the_scale_as_it_was(base: MakeBase) -> None:
    student = student_of(base(), shape_of(), dtype=torch.float16)
    assert student.update(groups(), learning_rate=1e-4, clip_norm=1.0, step=1).applied
    settled = student._scale
    assert settled > 1
    assert not student.update([replace_weights(group, np.inf) for group in groups()], learning_rate=1e-4, clip_norm=1.0, step=2).applied
    assert student._scale == settled
    student.update(groups(), learning_rate=1e-4, clip_norm=1.0, step=RISES)
    assert student._scale in (settled, 2 * settled), "it is tried again, and stays where nothing overflows"


def test_many_micro_batches_of_a_narrow_model_add_up_in_float32(base: MakeBase) -> None:
    [group], many = [random_group(np.random.default_rng(5), 9, [[4, 7]])], 64
    rows = [[replace(row, id=f"{row.id}-{i}") for row in group.micro_batches[0]] for i in range(many)]
    one, all_of_them = (
        student_of(base(), shape_of(), dtype=torch.bfloat16).gradient([it], 0)[0] for it in (group, Group(group.prefix, rows))
    )
    assert distance(all_of_them, one) <= 1e-3


def replace_weights(group: Group, factor: float) -> Group:
    return Group(group.prefix, [[replace(row, weight=row.weight * np.float32(factor)) for row in rows] for rows in group.micro_batches])


def test_nothing_of_a_step_outlives_it(base: MakeBase) -> None:
    student = student_of(base(), shape_of())

    def held() -> int:
        gc.collect()
        return sum(tensor.numel() for tensor in gc.get_objects() if isinstance(tensor, Tensor))

    student.update(groups(), learning_rate=1e-3, clip_norm=None, step=0)
    before = held()
    for step in range(1, 4):
        student.update(groups(), learning_rate=1e-3, clip_norm=None, step=step)
    assert held() == before


def test_a_batch_that_is_not_finite_changes_nothing(base: MakeBase) -> None:
    student = student_of(base(), shape_of())
    before = {path: value.clone() for path, value in student._own.values().items()}
    broken = [replace_weights(group, np.inf) for group in groups()]
    assert not student.update(broken, learning_rate=1e-3, clip_norm=None, step=0).applied
    assert all(torch.equal(before[path], value) for path, value in student._own.values().items())
