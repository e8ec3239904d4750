"""A session beside what its rows hold: each row is compared with the plain model, which forwards it alone with its whole prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.nn as nn
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_distill.records import Ids
from tests.backends import plain
from tests.backends.sides import Side
from tests.checkpoints import VOCABULARY

EVERYTHING = np.arange(VOCABULARY, dtype=np.int32)
NOTHING = np.zeros(0, np.int32)
CLOSE = 5e-5
"""Nats; fp32 sums in another order differ by less."""


def mask_of(ids: Sequence[int] | Ids, vocabulary: int = VOCABULARY) -> NDArray[np.uint32]:
    """The bit mask of some ids, (ceil(V / 32),)."""
    mask = np.zeros((vocabulary + 31) // 32, np.uint32)
    for i in ids:
        mask[i // 32] |= np.uint32(1 << (int(i) % 32))
    return mask


class Twin:
    """A session beside what its rows hold, so that each can be forwarded alone by the plain model and compared."""

    def __init__(self, session: Any, model: nn.Module, prefix: Ids):
        self.session, self._model, self._prefix = session, model, prefix
        self.rows: dict[int, list[int]] = {}
        self._last: dict[int, int] = {}

    def admit(self, rows: Sequence[Ids]) -> list[int]:
        handles: list[int] = self.session.admit(rows, read_at=[range(len(row)) for row in rows])
        assert not set(handles) & self.rows.keys()
        self.rows |= {handle: row.tolist() for handle, row in zip(handles, rows, strict=True)}
        self._last |= {handle: len(row) for handle, row in zip(handles, rows, strict=True)}
        return handles

    def extend(self, tokens: dict[int, list[int]]) -> None:
        self.session.extend(tokens, read_at={handle: range(len(ids)) for handle, ids in tokens.items()})
        for handle, ids in tokens.items():
            self.rows[handle] += ids
            self._last[handle] = len(ids)

    def drop(self, handles: Sequence[int]) -> None:
        self.session.drop(handles)
        for handle in handles:
            del self.rows[handle]

    def alone(self, handle: int, more: Sequence[int] = ()) -> NDArray[np.float64]:
        """Log probabilities after every token, (n, V), of the row forwarded alone with its whole prompt."""
        return plain.log_softmax(self._model, [*self._prefix, *self.rows[handle], *more])

    def check(self) -> None:
        """Every token of each row's last admit or extend, over the whole vocabulary; counted from the front and from the end."""
        sizes = {handle: self._last[handle] for handle in self.rows}
        positions = {handle: [*range(size), -1, -size] for handle, size in sizes.items()}
        read = self.session.read(positions, {handle: [EVERYTHING] * len(at) for handle, at in positions.items()})
        for handle, size in sizes.items():
            alone = self.alone(handle)[-size:]
            np.testing.assert_allclose(np.stack(read[handle]), alone[[*range(size), -1, 0]], atol=CLOSE)
        chosen, logs = self.session.choose({handle: mask_of(EVERYTHING) for handle in self.rows})
        for handle in self.rows:
            last = self.alone(handle)[-1]
            assert last[chosen[handle]] == pytest.approx(last.max(), abs=CLOSE) == pytest.approx(logs[handle], abs=CLOSE)

    def check_score(self, generator: np.random.Generator) -> None:
        """Of continuations of unequal length, some rows twice; and the rows are as they were."""
        handles = [int(i) for i in generator.choice(list(self.rows), 2 * len(self.rows))]
        more = [plain.random_ids(generator, int(generator.integers(1, 4))).tolist() for _ in handles]
        allowed = [np.unique(plain.random_ids(generator, 5)) for _ in handles]
        for handle, tokens, ids, logs in zip(handles, more, allowed, self.session.score(handles, more, allowed), strict=True):
            np.testing.assert_allclose(logs, plain.among(self.alone(handle, tokens)[-1], ids), atol=CLOSE)
        self.check()


def opened(side: Side, folder: Path, prefix: Ids, *, unpack: bool = False) -> Twin:
    session = side.open(folder, unpack=unpack).session(prefix)
    return Twin(session, plain.plain_model(folder), prefix)


def ids(generator: np.random.Generator, *lengths: int) -> list[Ids]:
    return [plain.random_ids(generator, length) for length in lengths]
