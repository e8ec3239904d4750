"""Attention in tiles, and its derivative, are those of the softmax written out over whole matrices, whatever rows, tiles and windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.backends.mlx.attention import Layout, Tiles
from mlx_distill.records import Ids

WIDTH = 8
SCALE = WIDTH**-0.5
Arrays = list[mx.array]


@dataclass(frozen=True)
class Case:
    """`asked`: of each row the positions that ask; None: all. `spread`: how large queries and keys are."""

    lengths: Sequence[int]
    prefix: int = 0
    asked: Sequence[Sequence[int]] | None = None
    heads: int = 4
    kv_heads: int = 2
    window: int | None = None
    cap: float | None = None
    spread: float = 1.0
    tiles: dict[str, int] = field(default_factory=dict)

    def positions(self) -> list[Ids]:
        asked = [range(n) for n in self.lengths] if self.asked is None else self.asked
        return [np.array(list(of), np.int32) for of in asked]

    def arrays(self, seed: int = 0) -> tuple[Arrays, mx.array]:
        """Queries, keys, values and the prefix's keys and values; and a cotangent of the result."""
        generator = np.random.default_rng(seed)
        k, n = sum(map(len, self.positions())), sum(self.lengths)
        shapes = [(k, self.heads), (n, self.kv_heads), (n, self.kv_heads)]
        shapes += [(self.kv_heads, self.prefix)] * 2 if self.prefix else []
        spreads = [self.spread, self.spread, 1.0, self.spread, 1.0]
        made = [
            mx.array(generator.normal(0, spread, (*shape, WIDTH)).astype(np.float32))
            for shape, spread in zip(shapes, spreads, strict=False)
        ]
        return made, mx.array(generator.normal(0, 1, (k, self.heads, WIDTH)).astype(np.float32))


