from __future__ import annotations

from pathlib import Path

import pytest

from mlx_distill.errors import RecipeError
from mlx_distill.evaluation import judge
from mlx_distill.recipe.check import check, metric_names, require
from mlx_distill.recipe.load import load
from mlx_distill.recipe.schema import FieldSpec, TaskSpec

SOUND = """\
name: small
task:
  input: "{text}"
  fields:
    kind: {type: choice, choices: [a, b, "3"]}
    relevant: flag
    maturity: {type: score, weight: 1}
    reasoning: text
  tiers: {high: 5, low: 0}
data:
  source: {kind: jsonl, path: rows.jsonl}
base: {model: owner/model}
"""


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "r.yaml").write_text(SOUND)
    return tmp_path / "r.yaml"


def found(path: Path, *sets: str) -> dict[str, str]:
    """Messages by dotted path."""
    return {problem.path: str(problem) for problem in check(load(path, sets))}


def test_a_sound_recipe_has_no_problem(sound: Path) -> None:
    assert found(sound) == {}
    assert require(load(sound)).name == "small"


@pytest.mark.parametrize(
    ("set_", "path", "word"),
    [
        ("data.split.train=0.9", "data.split", "sum to 1.1"),
        ("task.fields.maturity.weight=0.5", "task.fields", "sum to 0.5"),
        ("task.fields.relevant.max=4", "task.fields.relevant.max", "a flag has no max"),
        ("lora.targets=[]", "lora.targets", "at least one projection"),
        ("lora.targets=[all-linear, q_proj]", "lora.targets", "others stand beside it"),
        ("lora.layers=8", "lora.layers", "layers: last 8"),
        ("lora.layers=last", "lora.layers", "layers: last 16"),
        ("lora.layers=last 0", "lora.layers", "must be all, or last N; got 'last 0'"),
        ("lora=none", "lora", "say base.bits: none"),
        ("task.fields.relevant.estimate=mean", "task.fields.relevant.estimate", "a flag has no estimate"),
        ("task.fields.maturity.estimate=average", "task.fields.maturity.estimate", "there is mode, median, mean"),
        ("task.input=no column", "task.input", "names no column"),
        ("task.input={a} {", "task.input", "a brace"),
        ("task.input={}{a}", "task.input", "a brace"),
        ("task.tiers.other=5", "task.tiers.other", "as high does"),
        ("data.source.path=row.jsonl", "data.source.path", "rows.jsonl"),
        ("data.source.delimiter=;", "data.source.delimiter", "csv has"),
        ("data.source.split=train", "data.source.split", "hf has"),
        ("data.source={kind: csv, path: rows.jsonl, delimiter: ';;'}", "data.source.delimiter", "one character"),
        ('data.source.path=""', "data.source.path", "is empty"),
        ("base.model=./nowhere", "base.model", "there is no folder"),
        ("base.model=rows.jsonl", "base.model", "a checkpoint is a folder"),
        ("base.model=a/b/c", "base.model", "neither"),
        ("base.model=", "base.model", "missing"),
        ("train.schedule={kind: linear, cycles: 2}", "train.schedule.cycles", "start anew"),
        ("train.schedule.floor=1", "train.schedule.floor", "above the learning rate"),
        ("targets.accurcy=0.5", "targets.accurcy", "did you mean accuracy?"),
        ("targets.accuracy=88", "targets.accuracy", "0.88 for 88 %"),
        ("targets.score_mae=-1", "targets.score_mae", "at least 0"),
        ("targets.mae.relevant=1", "targets.mae.relevant", "a flag has accuracy.relevant"),
        ("train.keep=mae.kind", "train.keep", "a choice has accuracy.kind, macro_f1.kind, cohen_kappa.kind"),
        ("train.keep=acuracy", "train.keep", "did you mean accuracy?"),
        ("train.keep=valid", "train.keep", "this task has no metric valid"),
        ("train.keep=nll", "train.keep", "keep: valid_loss"),
        ("train.keep=nll.kind", "train.keep", "keep: valid_loss"),
        ("train.keep=length.reasoning", "train.keep", "a text has rouge_l.reasoning, empty.reasoning"),
        ("train.max_skipped=0", "train.max_skipped", "at least 1"),
        ("train.sample_every=0", "train.sample_every", "at least 1"),
        ("data.balance.kind=cubic", "data.balance.kind", "not among its values"),
        ("data.balance={kind: sqrt, fields: [kid]}", "data.balance.fields.0", "did you mean kind?"),
        ("data.balance={kind: sqrt, fields: [kind, reasoning]}", "data.balance.fields.1", "a text has no labels to count"),
        ("data.balance.fields=[kind]", "data.balance.fields", "the kind is none"),
        ("data.replay={source: {kind: jsonl, path: rows.jsonl}, share: 1}", "data.replay.share", "at most 0.9"),
        ("data.replay={source: {kind: jsonl, path: rows.jsonl}, input: no column}", "data.replay.input", "names no column"),
        ("data.replay={source: {kind: jsonl, path: rows.jsonl}, output: '{a} {'}", "data.replay.output", "a brace"),
    ],
)
def test_what_makes_no_sense_is_said_at_its_place(sound: Path, monkeypatch: pytest.MonkeyPatch, set_: str, path: str, word: str) -> None:
    monkeypatch.chdir(sound.parent)
    problems = found(sound, set_)
    assert list(problems) == [path]
    assert word in problems[path]


