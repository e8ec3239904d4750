"""What rare labels count: by hand, and with a mean of 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.data.balance import Balance, balanced
from mlx_distill.recipe.schema import BalanceSpec, FieldSpec
from mlx_distill.records import Value

FIELDS = {"kind": FieldSpec(kind="choice", choices=("a", "b", "c")), "far": FieldSpec(kind="score"), "wet": FieldSpec(kind="flag")}
ROWS: list[dict[str, Value]] = [{"kind": "a", "far": 4, "wet": True}] * 8 + [{"kind": "b", "far": 3.6, "wet": True}] * 2


def of(kind: str, rows: list[dict[str, Value]] = ROWS, **settings: Any) -> Balance:
    return Balance.of(BalanceSpec(kind=kind, **settings), FIELDS, rows)


@pytest.mark.parametrize(
    ("kind", "common", "rare"),
    [("none", 1.0, 1.0), ("sqrt", 1 / 1.2, 2 / 1.2), ("inverse", 1 / 1.6, 4 / 1.6)],  # means (8 · 1 + 2 · 2) / 10, (8 · 1 + 2 · 4) / 10
)
def test_by_hand(kind: str, common: float, rare: float) -> None:
    balance = of(kind)
    assert balance.weights({"kind": "a"}, ["kind"]) == pytest.approx([common])
    assert balance.weights({"kind": "b"}, ["kind"]) == pytest.approx([rare])


def test_fixed_text_and_fields_that_are_not_balanced_count_what_they_counted() -> None:
    rare: dict[str, Value] = {"kind": "b", "far": 4, "wet": True}
    found = of("inverse").weights(rare, [None, "kind", "kind", "far", "wet"])
    assert found == pytest.approx([1, 2.5, 2.5, 1, 1]) and found.dtype == np.float32
    assert of("inverse", fields=("wet",)).weights(rare, ["kind", "wet"]) == pytest.approx([1, 1]), "one label alone is not rare"


def test_a_score_that_is_named_is_balanced_by_its_nearest_steps() -> None:
    rows: list[dict[str, Value]] = [{"far": 4}, {"far": 3.6}, {"far": 4.2}, {"far": 9}]
    balance = of("inverse", rows, fields=("far",))
    assert balance.weights({"far": 3.7}, ["far"]) == pytest.approx([1 / 1.5])  # 3 of 4 and 1 of 4: 1 and 3, mean 6 / 4
    assert balance.weights({"far": 9.1}, ["far"]) == pytest.approx([3 / 1.5])


def test_no_label_counts_more_than_the_recipe_allows_and_one_never_seen_counts_as_the_rarest() -> None:
    rows: list[dict[str, Value]] = [{"kind": "a"}] * 99 + [{"kind": "b"}]
    balance = of("inverse", rows, most=10)
    mean = (99 * 1 + 1 * 10) / 100
    assert balance.weights({"kind": "b"}, ["kind"]) == pytest.approx([10 / mean])
    assert balance.weights({"kind": "c"}, ["kind"]) == pytest.approx([10 / mean])
    assert of("inverse", [{"wet": True}]).weights({"kind": "c"}, ["kind"]) == pytest.approx([10]), "no row has the field at all"


@settings(deadline=None, derandomize=True)
@given(st.dictionaries(st.integers(0, 9), st.integers(1, 500), min_size=1), st.sampled_from([0.5, 1.0]), st.floats(1, 100))
def test_the_mean_over_the_rows_is_1_and_the_rarer_never_counts_less(counts: dict[int, int], power: float, most: float) -> None:
    weights, _ = balanced(counts, power=power, most=most)
    assert sum(counts[label] * weights[label] for label in counts) / sum(counts.values()) == pytest.approx(1)
    ordered = [weights[label] for label in sorted(counts, key=lambda label: -counts[label])]
    assert ordered == sorted(ordered)
    assert max(ordered) / min(ordered) <= most * (1 + 1e-9)
