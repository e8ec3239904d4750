"""A Base with adapters, opened by MLX: it learns (one effective batch at a time), it measures losses, it opens sessions.

It knows no schedule, no files but its own state, no prompts and no grammar.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends import allocation
from mlx_distill.backends.base import Capacity, LoraShape
from mlx_distill.backends.mlx import attention, elementwise, lora, loss
from mlx_distill.backends.mlx.decoder import prefix_states
from mlx_distill.backends.mlx.gradient import Gradient
from mlx_distill.backends.mlx.loss import Batch, nlls
from mlx_distill.backends.mlx.model import Head, open_model
from mlx_distill.backends.mlx.optimizers import Optimizer
from mlx_distill.backends.mlx.ranks import MlxRanks
from mlx_distill.backends.mlx.session import MlxSession
from mlx_distill.backends.mlx.tape import Tape
from mlx_distill.backends.mlx.trained import Adapter, Trained, Whole
from mlx_distill.backends.student import AdapterStudent, Sums, Weights
from mlx_distill.models.estimates import Device, answering_capacity
from mlx_distill.models.families import complete, family_of
from mlx_distill.records import Group, Ids, LossSum


class MlxStudent(AdapterStudent[Trained, mx.array]):
    def __init__(self, base: Path, folders: Mapping[str, Path], *, cast: str | None, unpack: bool = False, limit: int | None = None):
        """`limit`: bytes that all may take; None: what the machine has."""
        self._limit, self._width = limit, 4 if cast == "float32" else 2
        self._model = open_model(base, cast, unpack=unpack)
        self._head = Head(self._model)
        self.vocabulary = self._head.vocabulary
        self._bare = lora.linears(self._model)
        super().__init__(base, folders)
        self._compiled_before = elementwise.compilations()

    def _adapter(self, shape: LoraShape, weights: Weights | None = None) -> Adapter:
        return Adapter(self._model, self._bare, shape, weights)

    def _whole(self, *, alone: bool) -> Trained:
        return Whole(self._model, self._base, alone=alone)

    def _wear(self, adapter: str | None) -> None:
        before = self._worn
        super()._wear(adapter)
        if self._worn is not before:
            self._model.eval()  # a layer is born in training mode, in which it would drop some of its input

    # learning

    def _stepping(self, optimizer: str, weight_decay: float, trained: Trained) -> Optimizer:
        return Optimizer(optimizer, trained, weight_decay=weight_decay)

    def _size(self, trained: Trained) -> int:
        return sum(value.size for value in trained.values().values())

    @property
    def _ranks(self) -> MlxRanks | None:
        assert self._joined is None or isinstance(self._joined, MlxRanks), "ranks that another backend has joined"
        return self._joined

    def _normed(self, groups: Sequence[Group], step: int) -> tuple[dict[str, mx.array], Sums[mx.array], float]:
        gradients, sums = self.gradient(groups, step)
        norm = mx.sqrt(mx.stack([mx.sum(mx.square(gradient)) for gradient in gradients.values()]).sum())
        return gradients, sums, float(norm.item())  # type: ignore[arg-type]

    def _scaled(self, gradients: dict[str, mx.array], by: float) -> dict[str, mx.array]:
        return {path: gradient * by for path, gradient in gradients.items()}

    def gradient(self, groups: Sequence[Group], step: int) -> tuple[dict[str, mx.array], Sums[mx.array]]:
        """Of sum(weight * nll) / sum(weight), by MLX's paths, with the dropout of that step; and what it was made of."""
        self._wear(None)
        values = self._own.values()
        names, flat = list(values), list(values.values())
        gradient = Gradient(self._model, self._head, names, self._set, draw=lambda key: self._draw((step, *key)), recompute=self._recompute)
        self._model.train()
        try:
            sums = gradient.sums(self._share(groups), flat)
        finally:
            self._model.eval()
            self._set(names, flat)
        if self._ranks is not None:
            sums = self._ranks.whole(sums, groups)
        weight = max(sums.total.tokens, 1e-12)
        return {name: total / weight for name, total in zip(names, sums.gradients, strict=True)}, sums

    def _share(self, groups: Sequence[Group]) -> Sequence[Group]:
        """What this process takes of a batch: all of it, unless others take some."""
        return groups if self._ranks is None else self._ranks.share(groups)

    def _draw(self, key: tuple[int, ...]) -> None:
        mx.random.seed(self._drawn(key))

    def _set(self, names: Sequence[str], values: Sequence[mx.array]) -> None:
        self._own.set(dict(zip(names, values, strict=True)))

    def loss(self, groups: Sequence[Group], *, adapter: str | None = None) -> dict[str, LossSum]:
        row_losses: dict[str, LossSum] = {}
        for batch, each in self._computed(self._share(groups), adapter):
            row_losses |= batch.row_losses(each)
        return row_losses if self._ranks is None else self._ranks.losses(row_losses, groups)[0]

    def nlls(self, groups: Sequence[Group]) -> dict[str, NDArray[np.float32]]:
        return {name: own for batch, each in self._computed(groups, None) for name, own in batch.row_nlls(each).items()}

    def _computed(self, groups: Sequence[Group], adapter: str | None) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
        """The nats of each micro-batch's targets."""
        self._wear(adapter)
        for group in groups:
            tape = Tape()
            shared = prefix_states(tape, self._model, group.prefix) if len(group.prefix) else []
            for rows in group.micro_batches:
                batch = Batch(self._model, rows, len(group.prefix))
                each = nlls(tape, self._model, self._head, batch, shared).value
                mx.eval(each)
                yield batch, np.asarray(each)

    # answering

    def session(self, prefix: Ids, *, adapter: str | None = None) -> MlxSession:
        """Behind an adapter named at `open`; None is the student's own (see `_wear`). Sessions of several adapters may be used in turns."""
        self._require_opened(adapter)
        return MlxSession(self._model, self._head, prefix, wear=partial(self._wear, adapter))

    def capacity(self) -> Capacity:
        config = json.loads((self._base / "config.json").read_text(encoding="utf-8"))
        cpu = elementwise.on_cpu()
        tiles = (attention.TILE_CPU, loss.LOGITS_CPU) if cpu else (attention.TILE_GPU, loss.LOGITS_GPU)
        free = (self._limit or allocation.memory()) - mx.get_active_memory()
        return Capacity(*answering_capacity(complete(config, family_of(config)), free=free, device=Device(self._width, *tiles)))

    def peak_memory(self) -> int:
        return int(mx.get_peak_memory())

    def compilations(self) -> int:
        return elementwise.compilations() - self._compiled_before

    def notes(self) -> list[str]:
        return []  # MLX brings its kernels with it
