"""TensorBoard: event files in the Run's folder, written and read back by the `tensorboard` package alone (no TensorFlow, no PyTorch)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_distill.observe.trackers import Card, Point

LIBRARY = "tensorboard"
WAY_OUT = "it writes to the folder tensorboard in the Run"


def open(card: Card) -> TensorBoard:
    return TensorBoard(card)


class TensorBoard:
    def __init__(self, card: Card) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = card.folder / "tensorboard"
        self.known_as = folder.name
        self.place = f"tensorboard --logdir {card.folder.parent}"
        self._last = _last_steps(folder)
        self._writer: Any = EventFileWriter(str(folder))
        if card.known_as is None:
            self._add_text("recipe", json.dumps(card.recipe, indent=2, ensure_ascii=False, default=str))

    def last(self, part: str) -> int:
        return self._last.get(part, -1)

    def log(self, points: Sequence[Point]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for point in points:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in point.figures.items()]
            self._add(Summary(value=values), point.step, point.time)
        self._writer.flush()

    def close(self, status: str) -> None:
        self._writer.close()

    def _add(self, summary: Any, step: int, at: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=at, step=step, summary=summary))

    def _add_text(self, name: str, text: str) -> None:
        """As a block of code: TensorBoard reads Markdown."""
        from tensorboard.plugins.text.summary_v2 import text_pb

        block = "\n".join(f"    {line}" for line in text.splitlines())
        self._add(text_pb(name, block), 0, time.time())


def _last_steps(folder: Path) -> dict[str, int]:
    """Of each part, what the files of earlier sessions hold; a kill may have torn their last record, which the reader leaves out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not folder.is_dir():
        return {}
    held = EventAccumulator(str(folder), size_guidance={"scalars": 1})  # of each curve the last point
    held.Reload()
    last: dict[str, int] = {}
    for name in held.Tags()["scalars"]:
        part = name.partition("/")[0]
        last[part] = max(last.get(part, -1), held.Scalars(name)[-1].step)
    return last
