"""The split, as properties that hold for any rows: who shares a group or a text stays together, and the order of the rows says nothing."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_distill.data.split import SplitRow, split, text_key

SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}

steady = settings(deadline=None, derandomize=True)

shares = st.sampled_from(
    [
        SHARES,
        {"train": 0.6, "valid": 0.4, "test": 0.0},
        {"train": 1.0, "valid": 0.0, "test": 0.0},
        {"train": 0.34, "valid": 0.33, "test": 0.33},
    ]
)
seeds = st.integers(0, 5)
texts = st.one_of(st.sampled_from(["the same", "The  SAME\n", "ﬁre", "fire", "", "\0", "\ud800"]), st.text(alphabet="ab é\n", max_size=4))
words = st.one_of(st.none(), st.sampled_from(["", "a", "b", "c"]))


@st.composite
def tables(draw: st.DrawFn, least: int = 0) -> list[SplitRow]:
    ids = draw(st.lists(st.text(alphabet=st.sampled_from("ab\0é😀"), min_size=1, max_size=5), min_size=least, max_size=40, unique=True))
    return [SplitRow(id, draw(texts), draw(words), draw(words)) for id in ids]


def singles(strata: dict[str, int]) -> list[SplitRow]:
    return [SplitRow(f"{name}{i}", f"text {name} {i}", stratum=name) for name, count in strata.items() for i in range(count)]


def grouped(sizes: list[int]) -> list[SplitRow]:
    return [SplitRow(f"{group}-{i}", f"text {group} {i}", f"group {group}") for group, size in enumerate(sizes) for i in range(size)]


def sizes(chosen: dict[str, list[str]]) -> dict[str, int]:
    return {name: len(ids) for name, ids in chosen.items()}


def largest_unit(rows: list[SplitRow]) -> int:
    """The most rows that hang together, found by merging sets until nothing merges: slow, and plainly right."""
    units = [({row.id}, {("text", text_key(row.text))} | ({("group", row.group)} if row.group is not None else set())) for row in rows]
    merged = True
    while merged:
        merged = False
        for i, (ids, keys) in enumerate(units):
            for j in range(i + 1, len(units)):
                if keys & units[j][1]:
                    units[i] = (ids | units[j][0], keys | units[j][1])
                    del units[j]
                    merged = True
                    break
            if merged:
                break
    return max(len(ids) for ids, _ in units)


@steady
@given(tables(), shares, seeds)
def test_every_row_stands_in_exactly_one_split(rows: list[SplitRow], shares: dict[str, float], seed: int) -> None:
    chosen = split(rows, shares, seed)
    assert list(chosen) == list(shares)
    assert sorted(id for ids in chosen.values() for id in ids) == sorted(row.id for row in rows)


@steady
@given(tables(), shares, seeds, st.randoms())
def test_the_order_of_the_rows_says_nothing(rows: list[SplitRow], shares: dict[str, float], seed: int, random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split(shuffled, shares, seed) == split(rows, shares, seed)


@steady
@given(tables(), shares, seeds)
def test_no_group_and_no_text_stands_in_two_splits(rows: list[SplitRow], shares: dict[str, float], seed: int) -> None:
    where = {id: name for name, ids in split(rows, shares, seed).items() for id in ids}
    for key in {row.group for row in rows if row.group is not None}:
        assert len({where[row.id] for row in rows if row.group == key}) == 1
    for key in {text_key(row.text) for row in rows}:
        assert len({where[row.id] for row in rows if text_key(row.text) == key}) == 1


@steady
@given(tables(least=1), shares, seeds)
def test_no_split_exceeds_its_share_by_more_than_a_unit(rows: list[SplitRow], shares: dict[str, float], seed: int) -> None:
    rows = [SplitRow(row.id, row.text, row.group) for row in rows]
    unit = largest_unit(rows)
    for name, ids in split(rows, shares, seed).items():
        assert len(ids) < shares[name] * len(rows) + unit


@steady
@given(tables(), seeds)
def test_a_split_without_a_share_is_empty(rows: list[SplitRow], seed: int) -> None:
    assert split(rows, {"train": 0.5, "valid": 0.5, "test": 0.0}, seed)["test"] == []


def test_rows_of_their_own_are_divided_to_the_row() -> None:
    assert sizes(split(singles({"a": 1000}), SHARES, 3)) == {"train": 800, "valid": 100, "test": 100}


@steady
@given(seeds)
def test_every_stratum_is_divided_as_the_whole_is(seed: int) -> None:
    chosen = split(singles({"common": 500, "rare": 40, "rarest": 10}), SHARES, seed)
    strata = {name: Counter(id.rstrip("0123456789") for id in ids) for name, ids in chosen.items()}
    assert strata == {
        "train": {"common": 400, "rare": 32, "rarest": 8},
        "valid": {"common": 50, "rare": 4, "rarest": 1},
        "test": {"common": 50, "rare": 4, "rarest": 1},
    }


def test_strata_are_met_as_far_as_whole_groups_allow() -> None:
    rows = [SplitRow(f"{g}-{i}", f"text {g} {i}", f"group {g}", "yes" if i % 4 == 0 else "no") for g in range(100) for i in range(8)]
    chosen = split(rows, SHARES, 0)
    assert sizes(chosen) == {"train": 640, "valid": 80, "test": 80}
    yes = {row.id for row in rows if row.stratum == "yes"}
    assert {name: len(yes & set(ids)) for name, ids in chosen.items()} == {"train": 160, "valid": 20, "test": 20}


def test_another_seed_chooses_other_rows_and_the_same_seed_the_same() -> None:
    rows = singles({"a": 200})
    assert split(rows, SHARES, 1) == split(rows, SHARES, 1)
    assert split(rows, SHARES, 1)["test"] != split(rows, SHARES, 2)["test"]


def test_rows_are_tied_together_through_others() -> None:
    """a and b share a group, b and c a text, c and d a group: one unit, though a and d share nothing."""
    chain = [SplitRow("a", "1", "x"), SplitRow("b", "2", "x"), SplitRow("c", "2", "y"), SplitRow("d", "3", "y")]
    others = singles({"other": 200})
    for seed in range(20):
        assert any({"a", "b", "c", "d"} <= set(ids) for ids in split(chain + others, SHARES, seed).values())


def test_a_group_with_most_of_the_rows_is_trained_not_validated_on() -> None:
    for seed in range(20):
        chosen = split(grouped([60] + [4] * 10), SHARES, seed)
        assert {id.split("-")[0] for id in chosen["valid"] + chosen["test"]}.isdisjoint({"0"})
        assert sizes(chosen) == {"train": 76, "valid": 12, "test": 12}


def test_the_only_row_is_trained() -> None:
    assert split([SplitRow("a", "text")], SHARES, 0) == {"train": ["a"], "valid": [], "test": []}


def test_three_groups_give_one_to_each_split() -> None:
    assert sizes(split(grouped([30, 30, 30]), SHARES, 0)) == {"train": 30, "valid": 30, "test": 30}


@pytest.mark.parametrize("other", ["  Fire\tin THE hills ", "ﬁre in the hills", "fire in the hills", "FIRE IN THE HILLS"])
def test_case_white_space_and_unicode_form_do_not_make_another_text(other: str) -> None:
    assert text_key(other) == text_key("fire in the hills")


def test_ids_that_hash_alike_do_not_let_the_order_decide() -> None:
    """ "a", "b" in one unit and "a NUL b" in another are the same bytes once joined."""
    rows = [SplitRow("a", "same"), SplitRow("b", "same"), SplitRow("a\0b", "other")]
    for shares in (SHARES, {"train": 0.5, "valid": 0.5}):
        assert split(rows, shares, 0) == split(rows[::-1], shares, 0)
