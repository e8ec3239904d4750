"""A Base with adapters, opened by PyTorch: it learns (one effective batch at a time), it measures losses, it opens sessions.

It knows no schedule, no files but its own state, no prompts and no grammar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlx_distill.backends import allocation, full
from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import Capacity, LoraShape, Ranks
from mlx_distill.backends.rows.batch import Lessons
from mlx_distill.backends.torch import attention, lora, loss
from mlx_distill.backends.torch.decoder import prefix_states
from mlx_distill.backends.torch.gradient import Gradient, Sums, row_losses
from mlx_distill.backends.torch.kernels.routes import BLOCK_BYTES
from mlx_distill.backends.torch.loss import nlls
from mlx_distill.backends.torch.model import open_model
from mlx_distill.backends.torch.optimizers import Optimizer
from mlx_distill.backends.torch.ranks import TorchRanks
from mlx_distill.backends.torch.session import TorchSession
from mlx_distill.backends.torch.trained import Adapter, Trained, Whole
from mlx_distill.errors import BackendError
from mlx_distill.memory import largest_bytes, resident_bytes
from mlx_distill.models.estimates import Device, answering_capacity
from mlx_distill.records import Group, Ids, LossSum, Step

LARGEST_SCALE = 2.0**16
"""What a float16 model's loss is multiplied by at first; halved, and the batch computed again, as often as something overflows."""
FORWARD = {"cpu": 2048, "cuda": 16384}
"""Tokens of one forward in answering: enough to fill the device, and to read the weights seldom."""
HEAD = 128
"""Numbers of a head in nearly all models."""


def working(device: torch.device, dtype: torch.dtype) -> Device:
    """How computing takes memory, for `models.estimates`."""
    kind, flash = device.type, attention.flash_for(device, dtype, HEAD)
    return Device(
        dtype.itemsize, attention.tile(device), loss.LOGITS[kind], attention=dtype.itemsize, forward=FORWARD[kind],
        passes=2 if dtype == torch.float32 else 3, fused=flash is not None, eager=True, block=BLOCK_BYTES[kind],
    )  # fmt: skip


class TorchStudent:
    def __init__(
        self, base: Path, folders: Mapping[str, Path], *, device: torch.device, dtype: torch.dtype, unpack: bool = False, limit: int
    ):
        """`limit`: bytes that all may take on the device."""
        self._base, self._limit, self._device, self._dtype = base, limit, device, dtype
        self._model = open_model(base, device=device, dtype=dtype, unpack=unpack)
        self._before = (resident_bytes() or 0) - self._weight_bytes()
        self.vocabulary = self._model.head.vocabulary
        self._bare = lora.linears(self._model.net)
        self._worn: Trained | None = None
        self._trained: dict[str | None, Trained | None] = {name: self._open(folder, len(folders) == 1) for name, folder in folders.items()}
        self._trained[None] = next(iter(self._trained.values())) if len(self._trained) == 1 else None
        self._recompute = False
        self._ranks: TorchRanks | None = None
        self._scale = LARGEST_SCALE if dtype == torch.float16 else 1.0

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
        assert ranks is None or isinstance(ranks, TorchRanks), "ranks that another backend has joined"
        trained = self._begun(shape, initial, seed)
        self._optimizer = Optimizer(optimizer, trained, weight_decay=weight_decay)
        self._seed, self._trained[None], self._ranks, self._recompute = seed, trained, ranks, recompute
        return sum(value.numel() for value in trained.values().values())

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
        gradients, sums, norm = self._finite(groups, step)
        total = sum(sums.row_losses.values(), LossSum())
        applied = bool(np.isfinite(norm) and np.isfinite(total.nats) and total.tokens > 0)
        if applied:
            if clip_norm is not None and norm > clip_norm:
                gradients = {path: gradient.mul_(clip_norm / norm) for path, gradient in gradients.items()}
            self._optimizer.apply(gradients, learning_rate)
        return Step(total, sums.row_losses, norm, applied, computed=sums.computed)

    def _finite(self, groups: Sequence[Group], step: int) -> tuple[dict[str, Tensor], Sums, float]:
        """The gradient and its norm; of a float16 model with the largest scale at which nothing overflows."""
        while True:
            gradients, sums = self.gradient(groups, step)
            norm = float(torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt())
            if np.isfinite(norm) or self._scale <= 1.0:
                return gradients, sums, norm
            self._scale /= 2.0

    def gradient(self, groups: Sequence[Group], step: int) -> tuple[dict[str, Tensor], Sums]:
        """Of sum(weight * nll) / sum(weight), by the checkpoint's names, with the dropout of that step; and what it was made of."""
        self._wear(None)
        values = self._own.values()
        gradient = Gradient(self._model, draw=lambda key: self._draw((step, *key)), recompute=self._recompute, scale=self._scale)
        self._own.learn(True)
        try:
            sums = gradient.sums(groups if self._ranks is None else self._ranks.share(groups), values)
        finally:
            self._own.learn(False)
        if self._ranks is not None:
            sums = self._ranks.whole(sums, groups)
        weight = max(sum(sums.row_losses.values(), LossSum()).tokens, 1e-12)
        return {name: total.div_(weight) for name, total in zip(values, sums.gradients, strict=True)}, sums

    def _draw(self, key: tuple[int, ...]) -> None:
        """Dropout's random numbers follow from (seed, step, micro-batch) alone, so that a resume needs no generator state."""
        digest = hashlib.sha256(repr((self._seed, *key)).encode()).digest()
        self._own.draw(int.from_bytes(digest[:8], "little"))

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def loss(self, groups: Sequence[Group]) -> dict[str, LossSum]:
        self._wear(None)
        seen: list[tuple[Lessons, Tensor]] = []
        for group in groups if self._ranks is None else self._ranks.share(groups):
            shared = prefix_states(self._model, group.prefix) if len(group.prefix) else []
            for rows in group.micro_batches:
                lessons = Lessons(rows)
                seen.append((lessons, nlls(self._model, lessons, shared, len(group.prefix))))
        own = row_losses(seen)
        return own if self._ranks is None else self._ranks.losses(own, groups)[0]

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

    # answering

    def session(self, prefix: Ids, *, adapter: str | None = None) -> TorchSession:
        """Behind an adapter named at `open`; None is the student's own (see `_wear`). Sessions of several adapters may be used in turns."""
        if adapter not in self._trained:
            self._wear(adapter)
        return TorchSession(self._model, prefix, wear=partial(self._wear, adapter))

    def capacity(self) -> Capacity:
        taken = torch.cuda.memory_allocated(self._device) if self._device.type == "cuda" else self._weight_bytes()
        device = working(self._device, self._dtype)
        return Capacity(*answering_capacity(self._model.config, free=(self._limit or allocation.memory()) - taken, device=device))

    def _weight_bytes(self) -> int:
        tensors = {tensor.data_ptr(): tensor for tensor in [*self._model.net.parameters(), *self._model.net.buffers()]}
        return sum(tensor.nbytes for tensor in tensors.values())

    def peak_memory(self) -> int:
        """On a CPU, where PyTorch does not count, the weights and what the process has grown by at most since they were there."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return max(largest_bytes() - self._before, self._weight_bytes())

    def compilations(self) -> int:
        return 0  # nothing is traced here: kernels are compiled once for each kind of shape, outside of steps' graphs
