"""What a process that answers is asked, and what it says: records that cross to it and back as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.job import Timed
from bench.questions import Questions, draw
from bench.shapes import parse
from mlx_distill.task.prompt import load_tokenizer

MLX_LM: Sequence[Mapping[str, int]] = tuple(
    {"prefill_batch_size": prefill, "completion_batch_size": completion, "prefill_step_size": step}
    for prefill, completion, step in (
        (8, 32, 2048),
        (1, 32, 2048),
        (2, 32, 2048),
        (4, 32, 2048),
        (16, 64, 2048),
        (32, 64, 2048),
        (2, 32, 256),
    )
)
GENERATE: Sequence[Mapping[str, int]] = tuple({"batch_size": size} for size in (8, 4, 16, 48))
SETTINGS = {"mlx": MLX_LM, "torch": GENERATE}
"""What is tried for a backend's best rival, its own defaults first; the one that takes least time is taken."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Paths are text."""

    kind: str
    """`ours json`, `ours slots`, `ours free`, a rival's name, or `matmul`."""
    shape: str
    base: str
    out: str
    """Where result.json goes."""
    settings: dict[str, int] = field(default_factory=dict)
    """Of a rival's batches, where it is tuned."""
    rows: int | None = None
    """Only so many of the shape's rows, spread over them."""
    tokens: int | None = None
    """Decode only so many of an answer's, where nothing else ends it."""
    backend: str = "mlx"
    """`mlx` or `torch`: what ours and the matmuls compute with."""

    def questions(self) -> Questions:
        return draw(parse(self.shape), load_tokenizer(Path(self.base)))

    def chosen(self, questions: Questions) -> list[int]:
        """The numbers of the rows to answer."""
        count = len(questions.prompts)
        return [int(i) for i in np.linspace(0, count - 1, min(self.rows or count, count))]


@dataclass(slots=True)
class Answered(Timed):
    """One job. Tokens are those of all its rows."""

    texts: dict[str, str] = field(default_factory=dict)
    """By row."""
    ids: dict[str, list[int]] = field(default_factory=dict)
    """Of who decodes tokens."""
    margins: dict[str, list[float]] = field(default_factory=dict)
    """Of greedy decoding: how far, in log probability, the second best token was at each step."""
    prompt: int = 0
    """Tokens of prompts, the prefix counted as often as it was to be forwarded."""
    decoded: int = 0
    """Tokens of answers."""
    forwarded: int = 0
    """Tokens through the layers: those, pads, what was decoded past an answer's end, what was looked into and forgotten."""
    passes: int = 0
    """Over the weights."""
    own_steps: int | None = None
    """How often a row took part in one behind its prompt; None where that is not counted."""
    parts: dict[str, float] = field(default_factory=dict)
    """Wall seconds of parts of the work, by name."""
