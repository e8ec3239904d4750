"""Training: ours on 4-bit and on unquantized weights against transformers + PEFT on unquantized ones, with the same rows, in one process.

Rank 16 on queries, keys, values and output, 4 x 4 rows behind a prefix of 600, articles of 200 to 900, answers of 40 to 120. PEFT at its
best (bench.peft_rival): sorted rows, no mask, flash attention or sdpa, Liger's fused loss where it is installed. Tokens are those of whole
rows, prefix included, on both sides. The limit is the exact gradient's FLOPs (bench.flops) at the card's peak. The first losses on the
same unquantized weights must agree.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench import flops
from bench.device import device_of
from bench.gpu import card as cards
from bench.gpu.asked import Asked, Row, free, tried
from bench.gpu.bases import PRESETS, TINY, Preset, fill, plain_model, write_hollow
from bench.gpu.card import Card
from bench.job import LEARNING_RATE, WEIGHT_DECAY, Measured
from bench.model import LORA, write_adapter
from bench.ours import group
from bench.results import seconds
from bench.shapes import Work, draw, parse, rows_of
from mlx_distill.backends import lora
from mlx_distill.backends.choose import choose

SHAPE, QUICK = "600/200-900/40-120 4x4", "40/20-60/4-12 2x2"
BATCHES = 3
SAME = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Relative: how far apart the first losses on the same weights may be."""


def measure(asked: Asked) -> Iterator[Row]:
    card, shape = cards.card(quick=asked.quick), QUICK if asked.quick else SHAPE
    for preset in [TINY] if asked.quick else [PRESETS[name] for name in ("7B", "1.5B", "3B")]:
        work = draw(parse(shape), 1 if asked.quick else BATCHES, preset.sizes.vocabulary)
        bench = Bench(card, preset, work, asked.folder / preset.name)
        rival: Row = {}
        for row in tried(asked, f"training {preset.name}, peft", bench.theirs):
            rival = row
            yield row
        for bits in (None, 4):
            yield from tried(asked, f"training {preset.name}, ours, {'4-bit' if bits else 'unquantized'}", bench.ours(bits, rival))


class Bench:
    """One model: who trains it, on the same rows from the same adapter."""

    def __init__(self, card: Card, preset: Preset, work: Work, folder: Path):
        self._card, self._preset, self._work, self._folder = card, preset, work, folder
        folder.mkdir(parents=True)
        write_adapter(folder / "adapter", preset.sizes)

    def theirs(self) -> Row:
        # Here, so that ours is measured where PEFT, or what its trainer asks for, is not installed.
        from peft import PeftModel

        from bench import peft_plain, peft_rival

        model = plain_model(self._preset, peft_plain.attention(), cards.device(), cards.dtype())
        adapted: Any = PeftModel.from_pretrained(model, self._folder / "adapter", is_trainable=True)
        settings, out = peft_rival.RIVALS["peft best"], self._folder / "peft"
        measured = peft_rival.learned(adapted, self._work, settings, device_of("torch"), out, self._preset.sizes.vocabulary)
        return self._row(measured) | {"attention": peft_plain.attention(), "fused_loss": peft_rival.fused()}

    def ours(self, bits: int | None, rival: Row) -> Callable[[], Row]:
        def measured() -> Row:
            row = self._row(self._learned(bits))
            if "seconds" not in rival:
                return row
            if bits is None:
                self._agree(row, rival)
            memory = row["peak_memory"] / rival["peak_memory"]
            return row | {"time_ratio": rival["seconds"] / row["seconds"], "memory_ratio": memory}

        return measured

    def _learned(self, bits: int | None) -> Measured:
        backend, measured, device = choose("torch"), Measured(), device_of("torch")
        base = self._folder / f"base{bits}"
        write_hollow(base, self._preset, bits, str(cards.dtype()).removeprefix("torch."))
        student: Any = backend.open(base)
        shutil.rmtree(base)
        fill(student._model.net)
        free()
        initial, _ = lora.load(self._folder / "adapter")
        student.prepare(LORA, optimizer="adamw", weight_decay=WEIGHT_DECAY, initial=initial, seed=0)
        for step, batch in enumerate([self._work.warm_up, *self._work.measured]):
            measured.start()
            done = student.update([group(self._work.prefix, batch)], learning_rate=LEARNING_RATE, clip_norm=None, step=step)
            device.synchronize()
            assert done.applied, "a step that is not applied is not work"
            if step:
                measured.stop()
            else:
                measured.first_loss = done.loss.mean
                device.restart_peak()
        measured.peak_memory = device.peak()
        return measured

    def _row(self, measured: Measured) -> Row:
        rows, batches = rows_of(self._work.measured), len(self._work.measured)
        tokens = sum(len(self._work.prefix) + len(row) for row in rows) / batches
        least = flops.flops(self._preset.sizes, flops.ours(len(self._work.prefix), rows, batches)) / batches
        took = seconds({"wall": measured.wall}, "wall")
        return {
            "seconds": took,
            "tokens_per_second": tokens / took,
            "peak_memory": measured.peak_memory,
            "first_loss": measured.first_loss,
            "limit_flops": least,
            "share_of_limit": least / self._card.peak_flops / took,
            "share_of_measured_matmul": least / self._card.flops / took,
        }

    @staticmethod
    def _agree(row: Row, rival: Row) -> None:
        apart = abs(row["first_loss"] - rival["first_loss"]) / abs(rival["first_loss"])
        if not apart <= SAME[cards.dtype()]:
            raise ValueError(f"a first loss of {row['first_loss']:.4f} against peft's {rival['first_loss']:.4f}: not the same work")
