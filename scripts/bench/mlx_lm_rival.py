"""mlx-lm's trainer, as its documentation shows it and at its best for this work. Both run `mlx_lm.tuner.trainer.train` itself.

default   mlx-lm's dataset class and its own batches over rows in the order of the file, prompts masked. (Its sort by length is a no-op on
          this dataset: it compares how many keys the rows have.) Where --quick shortens the rows, the 32 that its batches are padded to
          is shortened as well, which mlx-lm itself cannot: so that padding keeps its share.
best      the same trainer, model, compiled step and loss, with what its interface lets a user choose: rows sorted beforehand, so that
          micro-batches hold rows of like length; a batch as wide as its longest row instead of the next multiple of 32 (`iterate_batches`);
          freed buffers kept between steps (`clear_cache_threshold`, which its command never passes on); no gradient checkpointing.

Both get the BLAS, the adapter's shape and first values, the optimizer, and the effective batch that ours gets; `max_seq_length` is such
that no answer is cut. Rows are tokenized beforehand. The clock runs from the moment the trainer asks for the first micro-batch of an
effective batch to its report of it, by when it has evaluated everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mlx_distill.backends.choose import choose

BACKEND = choose("mlx")  # before MLX is imported, since it brings the BLAS

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
import mlx.optimizers as optim  # noqa: E402
import numpy as np  # noqa: E402
from mlx_lm.tuner import trainer  # noqa: E402
from mlx_lm.tuner.callbacks import TrainingCallback  # noqa: E402
from mlx_lm.tuner.datasets import CacheDataset, CompletionsDataset  # noqa: E402

from bench import plain  # noqa: E402
from bench.job import LEARNING_RATE, WEIGHT_DECAY, Job, Measured  # noqa: E402
from bench.shapes import Batch, Work, rows_of, unsorted  # noqa: E402
from mlx_distill.memory import largest_bytes  # noqa: E402
from mlx_distill.records import Ids  # noqa: E402

MULTIPLE = 32
"""What mlx-lm's `iterate_batches` pads to."""
UNCUT = 1 << 20
"""A length that no row has."""


@dataclass(frozen=True, slots=True)
class Settings:
    sorted: bool
    tight: bool
    """A batch is as wide as its longest row; otherwise a multiple of 32 and one, as mlx-lm pads."""
    keep_cache: bool


RIVALS: Mapping[str, Settings] = {
    "mlx-lm default": Settings(sorted=False, tight=False, keep_cache=False),
    "mlx-lm best": Settings(sorted=True, tight=True, keep_cache=True),
}


class Tokenized(CompletionsDataset):  # type: ignore[misc]
    """Completions with their prompts masked, tokenized beforehand."""

    def __init__(self, rows: Sequence[dict[str, Ids]]):
        self._data = rows

    def process(self, row: dict[str, Ids]) -> tuple[list[int], int]:
        return [*row["prompt"].tolist(), *row["completion"].tolist()], len(row["prompt"])


def dataset(prefix: Ids, batch: Batch) -> CacheDataset:
    return CacheDataset(
        Tokenized([{"prompt": np.concatenate([prefix, row.article]), "completion": row.answer} for row in rows_of([batch])])
    )


def batches(dataset: CacheDataset, batch_size: int, multiple: int | None = None) -> Iterator[tuple[mx.array, mx.array]]:
    """What `iterate_batches` yields, in the dataset's order: as wide as the longest row, or the next `multiple` and one."""
    for at in range(0, len(dataset), batch_size):
        rows = [dataset[i] for i in range(at, at + batch_size)]
        longest = max(len(row) for row, _ in rows)
        tokens = np.zeros((batch_size, longest if multiple is None else 1 - (-longest // multiple) * multiple), np.int32)
        for i, (row, _) in enumerate(rows):
            tokens[i, : len(row)] = row
        yield mx.array(tokens), mx.array([(offset, len(row)) for row, offset in rows])


Cut = Callable[[CacheDataset, int], Iterator[tuple[mx.array, mx.array]]]


def cut_of(settings: Settings, multiple: int) -> Cut:
    """How a dataset is cut into batches; mlx-lm's own function where it can do what is wanted."""
    if settings.tight:
        return batches
    if multiple != MULTIPLE:
        return partial(batches, multiple=multiple)
    return partial(trainer.iterate_batches, max_seq_length=UNCUT)


class Clock(TrainingCallback):  # type: ignore[misc]
    """Hands the trainer its batches and hears its reports: between the two lies the work."""

    def __init__(self, parts: Sequence[CacheDataset], cut: Cut, measured: Measured):
        self.parts, self._cut, self._measured = parts, cut, measured
        self._reports = 0

    def batches(self, dataset: CacheDataset, batch_size: int, **_: Any) -> Iterator[tuple[mx.array, mx.array]]:
        """Stands for `iterate_batches`; each part is an effective batch, the first the warm-up."""
        for part in self.parts:
            self._measured.start()
            for tokens, spans in self._cut(part, batch_size):
                if part is not self.parts[0]:
                    self._count(tokens, spans)
                yield tokens, spans

    def _count(self, tokens: mx.array, spans: mx.array) -> None:
        rows, width = tokens.shape
        self._measured.computed += rows * (width - 1)
        self._measured.padded += rows * width - int(np.asarray(spans)[:, 1].sum())

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self._reports += 1
        if self._reports == 1:
            mx.reset_peak_memory()
            self._learned = int(train_info["trained_tokens"])
        else:
            self._measured.stop()
            self._measured.learned = int(train_info["trained_tokens"]) - self._learned


def train(job: Job, settings: Settings) -> Measured:
    work, measured = job.work(), Measured(blas=BACKEND.machine().blas)
    model = plain.adapted(Path(job.base), Path(job.adapter))
    clock = Clock(_parts(work, settings), cut_of(settings, job.multiple), measured)
    measured.first_loss = exact_loss(model, work)
    micro, accumulate = len(work.warm_up[0]), len(work.warm_up)
    args = trainer.TrainingArgs(
        batch_size=micro,
        iters=accumulate * (1 + len(work.measured)),
        steps_per_report=accumulate,
        steps_per_save=1 << 30,
        max_seq_length=UNCUT,
        adapter_file=Path(job.out) / "mlx_lm.safetensors",
        grad_accumulation_steps=accumulate,
        clear_cache_threshold=1 << 62 if settings.keep_cache else 0,
    )
    optimizer = optim.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY, bias_correction=True)
    trainer.train(model, optimizer, clock.parts[0], args=args, iterate_batches=clock.batches, training_callback=clock)
    measured.peak_memory, measured.resident = int(mx.get_peak_memory()), largest_bytes()
    plain.save(model, Path(job.out))
    return measured


def _parts(work: Work, settings: Settings) -> list[CacheDataset]:
    """One dataset for each effective batch."""
    warm_up = [work.warm_up] if settings.sorted else unsorted([work.warm_up])
    measured = work.measured if settings.sorted else unsorted(work.measured)
    return [dataset(work.prefix, batch) for batch in [*warm_up, *measured]]


def exact_loss(model: nn.Module, work: Work) -> float:
    """Nats a learned token of the warm-up's rows: no pad token, no mean of means, so that it can be compared."""
    nats, count = 0.0, 0
    for micro in work.warm_up:
        for tokens, spans in batches(dataset(work.prefix, [micro]), len(micro)):
            each = nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
            at = mx.arange(1, tokens.shape[1])[None]
            mask = (at >= spans[:, :1]) & (at < spans[:, 1:])
            nats += float(np.asarray((each * mask).sum()))
            count += int(np.asarray(mask.sum()))
    return nats / count
