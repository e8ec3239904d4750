"""Answering: articles an hour in both modes, by the engine as `infer` runs it, over rows of 200 to 900 tokens behind a prefix of 600.

The tokenizer is the quickstart's, behind a head of the real size. The limit is the FLOPs of every token once at the card's peak; for json,
which also waits for memory, reading the weights once in each forward comes on top.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import flops, questions
from bench.flops import Tokens, text
from bench.gpu import card as cards
from bench.gpu.asked import Asked, Row, free, tried
from bench.gpu.bases import PRESETS, TINY, Preset, fill, write_hollow
from bench.gpu.card import Card
from bench.questions import Questions
from bench.shapes import parse
from mlx_distill.backends.choose import choose
from mlx_distill.inference.engine import Engine
from mlx_distill.records import Prediction
from mlx_distill.task.prompt import load_tokenizer

SHAPE, QUICK = "600/200-900/80 1024x1", "40/12-40/64 4x1"
ROWS = {"slots": 1024, "json": 256}
WARM_ROWS = 8
ASKED = {("1.5B", "slots"): 400_000, ("7B", "slots"): 150_000}
"""Rows an hour, at least, on a card of the H200's class."""


def measure(asked: Asked) -> Iterator[Row]:
    card = cards.card(quick=asked.quick)
    drawn = questions.draw(parse(QUICK if asked.quick else SHAPE), load_tokenizer(questions.QUICKSTART / "base"))
    for preset, bits in [(TINY, 4)] if asked.quick else [(PRESETS[name], bits) for bits in (4, None) for name in ("1.5B", "7B")]:
        name = f"answering {preset.name}, {'4-bit' if bits else 'unquantized'}"
        opened: list[Any] = []

        def student(preset: Preset = preset, bits: int | None = bits, opened: list[Any] = opened) -> Any:
            if not opened:
                opened.append(_student(asked.folder / f"{preset.name}-{bits}", preset, bits))
            return opened[0]

        for mode in ("slots", "json"):
            yield from tried(asked, f"{name}, {mode}", _measure(card, preset, drawn, mode, student))
        opened.clear()
        free()


def _student(base: Path, preset: Preset, bits: int | None) -> Any:
    write_hollow(base, preset, bits, str(cards.dtype()).removeprefix("torch."))
    student: Any = choose("torch").open(base)
    shutil.rmtree(base)
    fill(student._model.net)
    return student


def _measure(card: Card, preset: Preset, drawn: Questions, mode: str, student: Callable[[], Any]) -> Callable[[], Row]:
    def measured() -> Row:
        opened, tokenizer = student(), load_tokenizer(questions.QUICKSTART / "base")
        examples = list(drawn.examples[: ROWS[mode]])

        def engine() -> Engine:
            return Engine(opened, drawn.task, tokenizer, answer=mode, max_tokens=drawn.most)

        list(engine().stream(examples[:WARM_ROWS]))
        free()
        one, began = engine(), time.perf_counter()
        answers = list(one.stream(examples))
        cards.synchronize()
        took = time.perf_counter() - began
        assert all(isinstance(answer, Prediction) for answer in answers), "a row was rejected"
        valid = sum(questions.valid(json.dumps(answer.answer), drawn.task.fields) for answer in answers if isinstance(answer, Prediction))
        weights = sum(value.nbytes for value in [*opened._model.net.parameters(), *opened._model.net.buffers()])
        least = _least(card, preset, drawn, mode, len(examples), weights * one.counts.forwards)
        return {
            "rows": len(examples),
            "seconds": took,
            "rows_per_hour": 3600 * len(examples) / took,
            "valid": valid / len(examples),
            "passes": one.counts.forwards,
            "peak_memory": opened.peak_memory(),
            **least,
            "share_of_limit": least["limit_seconds"] / took,
            "asked": ASKED.get((preset.name, mode)),
        }

    return measured


def _least(card: Card, preset: Preset, drawn: Questions, mode: str, rows: int, read: float) -> Row:
    """FLOPs, bytes and seconds at least. `read`: bytes of the weights, once for each forward."""
    length = drawn.answer if mode == "json" else len(drawn.task.fields)
    each = [text(len(article) + length, behind=len(drawn.prefix)) for article in drawn.articles[:rows]]
    linear, _, attention = flops.parts(preset.sizes, sum([text(len(drawn.prefix)), *each], Tokens(0, 0, 0)))
    waiting = read / card.peak_bandwidth if mode == "json" else 0.0
    return {"limit_flops": linear + attention, "read_bytes": read, "limit_seconds": (linear + attention) / card.peak_flops + waiting}
