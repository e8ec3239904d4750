"""A Base with adapters, opened by PyTorch: it learns (one effective batch at a time), it measures losses, it opens sessions.

It knows no schedule, no files but its own state, no prompts and no grammar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlx_distill.backends import allocation
from mlx_distill.backends.base import Capacity, LoraShape
from mlx_distill.backends.rows.batch import Lessons
from mlx_distill.backends.student import AdapterStudent, Sums, Weights
from mlx_distill.backends.torch import kernels, lora, loss
from mlx_distill.backends.torch.choice import flash_for
from mlx_distill.backends.torch.decoder import prefix_states
from mlx_distill.backends.torch.flash import tile
from mlx_distill.backends.torch.gradient import Gradient, row_losses, row_nlls
from mlx_distill.backends.torch.kernels.routes import BLOCK_BYTES
from mlx_distill.backends.torch.loss import nlls
from mlx_distill.backends.torch.model import open_model
from mlx_distill.backends.torch.optimizers import Optimizer
from mlx_distill.backends.torch.ranks import TorchRanks
from mlx_distill.backends.torch.session import TorchSession
from mlx_distill.backends.torch.trained import Adapter, Trained, Whole
from mlx_distill.memory import begin_again, largest_since, resident_bytes
from mlx_distill.models.estimates import Device, answering_capacity
from mlx_distill.records import Group, Ids, LossSum

LARGEST_SCALE = 2.0**16
"""What a float16 model's loss is multiplied by at first; halved, and the batch computed again, as often as something overflows ..."""
RISES = 200
"""... and doubled every so many steps."""
FORWARD = {"cpu": 2048, "cuda": 16384}
"""Tokens of one forward in answering: enough to fill the device, and to read the weights seldom."""
HEAD = 128
"""Numbers of a head in nearly all models."""


def working(device: torch.device, dtype: torch.dtype) -> Device:
    """How computing takes memory, for `models.estimates`."""
    kind, flash = device.type, flash_for(device, dtype, HEAD)
    return Device(
        dtype.itemsize, tile(device), loss.LOGITS[kind], attention=dtype.itemsize, forward=FORWARD[kind],
        passes=2, fused=flash is not None, eager=True, block=BLOCK_BYTES[kind], counted=kind == "cuda",
    )  # fmt: skip


class TorchStudent(AdapterStudent[Trained, Tensor]):
    def __init__(
        self, base: Path, folders: Mapping[str, Path], *, device: torch.device, dtype: torch.dtype, unpack: bool = False, limit: int
    ):
        """`limit`: bytes that all may take on the device."""
        self._limit, self._device, self._dtype = limit, device, dtype
        self._model = open_model(base, device=device, dtype=dtype, unpack=unpack)
        begin_again()  # a shard's file, and what was done before, lay in the memory until now
        self._before = (resident_bytes() or 0) - self._weight_bytes()
        self.vocabulary = self._model.head.vocabulary
        self._bare = lora.linears(self._model.net)
        self._scale = LARGEST_SCALE if dtype == torch.float16 else 1.0
        super().__init__(base, folders)

    def _adapter(self, shape: LoraShape, weights: Weights | None = None) -> Adapter:
        return Adapter(self._model, self._bare, shape, weights)

    def _whole(self, *, alone: bool) -> Trained:
        return Whole(self._model, self._base, alone=alone)

    # learning

    def _stepping(self, optimizer: str, weight_decay: float, trained: Trained) -> Optimizer:
        return Optimizer(optimizer, trained, weight_decay=weight_decay)

    def _size(self, trained: Trained) -> int:
        return sum(value.numel() for value in trained.values().values())

    @property
    def _ranks(self) -> TorchRanks | None:
        assert self._joined is None or isinstance(self._joined, TorchRanks), "ranks that another backend has joined"
        return self._joined

    def _normed(self, groups: Sequence[Group], step: int) -> tuple[dict[str, Tensor], Sums[Tensor], float]:
        """Of a float16 model with the largest scale at which nothing overflows. A batch that no scale helps leaves the scale as it was."""
        if self._dtype == torch.float16 and step % RISES == 0:
            self._scale = min(LARGEST_SCALE, 2 * self._scale)
        before = self._scale
        while True:
            gradients, sums = self.gradient(groups, step)
            norm = float(torch.nn.utils.get_total_norm(gradients.values()))
            if np.isfinite(norm):
                return gradients, sums, norm
            if self._scale <= 1.0 or not np.isfinite(sums.total.nats):
                self._scale = before
                return gradients, sums, norm
            self._scale /= 2.0

    def _scaled(self, gradients: dict[str, Tensor], by: float) -> dict[str, Tensor]:
        torch._foreach_mul_([*gradients.values()], by)
        return gradients

    def gradient(self, groups: Sequence[Group], step: int) -> tuple[dict[str, Tensor], Sums[Tensor]]:
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
        torch._foreach_div_(sums.gradients, max(sums.total.tokens, 1e-12))
        return dict(zip(values, sums.gradients, strict=True)), sums

    def _draw(self, key: tuple[int, ...]) -> None:
        self._own.draw(self._drawn(key))

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def loss(self, groups: Sequence[Group], *, adapter: str | None = None) -> dict[str, LossSum]:
        own = row_losses(self._computed(groups if self._ranks is None else self._ranks.share(groups), adapter))
        return own if self._ranks is None else self._ranks.losses(own, groups)[0]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def nlls(self, groups: Sequence[Group]) -> dict[str, NDArray[np.float32]]:
        return row_nlls(self._computed(groups, None))

    def _computed(self, groups: Sequence[Group], adapter: str | None) -> list[tuple[Lessons, Tensor]]:
        """The nats of each micro-batch's targets, on the device."""
        self._wear(adapter)
        seen: list[tuple[Lessons, Tensor]] = []
        for group in groups:
            shared = prefix_states(self._model, group.prefix) if len(group.prefix) else []
            for rows in group.micro_batches:
                lessons = Lessons(rows)
                seen.append((lessons, nlls(self._model, lessons, shared, len(group.prefix))))
        return seen

    # answering

    def session(self, prefix: Ids, *, adapter: str | None = None) -> TorchSession:
        """Behind an adapter named at `open`; None is the student's own (see `_wear`). Sessions of several adapters may be used in turns."""
        self._require_opened(adapter)
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
        return max(largest_since() - self._before, self._weight_bytes())

    def compilations(self) -> int:
        return 0  # nothing is traced here: kernels are compiled once for each kind of shape, outside of steps' graphs

    def notes(self) -> list[str]:
        return kernels.notes()
