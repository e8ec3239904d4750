from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mlx_distill.recipe.build import Builder
from mlx_distill.recipe.load import Loaded, load
from mlx_distill.recipe.schema import LoraSpec, Recipe, TargetsSpec, setting
from mlx_distill.recipe.yaml import parse

MINIMAL = """\
name: small
task:
  input: "{text}"
  fields:
    relevant: flag
data:
  source: {kind: jsonl, path: rows.jsonl}
base: {model: owner/model}
"""

OF_DESIGN = r"""
name: tech-deployment
task:
  instructions: |            # the shared rubric, the same for every row
    You score how far a sustainable technology is deployed ...
  input: "{title}\n\n{content}"
  fields:
    deployment_maturity: {type: score, min: 0, max: 10, weight: 0.20, gate: {below: 5, cap: 4.9}}
    proof_of_impact:     {type: score, min: 0, max: 10, weight: 0.05, gate: {below: 4, cap: 3.9}}
    primary_technology:  {type: choice, choices: [solar, wind, batteries, other]}
    relevant:            {type: flag}
    reasoning:           {type: text, max_chars: 200}
  tiers: {mass_deployment: 8.0, commercial_proven: 6.5, early_commercial: 5.0, pilot_stage: 3.0, vaporware: 0}
data:
  source: {kind: jsonl, path: labels.jsonl}
  split: {train: 0.8, valid: 0.1, test: 0.1, group_by: source, stratify_by: tier}
  replay: {source: {kind: jsonl, path: general.jsonl}, share: 0.2}
base: {model: Qwen/Qwen2.5-1.5B-Instruct, bits: 4, group_size: 64}
lora: {rank: 16, alpha: 32, dropout: 0.05, targets: [q_proj, k_proj, v_proj, o_proj]}
train:
  epochs: 3
  batch_size: 4
  accumulate: 4
  learning_rate: 2.0e-4
  schedule: {kind: cosine, warmup: 0.1, floor: 1.0e-6, cycles: 1}
  early_stopping: {patience: 3, min_delta: 0.001}
  max_tokens: 2048           # also: seed, optimizer, weight_decay, clip_norm, validate_every, checkpoint_every, keep, memory_limit
answer: json                 # or: slots
targets: {accuracy: 0.88, tier_agreement: 0.85, score_mae: 0.8, dimension_mae: 1.0}
"""


def written(folder: Path, text: str, name: str = "r.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def recipe_of(path: Path, *sets: str, **environment: str) -> Recipe:
    loaded = load(path, sets, environment=environment)
    assert loaded.problems == ()
    assert loaded.recipe is not None
    return loaded.recipe


def said(loaded: Loaded, path: str) -> str:
    """The one problem at a dotted path, as message and hint."""
    (problem,) = [problem for problem in loaded.problems if problem.path == path]
    return problem.message + (f" ({problem.hint})" if problem.hint else "")


def test_the_recipe_of_the_design_parses_whole(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, OF_DESIGN))
    assert loaded.problems == ()
    recipe = loaded.recipe
    assert recipe is not None
    assert recipe.task.input == "{title}\n\n{content}"
    assert list(recipe.task.fields) == ["deployment_maturity", "proof_of_impact", "primary_technology", "relevant", "reasoning"]
    gate = recipe.task.fields["deployment_maturity"].gate
    assert gate is not None
    assert (gate.below, gate.cap) == (5, 4.9)
    assert recipe.task.tiers["vaporware"] == 0
    assert recipe.train.schedule.floor == 1e-6
    assert recipe.lora.alpha == 32


def test_what_a_recipe_leaves_out_has_its_default(tmp_path: Path) -> None:
    recipe = recipe_of(written(tmp_path, MINIMAL))
    assert recipe.task.fields["relevant"].kind == "flag"
    assert (recipe.base.bits, recipe.train.clip_norm, recipe.train.early_stopping, recipe.lora.rank) == (4, 1.0, None, 16)


def test_numbers_are_read_however_people_write_them(tmp_path: Path) -> None:
    text = MINIMAL + "train: {learning_rate: 1e-4, max_tokens: 2E3, epochs: 4.0, weight_decay: 0, schedule: {floor: .5e-7}}\n"
    train = recipe_of(written(tmp_path, text)).train
    assert (train.learning_rate, train.max_tokens, train.epochs, train.weight_decay) == (1e-4, 2000, 4, 0.0)
    assert isinstance(train.max_tokens, int)
    assert isinstance(train.weight_decay, float)
    assert train.schedule.floor == 5e-8