@pytest.mark.parametrize("source", ["{kind: csv, path: rows.jsonl, delimiter: ';'}", "{kind: hf, path: a/b, split: test, revision: main}"])
def test_a_kind_of_source_takes_its_own_settings(sound: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(sound.parent)
    assert found(sound, f"data.source={source}") == {}


def test_replay_has_a_source_as_any_other(sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sound.parent)
    problems = found(sound, "data.replay.source={kind: csv, path: rows.json, revision: main}")
    assert "hf has" in problems["data.replay.source.revision"]
    assert "rows.jsonl" in problems["data.replay.source.path"]


def test_the_shape_and_the_sense_come_together_in_the_order_of_the_lines(sound: Path) -> None:
    sound.write_text(SOUND.replace("rows.jsonl", "nope.jsonl") + "train: {epochs: 0}\ntargets: {accuracy: 2}\ntypo: 1\n")
    problems = check(load(sound, ["lora.rank=0"]))
    assert [(problem.line, problem.path) for problem in problems] == [
        (11, "data.source.path"),
        (13, "train.epochs"),
        (15, "typo"),
        (None, "lora.rank"),
    ]


def test_tiers_need_tiers(sound: Path) -> None:
    assert found(sound, "data.split.stratify_by=tier") == {}
    assert "no tiers" in found(sound, "data.split.stratify_by=tier", "task.tiers=null")["data.split.stratify_by"]
    assert "tier_agreement" in found(sound, "targets.tier_agreement=0.8", "task.tiers=null")["targets.tier_agreement"]


def test_a_target_must_be_a_metric_of_its_field(sound: Path) -> None:
    sound.write_text(SOUND + "targets: {mae.kind: 1, accuracy.maturity: 1, ece.reasoning: 0.1, accuracy.reelvant: 1, mae.maturity: 1.5}\n")
    problems = found(sound)
    assert set(problems) == {"targets.mae.kind", "targets.accuracy.maturity", "targets.ece.reasoning", "targets.accuracy.reelvant"}
    assert problems["targets.mae.kind"].endswith(
        "(a choice has accuracy.kind, macro_f1.kind, cohen_kappa.kind, brier.kind, ece.kind, ece_mass.kind, nll.kind, perplexity.kind)"
    )
    assert problems["targets.accuracy.reelvant"].endswith("(did you mean accuracy.relevant?)")


def test_a_task_has_the_metrics_of_its_fields() -> None:
    scores = TaskSpec(input="{t}", fields={"a": FieldSpec(kind="score")})
    of_a = ["mae.a", "rmse.a", "bias.a", "exact.a", "kappa.a", "spearman.a", "crps.a", "ece.a", "ece_mass.a", "nll.a", "perplexity.a"]
    assert metric_names(scores) == [*of_a, "dimension_mae", "exact_match", "valid_json", "nll", "perplexity"]
    weighted = TaskSpec(input="{t}", fields={"a": FieldSpec(kind="score", weight=1.0)}, tiers={"x": 0.0})
    assert {"accuracy", "overall_mae", "score_mae", "overall_within_0.5", "tier_agreement", "tier_kappa"} <= set(metric_names(weighted))
    flags = TaskSpec(input="{t}", fields={"id": FieldSpec(kind="flag")})
    assert {"accuracy", "accuracy.id", "macro_f1.id", "cohen_kappa.id", "brier.id"} <= set(metric_names(flags))
    assert not any(name.startswith(("overall", "tier")) for name in (*metric_names(scores), *metric_names(flags)))


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("overall_within_0.5: 85", "0.85 for 85 %"),
        ("kappa.maturity: 1.2", "is a share"),
        ("rmse.maturity: 1.2", None),
        ("bias.maturity: 1.2", None),
        ("bias.maturity: -0.2", "at least 0"),
        ("brier.kind: 1.5", None),
        ("crps.maturity: 3", None),
        ("length.reasoning: 200", None),
        ("length_ratio.reasoning: 1.5", None),
        ("perplexity.reasoning: 12", None),
        ("overall_rmse: 2", None),
        ("rouge_l.reasoning: 30", "0.3 for 30 %"),
    ],
)
def test_a_target_is_a_share_unless_its_metric_may_be_more_than_1(sound: Path, target: str, word: str | None) -> None:
    sound.write_text(SOUND + f"targets: {{{target}}}\n")
    problems = found(sound)
    assert (word is None and problems == {}) or (word is not None and word in problems[f"targets.{target.partition(':')[0]}"])


