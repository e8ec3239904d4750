from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mlx_distill.errors import RecipeError
from mlx_distill.recipe.load import load
from mlx_distill.recipe.lock import differences, read_lock, recipe_hash, resolved, write_lock
from mlx_distill.recipe.schema import (
    BaseSpec,
    CapSpec,
    DataSpec,
    EvaluateSpec,
    FieldSpec,
    GateSpec,
    LoraSpec,
    Recipe,
    ScheduleSpec,
    SourceSpec,
    StoppingSpec,
    TargetsSpec,
    TaskSpec,
    TrainSpec,
)
from mlx_distill.recipe.yaml import dump, parse, plain

RECIPE = Recipe(
    name="small",
    task=TaskSpec(input="{text}", fields={"a": FieldSpec(kind="flag"), "b": FieldSpec(kind="score", max=5)}),
    data=DataSpec(source=SourceSpec(kind="jsonl", path="/somewhere/rows.jsonl")),
    base=BaseSpec(model="owner/model"),
)

words = st.sampled_from(
    ["no", "none", "null", "~", "true", "1e-4", "007", "2024-01-31", "<<", "", " x ", "a: b", "# c", "{t}", "é\u202e🙂", "a\nb", "\ttab"]
)
texts = words | st.text(max_size=30)
names = texts.filter(bool)
numbers = st.floats(-1e9, 1e9) | st.integers(-1000, 1000).map(float)
positive = st.floats(1e-9, 1e9)
maybe = st.none


def fields() -> st.SearchStrategy[FieldSpec]:
    gate = st.builds(GateSpec, below=numbers, cap=numbers)
    return st.builds(
        FieldSpec,
        kind=st.sampled_from(["score", "choice", "flag", "text", "list"]),
        source=maybe() | texts,
        loss=positive,
        min=maybe() | numbers,
        step=maybe() | positive,
        gate=maybe() | gate,
        choices=maybe() | st.lists(texts).map(tuple),
        max_chars=maybe() | st.integers(1, 1000),
    )


conditions = st.booleans() | numbers | st.integers(-9, 9) | texts | st.lists(texts, max_size=3) | st.fixed_dictionaries({"below": numbers})

recipes = st.builds(
    Recipe,
    name=texts,
    task=st.builds(
        TaskSpec,
        input=texts,
        instructions=texts,
        fields=st.dictionaries(names, fields(), max_size=3),
        tiers=st.dictionaries(names, numbers, max_size=3),
        caps=st.lists(st.builds(CapSpec, when=st.dictionaries(names, conditions, max_size=2), cap=numbers), max_size=2).map(tuple),
    ),
    data=st.builds(
        DataSpec,
        source=st.builds(SourceSpec, kind=st.sampled_from(["jsonl", "csv"]), path=st.just("/data/rows"), delimiter=maybe() | texts),
        missing=st.lists(texts).map(tuple),
    ),
    base=st.builds(BaseSpec, model=st.just("owner/model"), bits=st.sampled_from([None, 2, 8]), revision=maybe() | texts),
    lora=st.builds(LoraSpec, rank=st.integers(1, 1024), alpha=positive, targets=st.lists(texts).map(tuple)),
    train=st.builds(
        TrainSpec,
        learning_rate=positive,
        clip_norm=maybe() | positive,
        early_stopping=maybe() | st.builds(StoppingSpec, patience=st.integers(1, 9)),
        schedule=st.builds(ScheduleSpec, kind=st.sampled_from(["cosine", "linear"]), floor=positive),
        memory_limit=maybe() | positive,
    ),
    evaluate=st.builds(EvaluateSpec, slices=st.lists(texts).map(tuple), baselines=st.booleans()),
    targets=st.builds(TargetsSpec, metrics=st.dictionaries(names.filter(lambda name: name != "defer"), numbers, max_size=3)),
)


@settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # shrinking one takes minutes
@given(recipe=recipes)
def test_any_recipe_survives_its_lock(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = tmp_path_factory.getbasetemp() / "any.lock.yaml"
    write_lock(path, recipe, facts={"seed": 3})
    again, facts = read_lock(path)
    assert again == recipe
    assert facts == {"seed": 3}
    assert differences(recipe, again) == []
    assert recipe_hash(again) == recipe_hash(recipe)


@settings(max_examples=300, deadline=None)
@given(
    doc=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    )
)
def test_what_is_dumped_is_parsed_back(doc: Any) -> None:
    node, problems = parse(dump({"doc": doc}), "x", Path())
    assert problems == []
    assert node is not None
    assert plain(node) == {"doc": doc}


