"""What every backend's student does with adapters, an optimizer and files; a backend adds tensors.

Several adapters are open at once, by their names, and one at a time is put on the model; None names the student's own: the one in training,
else the only one that it was opened with. It knows no tensors, no losses and no sessions.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlx_distill.backends import full
from mlx_distill.backends import lora as adapters
from mlx_distill.backends.base import BARE, LoraShape, Ranks
from mlx_distill.errors import BackendError
from mlx_distill.records import Group, LossSum, Step

Array = TypeVar("Array")
"""A backend's tensors."""
Weights = Mapping[str, NDArray[np.float32]]
Key = tuple[int, ...]


@dataclass(slots=True)
class Sums(Generic[Array]):
    """Over an effective batch: the gradient of the weighted nats, by the variables in their order; and the loss of each row."""

    gradients: list[Array]
    row_losses: dict[str, LossSum] = field(default_factory=dict)
    computed: int = 0
    """Tokens forwarded: each prefix once, each row once."""

    @property
    def total(self) -> LossSum:
        return sum(self.row_losses.values(), LossSum())


class Worn(Protocol):
    """What is trained, or was, as the student sees it: something that is put on a model, and kept in files."""

    def fill(self, weights: Weights) -> None: ...
    def put_on(self) -> None: ...
    def take_off(self) -> None: ...
    def settle(self) -> None: ...
    def save(self, folder: Path, *, base: str) -> None: ...
    def read(self, folder: Path) -> Weights: ...


class Begun(Worn, Protocol):
    """An adapter, which has first values of its own."""

    def start(self, seed: int) -> None: ...


Wear = TypeVar("Wear", bound=Worn)


class Stepping(Protocol):
    """An optimizer, whose tensors are the backend's."""

    def apply(self, gradients: Any, learning_rate: float) -> None: ...
    def save(self, folder: Path) -> None: ...
    def read(self, folder: Path) -> Any: ...
    def adopt(self, state: Any) -> None: ...


class AdapterStudent(ABC, Generic[Wear, Array]):
    """`backends.base.Student`, but for the tensors."""

    _optimizer: Stepping

    def __init__(self, base: Path, folders: Mapping[str, Path]):
        """The model is open already: adapters are made for it."""
        self._base = base
        self._worn: Wear | None = None
        self._trained: dict[str | None, Wear | None] = {name: self._open(folder, len(folders) == 1) for name, folder in folders.items()}
        self._trained[None] = next(iter(self._trained.values())) if len(self._trained) == 1 else None
        self._keeps_base = len(folders) != 1 or not full.is_full(next(iter(folders.values())))
        self._trained[BARE] = None
        self._joined: Ranks | None = None
        self._recompute, self._seed = False, 0

    # what a backend adds

    @abstractmethod
    def _adapter(self, shape: LoraShape, weights: Weights | None = None) -> Any:
        """With these values, on the modules that they are of; or without, on those that the shape chooses. It is `Begun`."""

    @abstractmethod
    def _whole(self, *, alone: bool) -> Wear:
        """All weights of the model. `alone`: nothing else will be put on it. Raises BackendError for a packed base."""

    @abstractmethod
    def _stepping(self, optimizer: str, weight_decay: float, trained: Wear) -> Stepping: ...

    @abstractmethod
    def _size(self, trained: Wear) -> int:
        """How many numbers are trained."""

    @abstractmethod
    def _normed(self, groups: Sequence[Group], step: int) -> tuple[dict[str, Array], Sums[Array], float]:
        """The gradient of sum(weight * nll) / sum(weight), what it was made of, and its norm."""

    @abstractmethod
    def _scaled(self, gradients: dict[str, Array], by: float) -> dict[str, Array]: ...

    # adapters

    def _open(self, folder: Path, alone: bool) -> Wear:
        if not full.is_full(folder):
            weights, shape = adapters.load(folder)
            opened: Wear = self._adapter(shape, weights)
            return opened
        whole = self._whole(alone=alone)
        whole.fill(whole.read(folder))
        return whole

    def _require_opened(self, adapter: str | None) -> None:
        """Raises BackendError for a name that nothing was opened under."""
        if adapter == BARE and not self._keeps_base:
            raise BackendError("all weights were trained: the base as it was is not in memory", hint="open the base by itself")
        if adapter not in self._trained:
            named = ", ".join(name for name in self._trained if name)
            raise BackendError(f"no adapter named {adapter!r} was opened", hint=f"there is {named}" if named else "open the base with it")

    def _wear(self, adapter: str | None) -> None:
        """Put on an adapter named at `open`. None: the student's own."""
        self._require_opened(adapter)
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
        initial: Weights | None,
        seed: int,
        ranks: Ranks | None = None,
        recompute: bool = False,
    ) -> int:
        trained = self._begun(shape, initial, seed)
        self._optimizer = self._stepping(optimizer, weight_decay, trained)
        self._seed, self._trained[None], self._joined, self._recompute = seed, trained, ranks, recompute
        return self._size(trained)

    def _begun(self, shape: LoraShape | None, initial: Weights | None, seed: int) -> Wear:
        if shape is None:
            self._strip()
            alone = not self._trained.keys() - {None, BARE}
            whole = self._whole(alone=alone)
            self._keeps_base = not alone
            if initial is not None:
                whole.fill(initial)
            return whole
        adapter = self._adapter(shape)
        if initial is None:
            adapter.start(seed)
        else:
            adapter.fill(initial)
        begun: Wear = adapter
        return begun

    @property
    def _own(self) -> Wear:
        """What is in training."""
        own = self._trained[None]
        assert own is not None, "prepare comes first"
        return own

    def update(self, groups: Sequence[Group], *, learning_rate: float, clip_norm: float | None, step: int) -> Step:
        gradients, sums, norm = self._normed(groups, step)
        total = sums.total
        applied = bool(np.isfinite(norm) and np.isfinite(total.nats) and total.tokens > 0)
        if applied:
            if clip_norm is not None and norm > clip_norm:
                gradients = self._scaled(gradients, clip_norm / norm)
            self._optimizer.apply(gradients, learning_rate)
        return Step(total, sums.row_losses, norm, applied, computed=sums.computed)

    def _drawn(self, key: Key) -> int:
        """64 bits, for dropout's random numbers: they follow from (seed, step, micro-batch) alone, so a resume needs no generator state."""
        digest = hashlib.sha256(repr((self._seed, *key)).encode()).digest()
        return int.from_bytes(digest[:8], "little")

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