@pytest.mark.parametrize("weight", [None, 1.0])
@pytest.mark.parametrize("tiers", [{}, {"low": 0.0}])
@pytest.mark.parametrize("kind", ["score", "choice", "flag", "text", "list"])
def test_the_metrics_that_a_target_may_name_are_those_that_are_measured(kind: str, tiers: dict[str, float], weight: float | None) -> None:
    choices = ("a", "b") if kind == "choice" else None
    fields = {"x": FieldSpec(kind=kind, choices=choices), "y": FieldSpec(kind="score", weight=weight)}
    measured = judge.metric_names(fields, tiers=bool(tiers))
    assert sorted(metric_names(TaskSpec(input="{t}", fields=fields, tiers=tiers))) == measured


@pytest.mark.parametrize(
    ("when", "word"),
    [
        ("{kind: c}", "none of its choices"),
        ("{kind: [a, c]}", "none of its choices"),
        ("{kind: 3}", "quote it: '3'"),
        ("{relevant: yes}", "true or false"),
        ("{maturity: high}", "a number"),
        ("{maturity: {under: 3}}", "no condition"),
        ("{maturity: {below: x}}", "takes a number"),
        ("{kind: {below: 3}}", "no order"),
        ("{maturity: {}}", "{below: x}"),
        ("{}", "needs a condition"),
        ("{kind: null}", "needs a value"),
    ],
)
def test_a_cap_that_could_never_hold_is_refused(sound: Path, when: str, word: str) -> None:
    (message,) = found(sound, f"task.caps=[{{when: {when}, cap: 3}}]").values()
    assert word in message