@pytest.mark.parametrize("word", ["none", "null", "~", "None"])
def test_none_and_null_mean_none_where_that_is_legal(tmp_path: Path, word: str) -> None:
    text = MINIMAL.replace("owner/model}", f"owner/model, bits: {word}}}") + f"train: {{clip_norm: {word}, early_stopping: {word}}}\n"
    recipe = recipe_of(written(tmp_path, text))
    assert (recipe.base.bits, recipe.train.clip_norm, recipe.train.early_stopping) == (None, None, None)


def test_choices_are_texts_as_they_were_written(tmp_path: Path) -> None:
    choices = "{type: choice, choices: [1, 2.0, yes, no, true, none, 2024-01-31, 1e3, 007]}"
    recipe = recipe_of(written(tmp_path, MINIMAL.replace("flag", choices)))
    assert recipe.task.fields["relevant"].choices == ("1", "2.0", "yes", "no", "true", "none", "2024-01-31", "1e3", "007")


def test_a_revision_of_digits_stays_a_text(tmp_path: Path) -> None:
    text = MINIMAL.replace("owner/model", "owner/model, revision: 0012e45")
    assert recipe_of(written(tmp_path, text)).base.revision == "0012e45"


def test_a_field_may_have_any_name(tmp_path: Path) -> None:
    text = MINIMAL.replace("    relevant: flag", "    id: flag\n    on: flag\n    3: flag\n    type: flag\n    a.b: flag")
    assert list(recipe_of(written(tmp_path, text)).task.fields) == ["id", "on", "3", "type", "a.b"]


def test_all_that_is_wrong_is_said_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = """\
nme: x
task:
  input: {text}
  fields:
    a: {type: scor}
    b: {type: choice, choices: yes}
    c: {type: score, weight: "0.5"}
epochs: 3
data:
  source: {kind: csv, path: x.csv}
  missing: Not labeled
base: {model: owner/model, bits: 7}
train:
  epochs: 0
  learning_rate: -1
  batch_size: 2.5
  max_tokens: 3
  seed: true
  schedule: {warmup: 1.5, kind: [cosine]}
  weight_decay: .nan
evaluate: {baselines: yes}
"""
    loaded = load(written(tmp_path, text))
    assert loaded.recipe is None
    assert {(problem.line, problem.path) for problem in loaded.problems} == {
        (1, "nme"),
        (1, "name"),
        (3, "task.input"),
        (5, "task.fields.a.type"),
        (6, "task.fields.b.choices"),
        (7, "task.fields.c.weight"),
        (8, "epochs"),
        (11, "data.missing"),
        (12, "base.bits"),
        (14, "train.epochs"),
        (15, "train.learning_rate"),
        (16, "train.batch_size"),
        (17, "train.max_tokens"),
        (18, "train.seed"),
        (19, "train.schedule.warmup"),
        (19, "train.schedule.kind"),
        (20, "train.weight_decay"),
        (21, "evaluate.baselines"),
    }
    assert said(loaded, "nme") == "there is no such setting (did you mean name?)"
    assert said(loaded, "epochs") == "there is no such setting (did you mean train.epochs?)"
    assert said(loaded, "task.fields.a.type") == "'scor' is not among its values (did you mean score?)"
    assert said(loaded, "task.fields.b.choices") == "must be a list; got the text 'yes' (write [yes])"
    assert said(loaded, "base.bits") == "7 is not among its values (there is 2, 3, 4, 5, 6, 8, none)"
    assert said(loaded, "train.learning_rate") == "must be above 0; got -1"
    assert said(loaded, "train.max_tokens") == "must be at least 16 tokens; got 3"
    assert said(loaded, "train.schedule.warmup") == "must be at most 1; got 1.5"
    assert "quote" in said(loaded, "task.input")


def test_a_broken_section_does_not_hide_the_sense_of_its_neighbours(tmp_path: Path) -> None:
    loaded = load(written(tmp_path, MINIMAL + "train: {epochs: 0}\n"))
    assert loaded.recipe is None
    assert {"task", "task.fields.relevant", "data", "data.source", "base"} == loaded.sections.keys()
    assert "train" not in loaded.sections


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """A section with settings of the future."""

    kind: str = setting("now", "what it is", choices=("now", "soon"), later=("soon",))
    depth: int = setting(1, "how deep", later=("*",))
    other: LoraSpec = setting(LoraSpec, "another", later=("none",))


