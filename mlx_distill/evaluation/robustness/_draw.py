"""Which rows are taken, and the dice for each of them: seeded by names and ids, so that the order of the rows changes nothing."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from random import Random
from typing import TypeVar

from mlx_distill.evaluation.judge import Judged, label
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.task.fields import nearest_value

Row = TypeVar("Row")
Item = TypeVar("Item")


def dice(seed: int, *names: str) -> Random:
    return Random(_hash(seed, *names))


def evenly(
    rows: Iterable[Row], keep: Callable[[Row], Item | None], *, seed: int, id: Callable[[Row], str], stratum: Callable[[Row], str]
) -> Iterator[Item]:
    """What `keep` makes of the rows, those of which it makes nothing left out: one of each stratum in turn, as long as each lasts.

    However many are taken, no stratum that has more to give is behind another by more than one. `keep` sees no row before its turn.
    """
    strata: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (_hash(seed, id(row)), id(row))):
        strata.setdefault(stratum(row), []).append(row)
    left = deque(map(keep, strata[name]) for name in sorted(strata, key=lambda name: (_hash(seed, name), name)))
    while left:
        own = left.popleft()
        item = next((item for item in own if item is not None), None)
        if item is not None:
            yield item
            left.append(own)


def stratum(row: Judged, fields: Mapping[str, FieldSpec]) -> str:
    """What the judge says of a row, in a word: its tier; without tiers its choices and flags; without these its first score."""
    if row.reference_tier is not None:
        return row.reference_tier
    names = [name for name, spec in fields.items() if spec.kind in ("choice", "flag") and name in row.reference]
    if names:
        return ", ".join(f"{name}: {label(row.reference[name])}" for name in names)
    scores = [name for name, spec in fields.items() if spec.kind == "score" and name in row.reference]
    return f"{scores[0]}: {nearest_value(fields[scores[0]], row.reference[scores[0]])}" if scores else ""


def _hash(seed: int, *names: str) -> int:
    text = "\0".join([str(seed), *names])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
