"""A Base with adapters, opened by MLX: it learns (one effective batch at a time), it measures losses, it opens sessions.

It knows no schedule, no files but its own state, no prompts and no grammar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from numpy.typing import NDArray

from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import LoraShape
from mlx_distill.backends.mlx import lora
from mlx_distill.backends.mlx.loss import Batch, nlls
from mlx_distill.backends.mlx.model import Head, open_model
from mlx_distill.backends.mlx.prefix import KeysValues, prefix_keys_values
from mlx_distill.backends.mlx.session import MlxSession
from mlx_distill.errors import BackendError, CheckpointError
from mlx_distill.files import write_bytes
from mlx_distill.records import Group, Ids, LossSum, Step

Gradients = list[mx.array]


class MlxStudent:
    def __init__(self, base: Path, folders: Mapping[str, Path], *, cast: str | None):
        self._base = base
        self._model = open_model(base, cast)
        self._head = Head(self._model)
        self.vocabulary = self._head.vocabulary
        self._adapters = {name: adapters.load(folder) for name, folder in folders.items()}
        self._worn: str | None = None
        self._shape: LoraShape | None = None

    # learning

    def prepare(
        self,
        shape: LoraShape,
        *,
        optimizer: str,
        weight_decay: float,
        initial: Mapping[str, NDArray[np.float32]] | None,
        seed: int,
    ) -> int:
        if optimizer != "adamw":
            raise BackendError(f"no optimizer named {optimizer!r}", hint="there is adamw")
        lora.detach(self._model)
        modules = lora.attach(self._model, shape)
        lora.fill(self._model, initial if initial is not None else adapters.initial(modules, shape.rank, seed))
        self._shape, self._seed, self._worn = shape, seed, None
        self._optimizer = optim.AdamW(0.0, weight_decay=weight_decay, bias_correction=True)
        values = lora.parameters(self._model)
        self._optimizer.init(tree_unflatten(list(values.items())))
        mx.eval(list(values.values()))
        return sum(value.size for value in values.values())

    def update(self, groups: Sequence[Group], *, learning_rate: float, clip_norm: float | None, step: int) -> Step:
        values = lora.parameters(self._model)
        names, flat = list(values), list(values.values())
        self._model.train()
        try:
            total, row_losses = self._gradients(groups, names, flat, step)
        finally:
            self._model.eval()
            self._set(names, flat)
        loss = sum(row_losses.values(), LossSum())
        gradients = [gradient / max(loss.tokens, 1e-12) for gradient in total]
        norm = float(mx.sqrt(mx.stack([mx.sum(mx.square(gradient)) for gradient in gradients]).sum()).item())  # type: ignore[arg-type]
        applied = bool(np.isfinite(norm) and np.isfinite(loss.nats) and loss.tokens > 0)
        if applied:
            if clip_norm is not None and norm > clip_norm:
                gradients = [gradient * (clip_norm / norm) for gradient in gradients]
            self._apply(names, flat, gradients, learning_rate)
        return Step(loss, row_losses, norm, applied)

    def _gradients(self, groups: Sequence[Group], names: list[str], flat: Gradients, step: int) -> tuple[Gradients, dict[str, LossSum]]:
        """The gradient of the weighted sum of nats over all rows; see backends.mlx.prefix for why it is exact."""
        total = [mx.zeros_like(value) for value in flat]
        row_losses: dict[str, LossSum] = {}
        for g, group in enumerate(groups):
            shared: KeysValues = []
            cotangents: KeysValues = []
            if len(group.prefix):
                shared = self._prefix(group.prefix, names, (step, g), *flat)
                mx.eval(shared)
            for m, rows in enumerate(group.micro_batches):
                batch = Batch(rows)
                loss = partial(self._loss, names, batch, (step, g, m))
                (_, each), (own, of_shared) = mx.value_and_grad(loss, argnums=(0, 1))(flat, shared)
                total = [a + b for a, b in zip(total, own, strict=True)]
                cotangents = [a + b for a, b in zip(cotangents, of_shared, strict=True)] if cotangents else of_shared
                mx.eval(each, total, cotangents)
                row_losses |= batch.row_losses(each)
            if shared:
                _, pulled = mx.vjp(partial(self._prefix, group.prefix, names, (step, g)), flat, cotangents)
                total = [a + b for a, b in zip(total, pulled, strict=True)]
                mx.eval(total)
        return total, row_losses

    def _prefix(self, prefix: Ids, names: list[str], key: tuple[int, ...], *flat: mx.array) -> KeysValues:
        self._set(names, list(flat))
        self._draw(key)  # forwarded twice, once for its values and once for its gradient: the same dropout both times
        return prefix_keys_values(self._model, prefix)

    def _loss(self, names: list[str], batch: Batch, key: tuple[int, ...], flat: Gradients, shared: KeysValues) -> tuple[mx.array, mx.array]:
        self._set(names, flat)
        self._draw(key)
        each = nlls(self._model, self._head, batch, shared or None)
        return mx.sum(each * mx.array(batch.weight)), each

    def _draw(self, key: tuple[int, ...]) -> None:
        """Dropout's random numbers follow from (seed, step, micro-batch) alone, so that a resume needs no generator state."""
        digest = hashlib.sha256(repr((self._seed, *key)).encode()).digest()
        mx.random.seed(int.from_bytes(digest[:8], "little"))

    def _set(self, names: list[str], values: Sequence[mx.array]) -> None:
        self._model.update(tree_unflatten(list(zip(names, values, strict=True))))

    def _apply(self, names: list[str], flat: Gradients, gradients: Gradients, learning_rate: float) -> None:
        self._optimizer.learning_rate = learning_rate
        tree = tree_unflatten(list(zip(names, gradients, strict=True)))
        updated = self._optimizer.apply_gradients(tree, tree_unflatten(list(zip(names, flat, strict=True))))
        self._model.update(updated)
        mx.eval(updated, self._optimizer.state)

    def loss(self, groups: Sequence[Group]) -> dict[str, LossSum]:
        row_losses: dict[str, LossSum] = {}
        for group in groups:
            shared = prefix_keys_values(self._model, group.prefix) if len(group.prefix) else None
            for rows in group.micro_batches:
                batch = Batch(rows)
                each = nlls(self._model, self._head, batch, shared)
                mx.eval(each)
                row_losses |= batch.row_losses(each)
        return row_losses

    # state

    def save_adapter(self, folder: Path) -> None:
        assert self._shape is not None, "prepare comes first"
        adapters.save(folder, self._weights(), self._shape, base=self._base.name)

    def save_state(self, folder: Path) -> None:
        from safetensors.numpy import save

        self.save_adapter(folder)
        state = {f"{lora.peft_name(path)}.{moment}": np.ascontiguousarray(np.asarray(value).T) for path, moment, value in self._moments()}
        state["step"] = np.asarray(self._optimizer.state["step"]).astype(np.int64)
        write_bytes(folder / "optimizer.safetensors", save(state))

    def load_state(self, folder: Path) -> None:
        from safetensors.numpy import load_file

        weights, shape = adapters.load(folder)
        if shape != self._shape:
            raise CheckpointError(f"the checkpoint's adapter is {shape}, the recipe's {self._shape}", file=folder)
        lora.fill(self._model, weights)
        try:
            state = load_file(folder / "optimizer.safetensors")
        except Exception as error:
            raise CheckpointError(f"the optimizer's state cannot be read: {error}", file=folder) from None
        flat = [
            (f"{path}.{moment}", mx.array(np.ascontiguousarray(state[f"{lora.peft_name(path)}.{moment}"].T)))
            for path, moment, _ in self._moments()
        ]
        step = mx.array(int(state["step"]), self._optimizer.state["step"].dtype)
        self._optimizer.state = {**self._optimizer.state, **tree_unflatten(flat), "step": step}
        mx.eval(self._optimizer.state)

    def _weights(self) -> adapters.Weights:
        return {lora.peft_name(path): np.ascontiguousarray(np.asarray(value).T) for path, value in lora.parameters(self._model).items()}

    def _moments(self) -> list[tuple[str, str, mx.array]]:
        """(parameter, m or v, value)"""
        state: dict[str, Any] = {key: value for key, value in self._optimizer.state.items() if key not in ("step", "learning_rate")}
        return [(path.rpartition(".")[0], path.rpartition(".")[2], value) for path, value in tree_flatten(state)]

    # answering

    def session(self, prefix: Ids, *, adapter: str | None = None, token_budget: int | None = None) -> MlxSession:
        """Behind an adapter named at `open`; None is the one in training, or the bare base where there is none."""
        if adapter is not None:
            self._wear(adapter)
        return MlxSession(self._model, self._head, prefix, token_budget)

    def _wear(self, adapter: str) -> None:
        if adapter == self._worn:
            return
        weights, shape = self._adapters[adapter]
        lora.detach(self._model)
        lora.attach(self._model, shape)
        lora.fill(self._model, weights)
        mx.eval(self._model.parameters())
        self._worn = adapter

    def peak_memory(self) -> int:
        return int(mx.get_peak_memory())