@pytest.mark.parametrize(("text", "path"), [("kind: soon", "kind"), ("depth: 2", "depth"), ("other: none", "other")])
def test_what_does_not_work_yet_is_refused_and_never_ignored(text: str, path: str) -> None:
    refused, accepted = built(text), built("kind: now\ndepth: 1\n")
    assert [problem.path for problem in refused.problems] == [path] and "not supported yet" in refused.problems[0].message
    assert accepted.sections[""] == Unfinished() and not accepted.problems


def built(text: str) -> Builder:
    builder, (node, _) = Builder(), parse(text, "recipe.yaml", Path())
    assert node is not None
    builder.section(Unfinished, node)
    return builder


@pytest.mark.parametrize("word", ["none", "null", "~"])
def test_without_an_adapter_all_weights_are_trained(tmp_path: Path, word: str) -> None:
    assert recipe_of(written(tmp_path, MINIMAL + f"lora: {word}\n")).lora is None


def test_every_projection_may_be_named_by_one_word(tmp_path: Path) -> None:
    for text in ("all-linear", "[all-linear]"):
        assert recipe_of(written(tmp_path, MINIMAL + f"lora: {{targets: {text}}}\n")).lora == LoraSpec(targets=("all-linear",))
    assert said(load(written(tmp_path, MINIMAL + "lora: {targets: all_linear}\n")), "lora.targets").endswith("(write [all_linear])")


@pytest.mark.parametrize(("text", "last"), [("all", None), ("last 1", 1), ("last 16", 16)])
def test_the_last_layers_are_named_by_their_number(tmp_path: Path, text: str, last: int | None) -> None:
    assert recipe_of(written(tmp_path, MINIMAL + f"lora: {{layers: {text}}}\n"), f"lora.layers={text}").lora == LoraSpec(layers=text)
    assert LoraSpec(layers=text).last == last


def test_an_empty_section_has_its_defaults(tmp_path: Path) -> None:
    assert recipe_of(written(tmp_path, MINIMAL + "lora:\ntrain:\n  # epochs: 3\n")).lora.rank == 16


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("name: x\nname: y\n", 2, "twice"),
        ("name: x\n\ttask: y\n", 2, "tab"),
        ("a: b\nname: x: y\n", 2, "colon"),
        ("name: [x\ntask: y\n", 2, "not YAML"),
        ("name: 'x\n", 2, "not YAML"),
        ("", 1, "empty"),
        ("# only a comment\n", 1, "empty"),
        ("- x\n", 1, "section"),
        ("x\n", 1, "section"),
        ("name: x\n---\nname: y\n", 2, "second document"),
        ("name: x\ntask: \0\n", 2, "U+0000"),
        ("name: !!python/object:os.system x\n", 1, "tag"),
        ("name: x\ntask: !!python/dict {}\n", 2, "tag"),
        ("name: x\ntask: &a {b: *a}\n", 2, "alias"),
        ("name: x\ntask: *a\n", 2, "not YAML"),
        ("? [a, b]\n: c\n", 1, "key"),
        ("a: " + "[" * 1000, 1, "deeply"),
    ],
)
def test_what_is_no_yaml_is_said_with_its_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    problems = load(written(tmp_path, text)).problems
    assert any(problem.line == line and word in problem.message for problem in problems), [str(problem) for problem in problems]


def test_a_file_that_cannot_be_read_is_a_problem_not_a_traceback(tmp_path: Path) -> None:
    written(tmp_path, MINIMAL, "recipe.yaml")
    (missing,) = load(tmp_path / "recipe.yml").problems
    assert str(missing) == f"{tmp_path}/recipe.yml: there is no such recipe (did you mean {tmp_path}/recipe.yaml?)"
    assert "is a folder" in str(load(tmp_path).problems[0])
    assert "no such recipe" in str(load(tmp_path / "recipe.yaml" / "x").problems[0])
    (tmp_path / "latin.yaml").write_bytes(b"a: b\nname: caf\xe9\n")
    assert str(load(tmp_path / "latin.yaml").problems[0]).startswith(f"{tmp_path}/latin.yaml:2: is not UTF-8")


def test_anchors_and_merge_keys_work_and_cannot_explode(tmp_path: Path) -> None:
    text = MINIMAL.replace("    relevant: flag", "    a: &s {type: score, max: 5}\n    b: {<<: *s, max: 4}")
    fields = recipe_of(written(tmp_path, text)).task.fields
    assert (fields["a"].max, fields["b"].max, fields["b"].kind) == (5, 4, "score")
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))
    assert load(written(tmp_path, bomb, "bomb.yaml")).recipe is None


