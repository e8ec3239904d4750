"""Which rows train, validate and test: seeded, by group, stratified, the same for any order of the rows.

Rows that share a group or a text are one unit and stay together: no group, and no text, stands in two splits.
Units are visited in the order of a keyed hash, and each goes where its strata are most wanted
(iterative stratification: Sechidis et al., "On the Stratification of Multi-Label Data", 2011).
It knows ids, texts and keys; nothing of files, recipes or labels.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SplitRow:
    """What the split needs of a row. `group` None: the row is a group of its own."""

    id: str
    text: str
    group: str | None = None
    stratum: str | None = None


def split(rows: Sequence[SplitRow], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Ids by split name, each list sorted. `shares` sum to 1; a split with share 0 is empty.

    Independent of the order of `rows`. Large groups make the shares approximate: a unit is never divided.
    """
    wanted = {name: share * len(rows) for name, share in shares.items() if share > 0}
    totals = Counter(row.stratum for row in rows)
    sizes: dict[str, Counter[str | None]] = {name: Counter() for name in wanted}
    chosen: dict[str, list[str]] = {name: [] for name in shares}
    for unit in _visited(_units(rows), min(wanted.values(), default=0), seed):
        counts = Counter(row.stratum for row in unit)
        name = max(wanted, key=lambda name: (*_deficit(counts, sizes[name], totals, wanted[name], len(rows)), name))
        sizes[name].update(counts)
        chosen[name].extend(row.id for row in unit)
    return {name: sorted(ids) for name, ids in chosen.items()}


def text_key(text: str) -> str:
    """Two texts are the same when they differ in case, white space or Unicode form alone."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _visited(units: Iterable[list[SplitRow]], smallest: float, seed: int) -> list[list[SplitRow]]:
    """In the order of a keyed hash, but first the units that overfill the smallest split, the largest at the head.

    Otherwise a group with most of the rows could become the validation set.
    """

    def place(unit: list[SplitRow]) -> tuple[int, bytes, list[str]]:
        ids = sorted(row.id for row in unit)
        # The ids themselves decide between two units that hash alike, as ids with NUL in them can.
        return -len(unit) if len(unit) > smallest else 0, keyed_hash(seed, *ids), ids

    return sorted(units, key=place)


def _deficit(
    unit: Counter[str | None], have: Counter[str | None], totals: Counter[str | None], wanted: float, rows: int
) -> tuple[float, float, float]:
    """How much a split lacks of what the unit brings, as a share of what it is to have; how much it lacks in all; whether the unit fits.

    `wanted` is in rows. `fsum`, because a plain sum would depend on the order of the rows in its last bit.
    """
    of_strata = math.fsum(n * (1 - have[stratum] / (wanted / rows * totals[stratum])) for stratum, n in unit.items())
    return of_strata / unit.total(), 1 - have.total() / wanted, min(1.0, wanted / unit.total())


def _units(rows: Sequence[SplitRow]) -> Iterable[list[SplitRow]]:
    """Connected components of "same group" and "same text" (union-find)."""
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        keys = [("text", text_key(row.text))] + ([("group", row.group)] if row.group is not None else [])
        for key in keys:
            parent[root(i)] = root(first.setdefault(key, i))
    units: dict[int, list[SplitRow]] = defaultdict(list)
    for i, row in enumerate(rows):
        units[root(i)].append(row)
    return units.values()


def keyed_hash(seed: int, *parts: str) -> bytes:
    """What draws rows without a generator: it depends on the seed and on the row, and on no other row."""
    return hashlib.sha256("\0".join((str(seed), *parts)).encode("utf-8", "surrogatepass")).digest()