def tiled(case: Case) -> list[np.ndarray]:
    """The result, and the cotangents of what it is made of."""
    asked = None if case.asked is None else case.positions()
    heads = {"heads": case.heads, "kv_heads": case.kv_heads}
    layout = Layout(case.lengths, asked, prefix=case.prefix, window=case.window, **heads, **case.tiles)
    tiles = Tiles(layout, SCALE, case.cap, case.heads // case.kv_heads)
    arrays, cotangent = case.arrays()
    out, lse = tiles.forward(*arrays)
    return [np.asarray(array) for array in (out, *tiles.backward(arrays, cotangent, out, lse))]


def written_out(case: Case) -> list[np.ndarray]:
    """Row by row and head by head, all scores at once, derived by MLX."""
    arrays, cotangent = case.arrays()
    repeats, starts = case.heads // case.kv_heads, np.concatenate([[0], np.cumsum(case.lengths)])

    def whole(q: mx.array, k: mx.array, v: mx.array, *prefix: mx.array) -> mx.array:
        outs, at = [], 0
        for i, positions in enumerate(case.positions()):
            own = slice(int(starts[i]), int(starts[i + 1]))
            keys, values = (
                mx.repeat(
                    mx.concatenate([*([shared] if shared is not None else []), part[own].transpose(1, 0, 2)], axis=1), repeats, axis=0
                )
                for shared, part in zip(prefix or (None, None), (k, v), strict=True)
            )
            query = q[at : at + len(positions)].transpose(1, 0, 2)
            at += len(positions)
            scores = SCALE * query @ keys.swapaxes(-1, -2)
            scores = scores if case.cap is None else case.cap * mx.tanh(scores / case.cap)
            there, here = np.arange(keys.shape[1]), case.prefix + positions[:, None]
            seen = (there <= here) & (there > here - case.window if case.window is not None else True)
            outs.append((mx.softmax(mx.where(mx.array(seen), scores, -mx.inf), axis=-1) @ values).transpose(1, 0, 2))
        return mx.concatenate(outs)

    (out,), gradients = mx.vjp(whole, arrays, [cotangent])
    return [np.asarray(array) for array in (out, *gradients)]


def gap(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """The largest difference, by the largest number of each array; of one that is next to 0 (where a query sees one key), of them all."""
    assert [array.shape for array in ours] == [array.shape for array in theirs]
    least = 0.1 * max(float(np.abs(array).max()) for array in theirs)
    return max(
        float(np.abs(one.astype(np.float64) - other).max() / max(np.abs(other).max(), least))
        for one, other in zip(ours, theirs, strict=True)
    )


CASES = {
    "one row": Case([5]),
    "one token": Case([1]),
    "uneven rows": Case([3, 17, 1, 9]),
    "behind a prefix": Case([3, 17, 1, 9], prefix=13),
    "a head of keys to each of queries": Case([4, 6], prefix=5, kv_heads=4),
    "a head of keys to four": Case([4, 6], prefix=5, kv_heads=1),
    "some positions": Case([9, 12, 4], prefix=6, asked=[[2, 8], [0, 1, 2, 11], [3]]),
    "the last positions, without a prefix": Case([9, 12, 4], asked=[[8], [11], [3]]),
    "a window": Case([9, 12, 4], window=3),
    "a window of one": Case([9, 2], prefix=3, window=1),
    "a window over the prefix's end": Case([3, 12, 1], prefix=7, window=5),
    "a window that hides all of the prefix": Case([9, 12], prefix=4, asked=[[6, 8], [11]], window=3),
    "a window wider than the text": Case([9, 12], prefix=4, window=100),
    "a cap": Case([9, 12, 4], prefix=6, cap=2.0, spread=2.0),
    "a cap and a window": Case([9, 12, 4], prefix=6, cap=2.0, window=4),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("tiles", [{}, {"tile": 1}, {"tile": 400}, {"longest": 2}, {"tile": 2000, "longest": 3}], ids=str)
def test_result_and_gradients_are_those_of_the_softmax_written_out(case: Case, tiles: dict[str, int]) -> None:
    tuned = Case(case.lengths, case.prefix, case.asked, case.heads, case.kv_heads, case.window, case.cap, case.spread, tiles)
    assert gap(tiled(tuned), written_out(case)) <= 1e-5


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lengths = draw(st.lists(st.integers(1, 14), min_size=1, max_size=6))
    some = [sorted(draw(st.sets(st.integers(0, n - 1), min_size=1))) for n in lengths]
    return Case(
        lengths,
        draw(st.integers(0, 9)),
        draw(st.sampled_from([None, some])),
        kv_heads=draw(st.sampled_from([1, 2, 4])),
        window=draw(st.none() | st.integers(1, 12)),
        cap=draw(st.none() | st.just(3.0)),
        tiles=draw(st.fixed_dictionaries({"tile": st.integers(1, 3000), "longest": st.integers(1, 20)})),
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_whatever_the_shapes_it_is_the_softmax_written_out(case: Case) -> None:
    assert gap(tiled(case), written_out(case)) <= 1e-5


@pytest.mark.parametrize("case", [CASES["some positions"], Case([40, 3, 25, 1, 33], prefix=20), CASES["a cap and a window"]], ids=str)
def test_how_rows_are_cut_and_put_together_changes_nothing(case: Case) -> None:
    whole = tiled(case)
    for tiles in ({"tile": 1}, {"tile": 700}, {"tile": 4000, "longest": 4}, {"tile": 1 << 26, "longest": 1 << 30}):
        tuned = Case(case.lengths, case.prefix, case.asked, case.heads, case.kv_heads, case.window, case.cap, case.spread, tiles)
        assert gap(tiled(tuned), whole) <= 1e-6


def test_short_rows_share_a_tile_and_long_ones_are_cut() -> None:
    short = Layout([3, 5, 4], None, prefix=2, heads=2, kv_heads=1, tile=1 << 10, longest=128)
    assert [[block.queries.shape for block in rows.blocks] for rows in short.sets] == [[(3, 5)]]
    assert short.sets[0].blocks[0].real is not None, "rows of 3 and 4 are filled up to 5"
    long = Layout([10, 1], None, prefix=2, heads=2, kv_heads=1, tile=100, longest=128)
    assert [[block.queries.shape for block in rows.blocks] for rows in long.sets] == [[(1, 4), (1, 4), (1, 2)], [(1, 1)]]
    assert [(block.free, block.end) for block in long.sets[0].blocks] == [(1, 4), (5, 8), (9, 10)], "nothing above the diagonal"


@pytest.mark.parametrize("cap", [None, 50.0])
def test_scores_in_the_hundreds_stay_finite(cap: float | None) -> None:
    case = Case([9, 12, 4], prefix=6, spread=20.0, cap=cap)
    ours = tiled(case)
    assert all(np.isfinite(array).all() for array in ours)
    assert gap(ours[:1], written_out(case)[:1]) <= 1e-4
