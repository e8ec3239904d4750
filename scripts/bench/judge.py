"""One plain evaluation for every trainer's adapter: mlx-lm's model, or transformers', each row alone and whole, all logits, the mean over
answer tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.shapes import Row, Work, rows_of
from mlx_distill.backends.choose import choose
from mlx_distill.records import Ids

ROWS = 8
"""Rows judged, spread over those that were trained; more would take longer than training."""


def nats(backend: str, base: Path, adapters: Mapping[str, Path], work: Work) -> dict[str, float]:
    """{name: nats an answer token}."""
    trained = rows_of(work.measured)
    rows = [trained[i] for i in np.linspace(0, len(trained) - 1, min(ROWS, len(trained))).astype(int)]
    if backend == "torch":
        from bench import peft_plain

        return peft_plain.judged(base, adapters, work.prefix, rows)
    return _by_mlx(base, adapters, work.prefix, rows)


def _by_mlx(base: Path, adapters: Mapping[str, Path], prefix: Ids, rows: Sequence[Row]) -> dict[str, float]:
    choose("mlx")  # before MLX is imported, since it brings the BLAS
    import mlx.core as mx

    from bench import plain

    model = plain.adapted(base, next(iter(adapters.values())))
    model.eval()
    out = {}
    for name, adapter in adapters.items():
        plain.wear(model, adapter)
        total = 0.0
        for row in rows:
            tokens = mx.array(np.concatenate([prefix, row.article, row.answer]))
            logits = model(tokens[None, :-1])[0, -len(row.answer) :]
            targets = mx.array(row.answer)[:, None]
            total += float(np.asarray((mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, targets, axis=-1)[:, 0]).sum()))
        out[name] = total / sum(len(row.answer) for row in rows)
    return out
