"""Ours: the engine, as `infer` runs it, in either mode; and a session asked without any grammar, to compare its tokens with the rivals'.

It knows the Backend protocol alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.asked import Answered, Asked
from bench.device import device_of
from bench.questions import Questions
from mlx_distill.backends.base import Student
from mlx_distill.backends.choose import choose
from mlx_distill.inference.engine import Engine
from mlx_distill.inference.row import Counts
from mlx_distill.records import Prediction
from mlx_distill.task.prompt import load_tokenizer

WARM_ROWS = 2


def answer(job: Asked) -> Answered:
    backend = choose(job.backend)  # before anything imports MLX, since it brings the BLAS
    questions, out = job.questions(), Answered(blas=backend.machine().blas)
    device = device_of(job.backend)
    student, tokenizer, mode = backend.open(Path(job.base)), load_tokenizer(Path(job.base)), job.kind.removeprefix("ours ")
    examples = [questions.examples[i] for i in job.chosen(questions)]

    def engine() -> Engine:
        return Engine(student, questions.task, tokenizer, answer=mode, max_tokens=questions.most)

    list(engine().stream(examples[:WARM_ROWS]))
    began = time.perf_counter()
    measured = engine()
    out.parts["engine"] = time.perf_counter() - began
    device.restart_peak()
    out.start()
    for prediction in measured.stream(examples):
        assert isinstance(prediction, Prediction), prediction
        out.texts[prediction.id] = json.dumps(prediction.answer, separators=(",", ":"))
    device.synchronize()
    out.stop()
    out.peak_memory, out.resident = device.peak(), device.resident()
    _count(out, measured.counts, len(questions.prefix))
    return out


def _count(out: Answered, counts: Counts, prefix: int) -> None:
    """Tokens as the rivals count theirs: the prefix was forwarded once."""
    out.prompt, out.decoded = prefix + counts.prefill, counts.decoded + counts.forced
    out.forwarded, out.passes, out.own_steps = prefix + counts.forwarded, counts.forwards, counts.own_steps
    out.parts["grammar"] = counts.grammar_seconds


def answer_freely(job: Asked) -> Answered:
    """Greedy, any token of the vocabulary, with the margin of each choice."""
    backend = choose(job.backend)
    questions, out = job.questions(), Answered(blas=backend.machine().blas)
    rows = job.chosen(questions)
    names = {i: questions.examples[i].id for i in rows}
    tokens, margins = greedy(backend.open(Path(job.base)), questions, rows, job.tokens or questions.answer)
    out.ids = {names[i]: tokens[i] for i in rows}
    out.margins = {names[i]: margins[i] for i in rows}
    return out


def greedy(student: Student, questions: Questions, rows: Sequence[int], most: int) -> tuple[dict[int, list[int]], dict[int, list[float]]]:
    """Tokens of each row, and how far in log probability the second best was each time."""
    session = student.session(questions.prefix)
    handles = dict(zip(session.admit([questions.articles[i] for i in rows]), rows, strict=True))
    tokens: dict[int, list[int]] = {i: [] for i in rows}
    margins: dict[int, list[float]] = {i: [] for i in rows}
    everything = np.full(-(-student.vocabulary // 32), 0xFFFFFFFF, np.uint32)
    vocabulary = np.arange(student.vocabulary, dtype=np.int32)
    for step in range(most):
        chosen, _ = session.choose(dict.fromkeys(handles, everything))
        logs = session.read({handle: [-1] for handle in handles}, {handle: [vocabulary] for handle in handles})
        for handle, i in handles.items():
            second, first = np.partition(logs[handle][0], -2)[-2:]
            tokens[i].append(chosen[handle])
            margins[i].append(float(first - second))
        if step < most - 1:
            session.extend({handle: [token] for handle, token in chosen.items()})
    session.drop(list(handles))
    return tokens, margins
