"""One plain evaluation for every trainer's adapter: mlx-lm's model, each row alone and whole, all logits, the mean over answer tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bench.shapes import Work, rows_of
from mlx_distill.backends.choose import choose

ROWS = 8
"""Rows judged, spread over those that were trained; more would take longer than training."""


def nats(base: Path, adapters: Mapping[str, Path], work: Work) -> dict[str, float]:
    """{name: nats an answer token}."""
    choose("mlx")  # before MLX is imported, since it brings the BLAS
    import mlx.core as mx

    from bench import plain

    model = plain.adapted(base, next(iter(adapters.values())))
    model.eval()
    trained = rows_of(work.measured)
    rows = [trained[i] for i in np.linspace(0, len(trained) - 1, min(ROWS, len(trained))).astype(int)]
    out = {}
    for name, adapter in adapters.items():
        plain.wear(model, adapter)
        total = 0.0
        for row in rows:
            tokens = mx.array(np.concatenate([work.prefix, row.article, row.answer]))
            logits = model(tokens[None, :-1])[0, -len(row.answer) :]
            targets = mx.array(row.answer)[:, None]
            total += float(np.asarray((mx.logsumexp(logits, axis=-1) - mx.take_along_axis(logits, targets, axis=-1)[:, 0]).sum()))
        out[name] = total / sum(len(row.answer) for row in rows)
    return out
