"""What a backend must do. It owns tensors and nothing else: no schedule, no files but its own state, no prompts, no grammar.

NumPy crosses this boundary, tensors never do. `B` rows, `n` tokens, `k` positions, `V` rows of the head.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mlx_distill.models.estimates import Device
from mlx_distill.records import Group, Ids, LossSum, Step
from mlx_distill.records import RawTensor as RawTensor

Logs = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LoraShape:
    """Which projections get an adapter, of what size and kind."""

    rank: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]
    """The last parts of their names, such as q_proj."""
    layers: int | None = None
    """So many of the last layers; None: all."""
    rslora: bool = False
    dora: bool = False

    @property
    def scale(self) -> float:
        """What multiplies B A: alpha / rank, or alpha / sqrt(rank) (Kalajdzievski, "A rank stabilization scaling factor", 2023)."""
        return float(self.alpha / (self.rank**0.5 if self.rslora else self.rank))


@dataclass(frozen=True, slots=True)
class Machine:
    """`memory` is what a process may use, in bytes. `blas` and `note` say in words what a user should know about speed."""

    backend: str
    device: str
    memory: int
    compute_dtype: str
    working: Device
    """How computing takes memory there."""
    blas: str | None = None
    note: str | None = None


class Ranks(Protocol):
    """The processes that train together, each with the same program and the same batches; 0 leads.

    Each method is called by every rank, in the same order. Raises BackendError where another rank has ended.
    """

    rank: int
    size: int

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        ...

    def told(self, message: bytes | None) -> bytes:
        """What rank 0 says: the others give None."""
        ...


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much may be answered at once: what the memory limit leaves, and no more than makes it faster."""

    forward: int
    """Tokens of one forward."""
    held: int
    """Tokens, of all rows together, whose keys and values are kept."""


BARE = ""
"""Instead of an adapter's name: the base as it was."""


class Session(Protocol):
    """Rows being answered after one shared prefix. A row's handle is an int that is never used twice.

    A row's answers are its own: neighbours, batch and order change what is computed by rounding alone.
    """

    def admit(self, rows: Sequence[Ids], *, read_at: Sequence[Sequence[int]] | None = None) -> list[int]:
        """New rows, handles in the same order; as `extend` for those that bring tokens (each (n,)). One of none is forwarded later."""
        ...

    def extend(
        self,
        tokens: Mapping[int, Sequence[int] | Ids],
        *,
        asides: Mapping[int, Sequence[Sequence[int] | Ids]] | None = None,
        read_at: Mapping[int, Sequence[int]] | None = None,
        ending: Collection[int] = (),
    ) -> None:
        """Append tokens to rows, each its own number, in one forward: whole prompts, pieces of them, answers, all together.

        `asides`: branches that leave a row where it stood before these tokens. They are read like tokens, and forgotten.
        `read_at`: the positions that will be read, counted in a row's tokens and asides one after another; for rows not named, the last
        token and the end of each aside. `ending`: rows that will not go on, of which nothing is kept but what is read.
        """
        ...

    def fork(self, row: int, number: int) -> list[int]:
        """As many rows that stand where this one does and share what it has; the row itself is gone. Once in a row's life."""
        ...

    def choose(
        self, allowed: Mapping[int, NDArray[np.uint32]], *, temperature: float = 0.0, seed: int | Mapping[int, int] = 0
    ) -> tuple[dict[int, int], dict[int, float]]:
        """The next token of each row, and its log probability among those allowed (at temperature 1).

        `seed`: of each row; one number stands for another in each row.

        `allowed`: a bit mask over the vocabulary, (ceil(V / 32),), least significant bit first. Temperature 0 is greedy, the lowest
        id where two tie. The selection happens on the device: (B, V) never crosses to NumPy. Where few are allowed, only their rows
        of the head are computed.
        """
        ...

    def read(self, positions: Mapping[int, Sequence[int]], allowed: Mapping[int, Sequence[Ids]]) -> dict[int, list[Logs]]:
        """Log probabilities over `allowed[row][i]` (they sum to 1 there) after the token at `positions[row][i]`.

        Positions are among those of the row's last `admit` or `extend` that may be read; negative ones count from the end of its tokens,
        asides apart. Only the rows of the head that are allowed are computed.
        """
        ...

    def score(self, rows: Sequence[int], continuations: Sequence[Sequence[int]], allowed: Sequence[Ids]) -> list[Logs]:
        """What `read` would say at the end of `continuations[i]` (>= 1 tokens) behind `rows[i]`.

        Nothing is appended, and a row may stand there often.
        """
        ...

    def drop(self, rows: Collection[int]) -> None:
        """Free the rows' memory."""
        ...


