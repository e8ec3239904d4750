"""A Run folder: begun whole, opened again, gone on with under the same recipe alone, and never made of a folder of something else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from mlx_distill.errors import DataError, OutputError, RecipeError
from mlx_distill.recipe.schema import (
    BaseSpec,
    DataSpec,
    FieldSpec,
    LoraSpec,
    Recipe,
    ReplaySpec,
    SourceSpec,
    StoppingSpec,
    TargetsSpec,
    TaskSpec,
)
from mlx_distill.training.run import MAY_CHANGE, PLACES, Run

RECIPE = Recipe(
    name="small",
    task=TaskSpec(input="{text}", fields={"urgent": FieldSpec(kind="flag")}),
    data=DataSpec(source=SourceSpec(kind="jsonl", path="/somewhere/rows.jsonl")),
    base=BaseSpec(model="owner/model"),
)
FACTS: dict[str, Any] = {"data": {"sha256": "a" * 64, "rows": 9}, "base": {"key": "b" * 32}}
SPLIT = {"train": ["1", "2"], "valid": ["3"], "test": []}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    run.begin(RECIPE, FACTS, SPLIT)
    return run


def test_what_was_begun_is_opened_again(run: Run) -> None:
    recipe, facts = run.open()
    assert run.exists() and recipe.name == "small" and facts == FACTS and run.split() == SPLIT
    run.require_same(RECIPE, FACTS)


@pytest.mark.parametrize(("make", "said"), [(None, "no such folder"), (Path.mkdir, "no run here"), (Path.touch, "is a file")])
def test_what_is_no_run_is_named_and_how_one_is_made(tmp_path: Path, make: Any, said: str) -> None:
    place = tmp_path / "place"
    if make:
        make(place)
    with pytest.raises(OutputError, match=said) as caught:
        Run(place).open()
    assert "mlx-distill run RECIPE" in str(caught.value.hint)


def test_a_damaged_split_is_named(run: Run) -> None:
    (run.path / "split.json").write_text("{")
    with pytest.raises(OutputError, match="split cannot be read") as caught:
        run.split()
    assert "split.json" in str(caught.value.file) and caught.value.hint


@pytest.mark.parametrize(
    "changed",
    [
        replace(RECIPE, train=replace(RECIPE.train, epochs=9, early_stopping=StoppingSpec(patience=2), memory_limit=4.0)),
        replace(RECIPE, targets=TargetsSpec(metrics={"accuracy": 0.9}), name="other"),
        replace(RECIPE, train=replace(RECIPE.train, checkpoint_every=7)),
        replace(RECIPE, data=DataSpec(source=SourceSpec(kind="jsonl", path="/elsewhere/same rows.jsonl"))),
        replace(RECIPE, base=BaseSpec(model="/a/copy/of/the/model")),
    ],
)
def test_a_resumed_run_may_ask_anew_for_what_nothing_depends_on(run: Run, changed: Recipe) -> None:
    run.require_same(changed, FACTS)
    run.relock(changed, FACTS)
    recipe, facts = run.open()
    assert (recipe, facts) == (changed, FACTS)


def test_a_run_that_goes_on_elsewhere_says_what_computes_it_now(run: Run) -> None:
    before = {**FACTS, "backend": "mlx", "machine": {"device": "a Mac"}, "versions": {"mlx": "0.32"}, "seed": 1}
    run.begin(RECIPE, before, {})
    now = {**before, "machine": {"device": "a GPU"}, "versions": {"torch": "2.13"}, "seed": 99}
    run.relock(RECIPE, now)
    assert run.open() == (RECIPE, before), "of the same backend, what it was begun on"
    run.relock(RECIPE, {**now, "backend": "torch"})
    assert run.open() == (RECIPE, {**now, "backend": "torch", "seed": before["seed"]})
    assert run.backend() == "torch" and Run(run.path / "none").backend() is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (replace(RECIPE, lora=LoraSpec(rank=5)), "lora.rank: 16 -> 5"),
        (replace(RECIPE, train=replace(RECIPE.train, learning_rate=1.0)), "train.learning_rate: 0.0002 -> 1.0"),
        (replace(RECIPE, train=replace(RECIPE.train, keep="accuracy")), "train.keep: valid_loss -> accuracy"),
        (replace(RECIPE, train=replace(RECIPE.train, validate_every=3)), "train.validate_every: none -> 3"),
        (replace(RECIPE, base=BaseSpec(model="owner/model", bits=8)), "base.bits: 4 -> 8"),
        (replace(RECIPE, data=DataSpec(source=SourceSpec(kind="csv", path="/somewhere/rows.jsonl"))), "data.source.kind: jsonl -> csv"),
    ],
)
def test_another_recipe_is_refused_with_what_changed(run: Run, changed: Recipe, said: str) -> None:
    with pytest.raises(RecipeError, match="begun with another recipe") as caught:
        run.require_same(changed, FACTS)
    assert said in caught.value.message and "--out" in str(caught.value.hint)


def test_every_setting_that_changed_is_named_and_those_that_may_are_not(run: Run) -> None:
    changed = replace(RECIPE, name="other", lora=LoraSpec(rank=5), train=replace(RECIPE.train, epochs=9, seed=4))
    with pytest.raises(RecipeError) as caught:
        run.require_same(changed, FACTS)
    assert caught.value.message.splitlines()[1:] == ["  lora.rank: 16 -> 5", "  train.seed: 0 -> 4"]


def test_what_may_change_is_a_setting_or_a_section_of_the_recipe() -> None:
    known = {path for path, _ in walk(Recipe)}
    assert [key for key in MAY_CHANGE + PLACES if key not in known] == []


def walk(section: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting and section of a recipe by its dotted path."""
    hints = get_type_hints(section)
    for item in dataclasses.fields(section):
        path = f"{above}{item.name}"
        yield path, item
        for kind in (hints[item.name], *get_args(hints[item.name])):
            if dataclasses.is_dataclass(kind):
                yield from walk(kind, f"{path}.")


