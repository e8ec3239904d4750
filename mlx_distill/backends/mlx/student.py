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
OPTIMIZER = "optimizer.safetensors"


class MlxStudent:
    def __init__(self, base: Path, folders: Mapping[str, Path], *, cast: str | None, unpack: bool = False):
        self._base = base
        self._model = open_model(base, cast, unpack=unpack)
        self._head = Head(self._model)
        self.vocabulary = self._head.vocabulary
        self._bare = lora.linears(self._model)
        self._layers: dict[str | None, lora.Layers] = {name: self._open(folder) for name, folder in folders.items()}
        self._layers[None] = next(iter(self._layers.values())) if len(self._layers) == 1 else {}
        self._worn: lora.Layers = {}
        self._shape: LoraShape | None = None

    def _open(self, folder: Path) -> lora.Layers:
        weights, shape = adapters.load(folder)
        layers = lora.adapt(self._bare, shape)
        lora.fill(layers, weights)
        return layers

    def _wear(self, adapter: str | None) -> None:
        """Put on an adapter named at `open`. None: the student's own, the one in training, else the only one that it was opened with."""
        if adapter not in self._layers:
            named = ", ".join(name for name in self._layers if name is not None)
            raise BackendError(f"no adapter named {adapter!r} was opened", hint=f"there is {named}" if named else "open the base with it")
        if (layers := self._layers[adapter]) is not self._worn:
            lora.wear(self._model, self._bare, layers)
            self._model.eval()  # a layer is born in training mode, in which it would drop some of its input
            self._worn = layers

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
        layers = lora.adapt(self._bare, shape)
        fans = {path: lora.fans(self._bare[path]) for path in layers}
        lora.fill(layers, initial if initial is not None else adapters.initial(fans, shape.rank, seed))
        self._shape, self._seed, self._layers[None] = shape, seed, layers
        values = lora.parameters(layers)
        self._optimizer = optim.AdamW(0.0, weight_decay=weight_decay, bias_correction=True)
        self._optimizer.init(values)
        return sum(value.size for value in values.values())

    def update(self, groups: Sequence[Group], *, learning_rate: float, clip_norm: float | None, step: int) -> Step:
        gradients, row_losses = self.gradient(groups, step)
        loss = sum(row_losses.values(), LossSum())
        norm = float(mx.sqrt(mx.stack([mx.sum(mx.square(gradient)) for gradient in gradients.values()]).sum()).item())  # type: ignore[arg-type]
        applied = bool(np.isfinite(norm) and np.isfinite(loss.nats) and loss.tokens > 0)
        if applied:
            if clip_norm is not None and norm > clip_norm:
                gradients = {path: gradient * (clip_norm / norm) for path, gradient in gradients.items()}
            self._apply(gradients, learning_rate)
        return Step(loss, row_losses, norm, applied)

    def gradient(self, groups: Sequence[Group], step: int) -> tuple[dict[str, mx.array], dict[str, LossSum]]:
        """Of sum(weight * nll) / sum(weight), by MLX's paths, with the dropout of that step; and the loss of each row."""
        self._wear(None)
        values = self._trainable()
        names, flat = list(values), list(values.values())
        self._model.train()
        try:
            total, row_losses = self._sums(groups, names, flat, step)
        finally:
            self._model.eval()
            self._set(names, flat)
        weight = max(sum(row_losses.values(), LossSum()).tokens, 1e-12)
        return {name: gradient / weight for name, gradient in zip(names, total, strict=True)}, row_losses

    def _trainable(self) -> dict[str, mx.array]:
        return lora.parameters(self._layers[None])

    def _sums(self, groups: Sequence[Group], names: list[str], flat: Gradients, step: int) -> tuple[Gradients, dict[str, LossSum]]:
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
        lora.assign(self._layers[None], dict(zip(names, values, strict=True)))

    def _apply(self, gradients: Mapping[str, mx.array], learning_rate: float) -> None:
        self._optimizer.learning_rate = learning_rate
        updated = self._optimizer.apply_gradients(gradients, self._trainable())
        mx.eval(updated, self._optimizer.state)
        lora.assign(self._layers[None], updated)

    def loss(self, groups: Sequence[Group]) -> dict[str, LossSum]:
        self._wear(None)
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
        state = {name: np.ascontiguousarray(np.asarray(self._optimizer.state[path][moment]).T) for name, path, moment in self._moments()}
        state["step"] = np.asarray(self._optimizer.state["step"]).astype(np.int64)
        write_bytes(folder / OPTIMIZER, save(state))

    def load_state(self, folder: Path) -> None:
        assert self._shape is not None, "prepare comes first"
        weights, shape = adapters.load(folder)
        if not adapters.same(shape, self._shape):
            raise CheckpointError(f"the checkpoint's adapter is {shape}, the recipe's {self._shape}", file=folder)
        state = self._load_optimizer(folder / OPTIMIZER)
        lora.fill(self._layers[None], weights)
        self._optimizer.state = state
        mx.eval(state)

    def _load_optimizer(self, file: Path) -> dict[str, Any]:
        """The optimizer's state as `save_state` wrote it. Raises CheckpointError where it is damaged, or another adapter's."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        current = self._optimizer.state
        state: dict[str, Any] = {**current, **{path: {} for path in self._trainable()}}
        try:
            saved = load_file(file)
            for name, path, moment in self._moments():
                value = mx.array(np.ascontiguousarray(saved[name].T))
                if value.shape != current[path][moment].shape:
                    raise ValueError(f"{name} is {saved[name].shape}")
                state[path][moment] = value
            state["step"] = mx.array(int(saved["step"]), current["step"].dtype)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"the optimizer's state cannot be read: {error}", file=file) from None
        except KeyError as error:
            raise CheckpointError(f"the optimizer's state lacks {error.args[0]}", file=file) from None
        return state

    def _weights(self) -> adapters.Weights:
        own = self._trainable()
        return {lora.peft_name(path): np.ascontiguousarray(np.asarray(value).T) for path, value in own.items()}

    def _moments(self) -> list[tuple[str, str, str]]:
        """Of AdamW's running means: (name in the file, parameter, m or v)."""
        return [(f"{lora.peft_name(path)}.{moment}", path, moment) for path in self._trainable() for moment in ("m", "v")]

    # answering

    def session(self, prefix: Ids, *, adapter: str | None = None, token_budget: int | None = None) -> MlxSession:
        """Behind an adapter named at `open`; None is the student's own (see `_wear`). Sessions of several adapters may be used in turns."""
        return MlxSession(self._model, self._head, prefix, token_budget, wear=partial(self._wear, adapter))

    def peak_memory(self) -> int:
        return int(mx.get_peak_memory())
