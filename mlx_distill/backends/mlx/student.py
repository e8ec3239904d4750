"""A Base with adapters, opened by MLX: it learns (one effective batch at a time), it measures losses, it opens sessions.

It knows no schedule, no files but its own state, no prompts and no grammar.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends import allocation, full
from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import Capacity, LoraShape, Ranks
from mlx_distill.backends.mlx import attention, elementwise, lora, loss
from mlx_distill.backends.mlx.decoder import prefix_states
from mlx_distill.backends.mlx.gradient import Gradient, Sums
from mlx_distill.backends.mlx.loss import Batch, nlls
from mlx_distill.backends.mlx.model import Head, open_model
from mlx_distill.backends.mlx.optimizers import Optimizer
from mlx_distill.backends.mlx.ranks import MlxRanks
from mlx_distill.backends.mlx.session import MlxSession
from mlx_distill.backends.mlx.tape import Tape
from mlx_distill.backends.mlx.trained import Adapter, Trained, Whole
from mlx_distill.errors import BackendError
from mlx_distill.models.estimates import Device, answering_capacity
from mlx_distill.models.families import complete, family_of
from mlx_distill.records import Group, Ids, LossSum, Step


class MlxStudent:
    def __init__(self, base: Path, folders: Mapping[str, Path], *, cast: str | None, unpack: bool = False, limit: int | None = None):
        """`limit`: bytes that all may take; None: what the machine has."""
        self._base, self._limit, self._width = base, limit, 4 if cast == "float32" else 2
        self._model = open_model(base, cast, unpack=unpack)
        self._head = Head(self._model)
        self.vocabulary = self._head.vocabulary
        self._bare = lora.linears(self._model)
        self._worn: Trained | None = None
        self._trained: dict[str | None, Trained | None] = {name: self._open(folder, len(folders) == 1) for name, folder in folders.items()}
        self._trained[None] = next(iter(self._trained.values())) if len(self._trained) == 1 else None
        self._recompute = False
        self._ranks: MlxRanks | None = None
        self._compiled_before = elementwise.compilations()

    def _open(self, folder: Path, alone: bool) -> Trained:
        if not full.is_full(folder):
            weights, shape = adapters.load(folder)
            return Adapter(self._model, self._bare, shape, weights)
        whole = Whole(self._model, self._base, alone=alone)
        whole.fill(whole.read(folder))
        return whole

    def _wear(self, adapter: str | None) -> None:
        """Put on an adapter named at `open`. None: the student's own, the one in training, else the only one that it was opened with."""
        if adapter not in self._trained:
            named = ", ".join(name for name in self._trained if name is not None)
            raise BackendError(f"no adapter named {adapter!r} was opened", hint=f"there is {named}" if named else "open the base with it")
        if (wanted := self._trained[adapter]) is not self._worn:
            self._strip()
            if wanted is not None:
                wanted.put_on()
            self._model.eval()  # a layer is born in training mode, in which it would drop some of its input
            self._worn = wanted
        if wanted is not None:
            wanted.settle()

    def _strip(self) -> None:
        if self._worn is not None:
            self._worn.take_off()
        self._worn = None

    # learning

    def prepare(
        self,
        shape: LoraShape | None,
        *,
        optimizer: str,
        weight_decay: float,
        initial: Mapping[str, NDArray[np.float32]] | None,
        seed: int,
        ranks: Ranks | None = None,
        recompute: bool = False,
    ) -> int:
        assert ranks is None or isinstance(ranks, MlxRanks), "ranks that another backend has joined"
        trained = self._begun(shape, initial, seed)
        self._optimizer = Optimizer(optimizer, trained, weight_decay=weight_decay)
        self._seed, self._trained[None], self._ranks, self._recompute = seed, trained, ranks, recompute
        return sum(value.size for value in trained.values().values())

    def _begun(self, shape: LoraShape | None, initial: Mapping[str, NDArray[np.float32]] | None, seed: int) -> Trained:
        if shape is None:
            self._strip()
            whole = Whole(self._model, self._base, alone=not self._trained.keys() - {None})
            if initial is not None:
                whole.fill(initial)
            return whole
        adapter = Adapter(self._model, self._bare, shape)
        if initial is None:
            adapter.start(seed)
        else:
            adapter.fill(initial)
        return adapter

    @property
    def _own(self) -> Trained:
        """What is in training."""
        own = self._trained[None]
        assert own is not None, "prepare comes first"
        return own

    def update(self, groups: Sequence[Group], *, learning_rate: float, clip_norm: float | None, step: int) -> Step:
        gradients, sums = self.gradient(groups, step)
        total = sum(sums.row_losses.values(), LossSum())
        norm = float(mx.sqrt(mx.stack([mx.sum(mx.square(gradient)) for gradient in gradients.values()]).sum()).item())  # type: ignore[arg-type]
        applied = bool(np.isfinite(norm) and np.isfinite(total.nats) and total.tokens > 0)
        if applied:
            if clip_norm is not None and norm > clip_norm:
                gradients = {path: gradient * (clip_norm / norm) for path, gradient in gradients.items()}
            self._optimizer.apply(gradients, learning_rate)
        return Step(total, sums.row_losses, norm, applied, computed=sums.computed)

    def gradient(self, groups: Sequence[Group], step: int) -> tuple[dict[str, mx.array], Sums]:
        """Of sum(weight * nll) / sum(weight), by MLX's paths, with the dropout of that step; and what it was made of."""
        self._wear(None)
        values = self._trainable()
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
        weight = max(sum(sums.row_losses.values(), LossSum()).tokens, 1e-12)
        return {name: total / weight for name, total in zip(names, sums.gradients, strict=True)}, sums

    def _share(self, groups: Sequence[Group]) -> Sequence[Group]:
        """What this process takes of a batch: all of it, unless others take some."""
        return groups if self._ranks is None else self._ranks.share(groups)

    def _trainable(self) -> dict[str, mx.array]:
        return self._own.values()

    def _draw(self, key: tuple[int, ...]) -> None:
        """Dropout's random numbers follow from (seed, step, micro-batch) alone, so that a resume needs no generator state."""
        digest = hashlib.sha256(repr((self._seed, *key)).encode()).digest()
        mx.random.seed(int.from_bytes(digest[:8], "little"))

    def _set(self, names: Sequence[str], values: Sequence[mx.array]) -> None:
        self._own.set(dict(zip(names, values, strict=True)))

    def loss(self, groups: Sequence[Group]) -> dict[str, LossSum]:
        self._wear(None)
        row_losses: dict[str, LossSum] = {}
        for group in self._share(groups):
            tape = Tape()
            shared = prefix_states(tape, self._model, group.prefix) if len(group.prefix) else []
            for rows in group.micro_batches:
                batch = Batch(self._model, rows, len(group.prefix))
                each = nlls(tape, self._model, self._head, batch, shared).value
                mx.eval(each)
                row_losses |= batch.row_losses(each)
        return row_losses if self._ranks is None else self._ranks.losses(row_losses, groups)[0]

    # state

    def save_adapter(self, folder: Path) -> None:
        self._own.save(folder, base=self._base.name)

    def save_state(self, folder: Path) -> None:
        self.save_adapter(folder)
        self._optimizer.save(folder)

    def load_state(self, folder: Path) -> None:
        weights = self._own.read(folder)
        state = self._optimizer.read(folder)
        self._own.fill(weights)
        self._optimizer.adopt(state)

    def _weights(self) -> adapters.Weights:
        return {self._own.file_name(path): self._own.to_file(value) for path, value in self._trainable().items()}

    # answering

    def session(self, prefix: Ids, *, adapter: str | None = None) -> MlxSession:
        """Behind an adapter named at `open`; None is the student's own (see `_wear`). Sessions of several adapters may be used in turns."""
        if adapter not in self._trained:
            self._wear(adapter)
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