class Student(Protocol):
    """A base, with or without adapters, on a device."""

    vocabulary: int
    """Rows of the head, V."""

    def prepare(
        self,
        lora: LoraShape | None,
        *,
        optimizer: str,
        weight_decay: float,
        initial: Mapping[str, NDArray[np.float32]] | None,
        seed: int,
        ranks: Ranks | None = None,
        recompute: bool = False,
    ) -> int:
        """Add a trainable adapter and its optimizer; `lora` None trains all weights of the base. The number of trainable parameters.

        `initial` are weights under PEFT's names (the checkpoint's, where all are trained). None draws A from NumPy's generator seeded
        with `seed`, B is 0, and a magnitude is that of the base; all weights start as the base's. The same seed draws the dropout,
        keyed by (seed, step, micro-batch). With `ranks`, `update` and `loss` share the rows among them, and all get what one alone
        would. `recompute`: layers keep their inputs alone and are forwarded again in the backward pass. Raises BackendError where the
        base cannot be trained so.
        """
        ...

    def update(self, groups: Sequence[Group], *, learning_rate: float, clip_norm: float | None, step: int) -> Step:
        """One effective batch: the gradient of sum(weight * nll) / sum(weight) over all micro-batches of all groups, clipped, applied once.

        Not applied where loss or gradient is not finite.
        """
        ...

    def loss(self, groups: Sequence[Group], *, adapter: str | None = None) -> dict[str, LossSum]:
        """The loss of each row, by its id, without dropout. `adapter`: as of a session."""
        ...

    def nlls(self, groups: Sequence[Group]) -> dict[str, NDArray[np.float32]]:
        """Nats of each target of each row, (k,) unweighted, by the row's id, without dropout. In one process alone."""
        ...

    def save_state(self, folder: Path) -> None:
        """Adapter and optimizer state, exact, as safetensors under PEFT's names."""
        ...

    def load_state(self, folder: Path) -> None: ...

    def save_adapter(self, folder: Path) -> None:
        """`adapter_config.json` and `adapter_model.safetensors` as PEFT reads them, each written atomically."""
        ...

    def session(self, prefix: Ids, *, adapter: str | None = None) -> Session:
        """Answer rows behind a prefix (which may be empty). `adapter`: a name that it was opened with; None: its own, that in training
        or the only one; BARE: the base without any. Raises BackendError for a name that is not open, and for the base of a student all
        of whose weights were trained.
        """
        ...

    def capacity(self) -> Capacity:
        """What answering may take, beside the weights, within the memory limit."""
        ...

    def peak_memory(self) -> int:
        """Bytes, since the student was opened."""
        ...

    def compilations(self) -> int:
        """How often a step's graph was traced and compiled, since the student was opened."""
        ...

    def notes(self) -> list[str]:
        """What a user should know of how it computed so far: kernels that were wrong or did not run here, and what took their place."""
        ...


class Backend(Protocol):
    def machine(self) -> Machine: ...

    def open(self, base: Path, *, adapters: Mapping[str, Path] | None = None, memory_limit: int | None = None) -> Student:
        """A converted base, each adapter (PEFT's format) under a name. Raises CheckpointError, BackendError."""
        ...

    def weight_bytes(self, base: Path, *, memory_limit: int | None = None) -> int:
        """What the base's weights will take in memory once it is opened."""
        ...

    def join(self, environment: Mapping[str, str]) -> Ranks | None:
        """Meet the processes that a launcher started together with this one. None where there are none. Raises BackendError."""
        ...

    def quantize(self, shard: Mapping[str, RawTensor], *, bits: int | None, group_size: int, dtype: str | None) -> dict[str, RawTensor]:
        """Cast floating tensors to `dtype` (None: leave them), then pack those that the caller has chosen, as MLX does.

        bits None: cast alone. A packed `X.weight` becomes `X.weight` (U32), `X.scales`, `X.biases`. The caller passes to one call
        only tensors to be treated alike. The bytes are the same of every backend, on every machine: those of MLX on a CPU. Raises
        CheckpointError, naming the tensor, where a weight (once cast) or a scale is infinite or NaN.
        """
        ...