def test_the_same_data_elsewhere_goes_on_and_other_data_there_is_refused(run: Run) -> None:
    moved = replace(RECIPE, data=DataSpec(source=SourceSpec(kind="jsonl", path="/elsewhere/rows.jsonl")))
    run.require_same(moved, FACTS)
    with pytest.raises(DataError, match="the data changed"):
        run.require_same(moved, FACTS | {"data": {"sha256": "c" * 64}})


def test_the_same_general_data_elsewhere_goes_on_and_other_data_there_is_refused(tmp_path: Path) -> None:
    def among(path: str) -> Recipe:
        return replace(RECIPE, data=replace(RECIPE.data, replay=ReplaySpec(source=SourceSpec(kind="jsonl", path=path))))

    facts = FACTS | {"data": FACTS["data"] | {"replay": {"sha256": "e" * 64}}}
    run = Run(tmp_path)
    run.begin(among("/somewhere/general.jsonl"), facts, SPLIT)
    run.require_same(among("/elsewhere/general.jsonl"), facts)
    with pytest.raises(DataError, match=r"data\.replay changed"):
        run.require_same(among("/elsewhere/general.jsonl"), FACTS | {"data": FACTS["data"] | {"replay": {"sha256": "f" * 64}}})


@pytest.mark.parametrize(("thing", "other"), [("data", {"sha256": "c" * 64}), ("base", {"key": "d" * 32})])
def test_other_data_and_another_base_are_refused(run: Run, thing: str, other: dict[str, str]) -> None:
    with pytest.raises(DataError, match=f"the {thing} changed") as caught:
        run.require_same(RECIPE, FACTS | {thing: other})
    assert str(next(iter(FACTS[thing].values())))[:12] in str(caught.value.hint)


def test_another_limit_of_rows_is_refused(run: Run) -> None:
    with pytest.raises(RecipeError, match="begun without --limit, and this is with --limit 5"):
        run.require_same(RECIPE, FACTS | {"data": FACTS["data"] | {"limit": 5}})


def test_a_folder_of_something_else_is_not_filled(run: Run, tmp_path: Path) -> None:
    for sound in (run.path, tmp_path / "nowhere"):
        Run(sound).refuse_foreign()
    begun = tmp_path / "begun"  # killed before its lock was written
    begun.mkdir()
    for name in ("split.json", ".hidden"):
        (begun / name).touch()
    Run(begun).refuse_foreign()
    (begun / "thesis.tex").touch()
    with pytest.raises(OutputError, match=r"thesis\.tex"):
        Run(begun).refuse_foreign()
    with pytest.raises(OutputError, match="this is a file"):
        Run(begun / "thesis.tex").refuse_foreign()


def test_before_the_first_validation_there_is_nothing_to_answer_with(run: Run) -> None:
    assert run.adapter_hash() is None
    with pytest.raises(OutputError, match="nothing has been learned here yet") as caught:
        run.open_learned()
    assert "--resume" in str(caught.value.hint)
    run.adapter.mkdir()
    (run.adapter / "adapter_model.safetensors").write_bytes(b"abc")
    assert run.adapter_hash() is None, "killed before the second file was there"
    (run.adapter / "adapter_config.json").write_text("{}")
    assert run.adapter_hash() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "SHA-256 of abc"
    assert run.open_learned()[0].name == "small"