def test_a_recipe_extends_another_key_by_key(tmp_path: Path) -> None:
    below = MINIMAL + "lora: {rank: 8, targets: [q_proj, v_proj]}\ntrain: {epochs: 5, clip_norm: 2, schedule: {warmup: 0.2}}\n"
    written(tmp_path, below, "shared/below.yaml")
    above = "extends: shared/below.yaml\nname: other\nlora: {targets: [o_proj]}\n"
    above += "train: {epochs: null, clip_norm: none, schedule: {floor: 1e-5}}\n"
    recipe = recipe_of(written(tmp_path, above + "task: {fields: {relevant: null, score: {type: score}}}\n"))
    assert recipe.name == "other"
    assert (recipe.lora.rank, recipe.lora.targets) == (8, ("o_proj",))
    assert (recipe.train.epochs, recipe.train.clip_norm) == (3, None)
    assert (recipe.train.schedule.warmup, recipe.train.schedule.floor) == (0.2, 1e-5)
    assert list(recipe.task.fields) == ["score"]


def test_the_later_of_several_extended_recipes_wins(tmp_path: Path) -> None:
    written(tmp_path, MINIMAL + "train: {epochs: 5, batch_size: 2}\n", "a.yaml")
    written(tmp_path, "train: {epochs: 6}\n", "b.yaml")
    train = recipe_of(written(tmp_path, "extends: [a.yaml, b.yaml]\n")).train
    assert (train.epochs, train.batch_size) == (6, 2)


def test_two_recipes_may_extend_the_same_third(tmp_path: Path) -> None:
    written(tmp_path, MINIMAL + "train: {epochs: 0}\n", "base.yaml")
    written(tmp_path, "extends: base.yaml\n", "a.yaml")
    written(tmp_path, "extends: base.yaml\n", "b.yaml")
    loaded = load(written(tmp_path, "extends: [a.yaml, b.yaml]\n"))
    assert [problem.path for problem in loaded.problems] == ["train.epochs"]


def test_a_recipe_that_extends_itself_is_told_the_circle(tmp_path: Path) -> None:
    itself = load(written(tmp_path, "name: x\nextends: itself.yaml\n", "itself.yaml"))
    assert [str(problem) for problem in itself.problems] == [
        f"{tmp_path}/itself.yaml:2: extends: the recipe extends itself: itself.yaml → itself.yaml (take one of them out)"
    ]
    written(tmp_path, "extends: c.yaml\n", "b.yaml")
    written(tmp_path, "extends: [b.yaml]\n", "c.yaml")
    circle = load(written(tmp_path, MINIMAL + "extends: b.yaml\n", "a.yaml"))
    assert said(circle, "extends").startswith("the recipe extends itself: b.yaml → c.yaml → b.yaml")


def test_where_an_extended_recipe_is_not_there_nothing_else_is_called_missing(tmp_path: Path) -> None:
    written(tmp_path, MINIMAL, "below.yaml")
    (problem,) = load(written(tmp_path, "name: x\nextends: belwo.yaml\n")).problems
    assert (problem.line, problem.path) == (2, "extends")
    assert problem.hint == f"did you mean {tmp_path}/below.yaml?"


def test_a_place_is_the_file_and_line_of_the_key_or_its_nearest_parent(tmp_path: Path) -> None:
    below = written(tmp_path, MINIMAL, "shared/below.yaml")
    task = "task:\n  fields:\n    maturity:\n      type: score\n      max: 5\n  caps:\n  - {when: {a: 1}, cap: 3}\n"
    path = written(tmp_path, "extends: shared/below.yaml\n" + task)
    loaded = load(path, ["train.epochs=4"])
    assert loaded.where("task.fields.maturity.max") == (str(path), 6)
    assert loaded.where("task.fields.maturity.min") == (str(path), 4)
    assert loaded.where("task.caps.0.when") == (str(path), 8)
    assert loaded.where("task.input") == (str(below), 3)
    assert loaded.where("data.split.train") == (str(below), 6)
    assert loaded.where("train.epochs") == ("--set train.epochs=4", None)
    assert loaded.where("base.bits") == (str(below), 8)
    assert loaded.where("") == (str(path), 1)


