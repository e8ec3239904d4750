"""The checkpoint that is taught, what is trained of it, and how."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from mlx_distill.recipe.schema.setting import Problem, setting

ALL_LINEAR = ("all-linear",)
"""`lora.targets`: every projection of the base's family."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSpec:
    model: str = setting(meaning="a checkpoint: a local folder, or a hub id")
    revision: str | None = setting(None, "commit, tag or branch of the hub id")
    bits: int | None = setting(4, "bits a weight, or `none`: unquantized", choices=("2", "3", "4", "5", "6", "8", "none"))
    group_size: int = setting(64, "weights that share a scale", choices=("32", "64", "128"))
    dtype: str | None = setting(
        None, "type of what is not quantized (default: the checkpoint's)", choices=("float32", "float16", "bfloat16")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSpec:
    rank: int = setting(16, "columns of the adapter", low=1, high=1024)
    alpha: float = setting(32.0, "the adapter is scaled by alpha / rank", above=0)
    dropout: float = setting(0.0, "share of the adapter's inputs that are dropped", low=0, high=0.9)
    targets: tuple[str, ...] = setting(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "projections that are adapted, by the family's names; `all-linear`: every one that it has",
        words=ALL_LINEAR,
    )
    layers: str = setting("all", "which layers are adapted: `all`, or `last N`, those nearest to the answer")
    rslora: bool = setting(False, "scale by alpha / sqrt(rank) instead: for ranks of 64 and more")
    dora: bool = setting(False, "learn each output's magnitude beside the direction: a little better at low ranks, and slower")

    LAST: ClassVar[re.Pattern[str]] = re.compile(r"last ([1-9][0-9]*)")

    @property
    def last(self) -> int | None:
        """So many of the last layers; None: all."""
        found = self.LAST.fullmatch(self.layers)
        return int(found[1]) if found else None

    def problems(self) -> Iterator[Problem]:
        if not self.targets:
            yield "targets", "an adapter needs at least one projection", "targets: [q_proj, v_proj]"
        if len(self.targets) > 1 and set(ALL_LINEAR) & set(self.targets):
            yield "targets", "all-linear stands for every projection, and others stand beside it", "targets: all-linear"
        if self.layers != "all" and self.last is None:
            number = self.layers if self.layers.isdecimal() and int(self.layers) else 16
            yield "layers", f"must be all, or last N; got {self.layers!r}", f"layers: last {number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec:
    kind: Literal["cosine", "linear", "constant"] = setting(
        "cosine", "how the learning rate falls", choices=("cosine", "linear", "constant")
    )
    warmup: float = setting(0.1, "share of all steps spent rising", low=0, high=1)
    floor: float = setting(0.0, "the learning rate never falls below this, after the warm-up", low=0)
    cycles: int = setting(1, "cosine: how often it starts anew", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingSpec:
    patience: int = setting(3, "validations without an improvement before it stops", low=1)
    min_delta: float = setting(0.0, "an improvement is at least this: nats a token, or the unit of the metric that train.keep names", low=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    epochs: int = setting(3, "times that every row is learned", low=1)
    batch_size: int = setting(4, "rows of a micro-batch", low=1)
    accumulate: int = setting(4, "micro-batches of one step", low=1)
    learning_rate: float = setting(2e-4, "at the end of the warm-up", above=0)
    schedule: ScheduleSpec = setting(ScheduleSpec, "how the learning rate rises and falls")
    early_stopping: StoppingSpec | None = setting(None, "stop when validation improves no more")
    max_tokens: int = setting(2048, "longest row, prompt and answer; a longer text loses its middle", unit="tokens", low=16)
    seed: int = setting(0, "draws the adapter's start, the batches and the dropout", low=0)
    optimizer: str = setting(
        "adamw",
        "what turns gradients into steps; adafactor: hardly any memory of its own, for `lora: none`; lion: half of adamw's, and wants a "
        "learning rate of a fifth to a tenth of adamw's",
        choices=("adamw", "adafactor", "lion"),
    )
    weight_decay: float = setting(0.0, "a step takes learning_rate * weight_decay, a share, off each trained weight", low=0)
    clip_norm: float | None = setting(1.0, "longest gradient; `none`: as long as it is", above=0)
    validate_every: int | None = setting(None, "steps between validations (default: once an epoch)", unit="steps", low=1)
    checkpoint_every: int | None = setting(None, "steps between checkpoints (default: at every validation)", unit="steps", low=1)
    keep: str = setting(
        "valid_loss",
        "the adapter that is kept is the best by this, and early stopping judges it: valid_loss, or a metric of the task such as "
        "tier_agreement or macro_f1.FIELD, measured on the student's answers to the validation rows",
    )
    sample_every: int | None = setting(
        None, "steps between sample answers: three validation rows beside the reference (default: none)", unit="steps", low=1
    )
    max_skipped: int = setting(
        3, "steps in a row whose loss or gradient was not finite (none of them is applied), and the run stops", unit="steps", low=1
    )
    checkpoint_activations: str = setting(
        "auto",
        "layers keep their inputs alone and are forwarded again in the backward pass: a fraction of the memory, a third more time; auto: "
        "where memory asks for it",
        choices=("auto", "always", "never"),
    )
    memory_limit: float | None = setting(None, "what the backend may use (default: what the machine lends)", unit="GiB", above=0)