def test_the_lock_says_every_setting_and_the_facts(tmp_path: Path) -> None:
    write_lock(tmp_path / "recipe.lock.yaml", RECIPE, facts={"data": {"sha256": "ab"}, "versions": {"mlx": "0.29"}})
    text = (tmp_path / "recipe.lock.yaml").read_text()
    doc = pyyaml.safe_load(text)
    assert doc["recipe"]["train"]["schedule"] == {"kind": "cosine", "warmup": 0.1, "floor": 0.0, "cycles": 1}
    assert doc["recipe"]["task"]["fields"]["b"] == {"type": "score", "loss": 1.0, "max": 5}
    assert doc["locked"] == {"data": {"sha256": "ab"}, "versions": {"mlx": "0.29"}}


def test_a_lock_is_a_recipe_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "recipes" / "r.yaml"
    source.parent.mkdir()
    (source.parent / "base").mkdir()
    task = "task: {input: '{text}', fields: {a: flag}}"
    source.write_text(
        f"name: x\n{task}\ndata: {{source: {{kind: csv, path: rows.csv}}}}\nbase: {{model: base, bits: none}}\ntrain: {{clip_norm: none}}\n"
    )
    recipe = load(source).recipe
    assert recipe is not None
    (tmp_path / "run").mkdir()
    write_lock(tmp_path / "run" / "recipe.lock.yaml", recipe, facts={})
    monkeypatch.chdir("/")
    assert load(tmp_path / "run" / "recipe.lock.yaml").recipe == recipe
    (tmp_path / "more.yaml").write_text("extends: run/recipe.lock.yaml\ntrain: {epochs: 9}\n")
    more = load(tmp_path / "more.yaml").recipe
    assert more == replace(recipe, train=replace(recipe.train, epochs=9))


def test_the_hash_is_that_of_the_intent_not_of_the_machine() -> None:
    elsewhere = replace(RECIPE, data=replace(RECIPE.data, source=SourceSpec(kind="jsonl", path="/home/rows.jsonl")))
    assert recipe_hash(RECIPE) == recipe_hash(elsewhere)
    local = replace(RECIPE, base=BaseSpec(model="/a/base"))
    assert recipe_hash(local) == recipe_hash(replace(RECIPE, base=BaseSpec(model="/b/base")))
    assert recipe_hash(RECIPE) != recipe_hash(replace(RECIPE, base=BaseSpec(model="another/model")))
    assert recipe_hash(RECIPE) != recipe_hash(replace(RECIPE, train=TrainSpec(epochs=4)))


def test_the_order_of_fields_matters_and_that_of_targets_does_not() -> None:
    fields = RECIPE.task.fields
    turned = replace(RECIPE, task=replace(RECIPE.task, fields=dict(reversed(fields.items()))))
    assert recipe_hash(turned) != recipe_hash(RECIPE)
    assert differences(RECIPE, turned) == ["task.fields: the order a, b -> b, a"]
    one, other = (
        replace(RECIPE, targets=TargetsSpec(metrics={"x": 1.0, "y": 2.0})),
        replace(RECIPE, targets=TargetsSpec(metrics={"y": 2.0, "x": 1.0})),
    )
    assert recipe_hash(one) == recipe_hash(other)
    assert differences(one, other) == []


def test_differences_name_each_setting() -> None:
    new = replace(
        RECIPE, train=TrainSpec(epochs=5, clip_norm=None, early_stopping=StoppingSpec()), targets=TargetsSpec(metrics={"accuracy": 0.9})
    )
    assert differences(RECIPE, new) == [
        "train.epochs: 3 -> 5",
        "train.clip_norm: 1.0 -> none",
        "targets: {} -> none",
        "train.early_stopping.patience: none -> 3",
        "train.early_stopping.min_delta: none -> 0.0",
        "targets.accuracy: none -> 0.9",
    ]


def test_a_lock_remembers_that_there_is_no_adapter(tmp_path: Path) -> None:
    recipe = replace(RECIPE, lora=None)
    write_lock(tmp_path / "lock.yaml", recipe, facts={})
    assert read_lock(tmp_path / "lock.yaml")[0].lora is None
    assert "lora.rank: 16 -> none" in differences(RECIPE, recipe)


def test_resolved_is_plain_and_whole() -> None:
    doc = resolved(RECIPE)
    assert doc["base"] == {"model": "owner/model", "bits": 4, "group_size": 64}
    assert "replay" not in doc["data"]
    assert doc["train"]["clip_norm"] == 1.0


@pytest.mark.parametrize("text", ["name: x\n", "", "recipe: {name: x}\nlocked: {}\n", "recipe: [\n"])
def test_a_damaged_lock_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.lock.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as raised:
        read_lock(path)
    assert str(path) in str(raised.value)


def test_a_recipe_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(dump(resolved(RECIPE)))
    with pytest.raises(RecipeError, match="not a lock"):
        read_lock(path)
    with pytest.raises(RecipeError, match="no such recipe"):
        read_lock(tmp_path / "none.yaml")