def test_a_relative_path_is_relative_to_the_file_that_wrote_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared" / "owner" / "model").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    written(tmp_path, MINIMAL, "shared/below.yaml")
    path = written(tmp_path, "extends: shared/below.yaml\n")
    recipe = recipe_of(path)
    assert recipe.data.source.path == str(tmp_path / "shared" / "rows.jsonl")
    assert recipe.base.model == str(tmp_path / "shared" / "owner" / "model"), "a folder that is there beats a hub id"
    changed = load(path, ["data.source.path=mine.jsonl", "base.model=./x"])
    assert changed.recipe is not None
    assert changed.recipe.data.source.path == str(tmp_path / "work" / "mine.jsonl")
    assert changed.recipe.base.model == str(tmp_path / "work" / "x")


def test_a_hub_id_stays_what_it_is(tmp_path: Path) -> None:
    text = MINIMAL.replace("{kind: jsonl, path: rows.jsonl}", "{kind: hf, path: owner/data}")
    recipe = recipe_of(written(tmp_path, text))
    assert (recipe.base.model, recipe.data.source.path) == ("owner/model", "owner/data")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.learning_rate=1e-4", 1e-4),
        ("train.early_stopping.patience=7", 7),
        ("train.clip_norm=none", None),
        ("lora.targets=[q_proj, o_proj]", ("q_proj", "o_proj")),
        ("task.fields.relevant={type: choice, choices: [a, b]}", ("a", "b")),
        ("task.input={text}", "{text}"),
        ("task.input={a}: {b}", "{a}: {b}"),
        ('task.instructions="a=b"', "a=b"),
        ("task.instructions=", ""),
        ("targets.valid_json=0.9", 0.9),
    ],
)
def test_set_changes_one_setting(tmp_path: Path, text: str, value: object) -> None:
    found: object = recipe_of(written(tmp_path, MINIMAL), text)
    for key in text.partition("=")[0].split("."):
        found = found.metrics if isinstance(found, TargetsSpec) else found
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert getattr(found, "choices", found) == value


def test_a_target_of_one_field_can_be_set(tmp_path: Path) -> None:
    recipe = recipe_of(written(tmp_path, MINIMAL + "targets: {accuracy.relevant: 0.9, valid_json: 1}\n"), "targets.accuracy.relevant=0.5")
    assert recipe.targets.metrics == {"accuracy.relevant": 0.5, "valid_json": 1}
    assert recipe_of(written(tmp_path, MINIMAL), "targets.ece.relevant=0.1").targets.metrics == {"ece.relevant": 0.1}


def test_set_reaches_into_a_field_written_in_short(tmp_path: Path) -> None:
    recipe = recipe_of(written(tmp_path, MINIMAL), "task.fields.relevant.loss=0.5", "task.fields.x=score", "task.fields.x.max=5")
    assert (recipe.task.fields["relevant"].kind, recipe.task.fields["relevant"].loss) == ("flag", 0.5)
    assert (recipe.task.fields["x"].kind, recipe.task.fields["x"].max) == ("score", 5)


def test_set_that_is_wrong_says_what_was_meant(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL)
    form = "is not of the form section.key=value (for example --set train.epochs=1)"
    assert str(load(path, ["train.epochs"]).problems[0]) == f"--set train.epochs: {form}"
    assert said(load(path, ["=3"]), "") == said(load(path, ["a..b=3"]), "") == form
    assert (
        str(load(path, ["train.epoch=3"]).problems[0])
        == "--set train.epoch=3: train.epoch: there is no such setting (did you mean epochs?)"
    )
    assert said(load(path, ["train.epochs=many"]), "train.epochs") == "must be a whole number; got the text 'many'"
    assert said(load(path, ["lora.targets=q_proj,v_proj"]), "lora.targets").endswith("(write [q_proj, v_proj])")
    assert "did you mean relevant?" in said(load(path, ["task.fields.relevent.loss=2"]), "task.fields.relevent")


def test_names_in_base_model_come_from_the_given_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE", "must/not-be-seen")
    monkeypatch.chdir(tmp_path)
    path = written(tmp_path, MINIMAL.replace("owner/model", '"${BASE}"'), "recipes/r.yaml")
    assert recipe_of(path, BASE="some/base").base.model == "some/base"
    assert recipe_of(path, BASE="./here").base.model == str(tmp_path / "here")
    assert said(load(path), "base.model").startswith("the environment has no BASE (export BASE=")
    assert recipe_of(path, "name=${BASE}", BASE="some/base").name == "${BASE}"
