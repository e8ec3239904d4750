"""Ours, as a recipe's training runs it: a Student, and one `update` for each effective batch. It knows the Backend protocol alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.device import device_of
from bench.job import LEARNING_RATE, WEIGHT_DECAY, Job, Measured
from bench.model import LORA
from bench.shapes import Batch, Row
from mlx_distill.backends import lora
from mlx_distill.backends.choose import choose
from mlx_distill.records import Group, Ids, TokenRow


def train(job: Job) -> Measured:
    backend = choose(job.backend)  # before anything imports MLX, since it brings the BLAS
    work, measured = job.work(), Measured(blas=backend.machine().blas)
    device = device_of(job.backend)
    student = backend.open(Path(job.base))
    initial, _ = lora.load(Path(job.adapter))
    student.prepare(LORA, optimizer="adamw", weight_decay=WEIGHT_DECAY, initial=initial, seed=0)
    first = student.update([group(work.prefix, work.warm_up)], learning_rate=LEARNING_RATE, clip_norm=None, step=0)
    measured.first_loss = first.loss.mean
    device.restart_peak()
    for step, batch in enumerate(work.measured, 1):
        measured.start()
        done = student.update([group(work.prefix, batch)], learning_rate=LEARNING_RATE, clip_norm=None, step=step)
        device.synchronize()
        measured.stop()
        assert done.applied, "a step that is not applied is not work"
        measured.learned += int(done.loss.tokens)
        measured.computed += done.computed
        measured.padded += done.padded
    measured.peak_memory, measured.resident = device.peak(), device.resident()
    student.save_adapter(Path(job.out))
    return measured


def group(prefix: Ids, batch: Batch) -> Group:
    return Group(prefix, [[token_row(row) for row in micro] for micro in batch])


def token_row(row: Row) -> TokenRow:
    """Every token of the answer is learned; its last is no input."""
    tokens = np.concatenate([row.article, row.answer[:-1]])
    read_at = np.arange(len(row.article) - 1, len(tokens), dtype=np.int32)
    return TokenRow(row.id, tokens, read_at, row.answer, np.ones(len(row.answer), np.float32))