def test_a_cap_that_waits_for_a_mean_to_be_exactly_a_number_is_refused(sound: Path) -> None:
    mean = "task.fields.maturity.estimate=mean"
    (message,) = found(sound, mean, "task.caps=[{when: {maturity: 3}, cap: 3}]").values()
    assert "hardly ever exactly 3" in message and "{below: x}" in message
    assert found(sound, mean, "task.caps=[{when: {maturity: {below: 3}}, cap: 3}]") == {}
    assert found(sound, "task.fields.maturity.estimate=median", "task.caps=[{when: {maturity: 3}, cap: 3}]") == {}


def test_a_cap_on_fields_and_columns_is_fine(sound: Path) -> None:
    when = "{kind: [a, '3'], relevant: true, maturity: {below: 6, at_least: 1}, content_type: business_news, year: 2024}"
    assert found(sound, f"task.caps=[{{when: {when}, cap: 3}}]") == {}


@pytest.mark.parametrize("keep", ["valid_loss", "accuracy", "macro_f1.kind", "mae.maturity", "score_mae", "tier_agreement", "exact_match"])
def test_the_adapter_may_be_kept_by_any_metric_of_the_task(sound: Path, keep: str) -> None:
    assert found(sound, f"train.keep={keep}") == {}
    only_labels = SOUND.replace("    maturity: {type: score, weight: 1}\n", "").replace("  tiers: {high: 5, low: 0}\n", "")
    sound.write_text(only_labels + f"train:\n  keep: {keep}\n")
    problems = [(problem.path, problem.line) for problem in check(load(sound))]
    assert problems == ([] if keep in ("valid_loss", "accuracy", "macro_f1.kind", "exact_match") else [("train.keep", 12)])


def test_a_task_that_learns_no_field_is_refused(sound: Path) -> None:
    fields = [f"task.fields.{name}.loss=0" for name in ("relevant", "maturity", "kind")]
    assert found(sound, *fields) == {}
    assert "nothing would be learned" in found(sound, *fields, "task.fields.reasoning={type: text, loss: 0}")["task.fields"]


def test_slots_take_texts_beside_what_they_read_and_not_alone(sound: Path) -> None:
    assert found(sound, "answer=slots") == {}
    sound.write_text(SOUND[: SOUND.index("    kind:")] + "    reasoning: text\n    tags: list\n" + SOUND[SOUND.index("data:") :])
    assert found(sound) == {}
    problems = found(sound, "answer=slots")
    assert set(problems) == {"answer"} and "texts and lists alone" in problems["answer"] and "answer: json" in problems["answer"]


def test_what_is_measured_on_validation_rows_needs_some(sound: Path) -> None:
    split = "data.split={train: 0.9, valid: 0, test: 0.1}"
    assert set(found(sound, split, "train.keep=accuracy", "train.sample_every=5")) == {"train.keep", "train.sample_every"}


def test_shares_of_nothing_are_noticed(sound: Path) -> None:
    problems = found(sound, "data.split={train: 1, valid: 0, test: 0}", "train.early_stopping.patience=2", "targets.accuracy=0.9")
    assert set(problems) == {"train.early_stopping", "targets"}


def test_a_local_base_has_no_revision(sound: Path) -> None:
    assert "no revision" in found(sound, f"base.model={sound.parent}", "base.revision=main")["base.revision"]


def test_requiring_a_broken_recipe_raises_with_every_problem(sound: Path) -> None:
    sound.write_text(SOUND + "train: {epochs: 0, seed: -1}\n")
    with pytest.raises(RecipeError) as raised:
        require(load(sound))
    assert "2 problems" in str(raised.value)
    assert f"{sound}:13: train.epochs: must be at least 1; got 0" in str(raised.value)
    assert f"{sound}:13: train.seed: must be at least 0; got -1" in str(raised.value)
    sound.write_text(SOUND + "train: {epochs: 0}\n")
    with pytest.raises(RecipeError) as raised:
        require(load(sound))
    assert (raised.value.line, raised.value.message) == (13, "train.epochs: must be at least 1; got 0")
