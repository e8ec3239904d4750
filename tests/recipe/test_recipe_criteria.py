"""What answers are judged by makes sense beside the task and the data; and a recipe that trains nothing may have nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_distill.errors import RecipeError
from mlx_distill.recipe import criteria
from mlx_distill.recipe.check import check, require_criteria
from mlx_distill.recipe.load import load
from mlx_distill.recipe.schema import EvaluateSpec, FairnessSpec, FieldSpec, ReportSpec, TaskSpec

SOUND = """\
name: small
task:
  input: "{title} {text}"
  fields:
    kind: {type: choice, choices: [a, b]}
    relevant: flag
    maturity: {type: score, weight: 1}
    reasoning: text
  tiers: {high: 5, low: 0}
data:
  source: {kind: jsonl, path: rows.jsonl}
  split: {train: 0.7, valid: 0.1, calibrate: 0.1, test: 0.1}
base: {model: owner/model}
"""
NO_TEST = "data.split={train: 0.8, valid: 0.1, calibrate: 0.1, test: 0}"
NO_CALIBRATE = "data.split={train: 0.8, valid: 0.1, calibrate: 0, test: 0.1}"
NO_TIERS = "task.tiers={high: null, low: null}"
SUITE = "source: {kind: jsonl, path: rows.jsonl}"


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "r.yaml").write_text(SOUND)
    return tmp_path / "r.yaml"


def found(path: Path, *sets: str) -> dict[str, str]:
    return {problem.path: str(problem) for problem in check(load(path, sets))}


@pytest.mark.parametrize(
    "set_",
    [
        "evaluate.slices=[kind, tier, length, published date, meta.source, year >= 2020, quartile(views), \"'fire' in text\"]",
        "targets.defer={max_error: 0.05}",
        "targets.defer={max_error: 0.05, of: tier}",
        "targets.defer={max_error: 0.05, of: overall}",
        "targets.defer={max_error: 0.05, of: answer}",
        "targets.defer={max_error: 0.05, of: kind}",
        "evaluate.coverage=0.9",
        "task.fields.kind.raters=[ann1, ann2]",
        "robustness.suites=[typos]",
        "robustness={suites: [], given: {mine: {" + SUITE + ", labels: {kind: gold}}}}",
        "robustness={suites: [], given: {mine: {" + SUITE + ", expect: 'flag: relevant'}}}",
        "fairness={scenarios: {fire: {row: {title: x, text: 'at {place}'}, variants: {place: [a, b]}}}}",
        "fairness.groups=[language]",
        "forgetting.benchmarks={mmlu: {kind: mmlu, path: rows.jsonl}}",
    ],
)
def test_what_makes_sense_is_no_problem(sound: Path, set_: str) -> None:
    assert found(sound, set_) == {}


def test_suites_that_bring_their_own_rows_need_no_test_rows(sound: Path) -> None:
    assert found(sound, "robustness={suites: [], given: {mine: {" + SUITE + "}}}", NO_TEST) == {}


def test_deferral_may_be_expected_where_there_is_some(sound: Path) -> None:
    assert found(sound, "robustness.given={mine: {" + SUITE + ", expect: defer}}", "targets.defer={max_error: 0.05}") == {}


@pytest.mark.parametrize(
    ("sets", "path", "word"),
    [
        (["evaluate.slices=[kind, year => 2020]"], "evaluate.slices.1", "character"),
        (["evaluate.slices=[\"language = 'el'\"]"], "evaluate.slices.0", "equal is written =="),
        (["evaluate.slices=[open(kind)]"], "evaluate.slices.0", "there is lower, len, quartile, column"),
        (["evaluate.slices=[kind, kind]"], "evaluate.slices.1", "stands there twice"),
        (["evaluate.again={kind: jsonl, path: rows.jsonl}"], "evaluate.again.path", "these are the labels themselves"),
        (["evaluate.again={kind: jsonl, path: row.jsonl}"], "evaluate.again.path", "rows.jsonl"),
        (["targets.defer={max_error: 0.05, of: knd}"], "targets.defer.of", "did you mean kind?"),
        (["targets.defer={max_error: 0.05, of: reasoning}"], "targets.defer.of", "a text is neither right nor wrong"),
        (["targets.defer={max_error: 0.05, of: tier}", NO_TIERS], "targets.defer.of", "the task has no tiers"),
        (
            ["targets.defer={max_error: 0.05, of: overall}", NO_TIERS, "task.fields.maturity.weight=none"],
            "targets.defer.of",
            "there is no overall",
        ),
        (["targets.defer={max_error: 0.05}", NO_CALIBRATE], "targets.defer", "data.split.calibrate is 0"),
        (["evaluate.coverage=0.9", NO_CALIBRATE], "evaluate.coverage", "calibrate: 0.1"),
        (["targets.defer={max_error: 0.05}", NO_TEST], "targets.defer", "no test rows to see whether it holds"),
        (["evaluate.coverage=0.9", NO_TEST], "evaluate.coverage", "no test rows to see whether it holds"),
        (["robustness.rows=5", NO_TEST], "robustness", "no test rows to change"),
        (["fairness.groups=[language]", NO_TEST], "fairness.groups", "no test rows to compare"),
        (["task.fields.kind.raters=[]"], "task.fields.kind.raters", "no rater among them"),
        (["task.fields.kind.raters=[a, a]"], "task.fields.kind.raters", "'a' stands there twice"),
        (["task.fields.kind.raters=[kind]"], "task.fields.kind.raters", "always agrees with itself"),
        (["task.fields.kind.from=gold", "task.fields.kind.raters=[gold]"], "task.fields.kind.raters", "always agrees with itself"),
        (["task.fields.reasoning={type: text, raters: [a]}"], "task.fields.reasoning.raters", "neither right nor wrong"),
        (["task.fields.kind.aliases={a: [B ]}"], "task.fields.kind.aliases.a", "'B' is a choice of its own"),
        (["task.fields.kind.aliases={a: [x], b: [X]}"], "task.fields.kind.aliases.b", "'X' stands for 'a' already"),
        (["robustness.suites=[tpyos]"], "robustness.suites.0", "did you mean typos?"),
        (["robustness.given={typos: {" + SUITE + "}}"], "robustness.given.typos", "is the name of a suite that is there already"),
        (["robustness.given={m: {" + SUITE + ", labels: {knd: gold}}}"], "robustness.given.m.labels.knd", "did you mean kind?"),
        (["robustness.given={m: {" + SUITE + ", expect: 'flag: relevnt'}}"], "robustness.given.m.expect", "did you mean relevant?"),
        (["robustness.given={m: {" + SUITE + ", expect: defer}}"], "robustness.given.m.expect", "nothing is ever deferred"),
        (["robustness.given={m: {source: {kind: jsonl, path: row.jsonl}}}"], "robustness.given.m.source.path", "rows.jsonl"),
        (
            ["fairness={scenarios: {fire: {row: {text: 'at {place}'}, variants: {place: [a, b]}}}}"],
            "fairness.scenarios.fire.row",
            "task.input reads the column 'title', and the row lacks it",
        ),
        (["forgetting.benchmarks={m: {kind: mmlu, path: row.jsonl}}"], "forgetting.benchmarks.m.path", "rows.jsonl"),
    ],
)
def test_what_makes_no_sense_is_said_at_its_place(sound: Path, sets: list[str], path: str, word: str) -> None:
    problems = found(sound, *sets)
    assert path in problems, problems
    assert word in problems[path]


def test_a_task_of_texts_alone_has_nothing_to_be_sure_of(sound: Path) -> None:
    sound.write_text(SOUND.split("  fields:")[0] + "  fields: {reasoning: text}\n" + SOUND[SOUND.index("data:") :])
    assert "nothing says how sure" in found(sound, "targets.defer={max_error: 0.05}")["targets.defer"]


ALONE = """\
task:
  input: "{text}"
  fields: {risk: score}
targets: {dimension_mae: 1.0}
"""


def test_a_task_alone_is_enough_to_judge_by(tmp_path: Path) -> None:
    (tmp_path / "uplifting.yaml").write_text(ALONE)
    recipe = require_criteria(load(tmp_path / "uplifting.yaml"))
    assert (recipe.name, recipe.data.source.path, recipe.base.model) == ("uplifting", "", "")
    assert (recipe.targets.metrics, recipe.evaluate.bootstrap) == ({"dimension_mae": 1.0}, 1000)


def test_data_and_base_that_are_not_there_do_not_stop_it(sound: Path) -> None:
    sets = ["data.source.path=nowhere.jsonl", "base.model=./nowhere", "train.epochs=many", "data.split.train=0.9", "lora.targets=[]"]
    assert found(sound, *sets)
    recipe = require_criteria(load(sound, sets))
    assert (recipe.name, Path(recipe.data.source.path).name, recipe.train.epochs) == ("small", "nowhere.jsonl", 3)


def test_a_whole_recipe_is_taken_as_it_is(sound: Path) -> None:
    recipe = require_criteria(load(sound))
    assert recipe == load(sound).recipe


@pytest.mark.parametrize(
    ("set_", "word"),
    [
        ("targets.dimension_mea=1", "did you mean dimension_mae?"),
        ("targets.dimension_mae=-1", "at least 0"),
        ("task.fields.risk.weight=0.5", "sum to 0.5"),
        ("task.fields.risk.colour=red", "there is no such setting"),
        ("task.input=none at all", "names no column"),
        ("evaluate.bootstrap=5", "at least 100"),
        ("evaluate.slices=[a = b]", "equal is written =="),
        ("evaluate.again={kind: jsonl, path: nowhere.jsonl}", "there is no file"),
        ("targets.defer={max_error: 0.1, of: rsk}", "did you mean risk?"),
        ("task.fields.risk.raters=[a, a]", "stands there twice"),
        ("evalute.bootstrap=500", "did you mean evaluate?"),
    ],
)
def test_what_is_judged_by_has_to_be_sound(tmp_path: Path, set_: str, word: str) -> None:
    (tmp_path / "r.yaml").write_text(ALONE)
    with pytest.raises(RecipeError) as error:
        require_criteria(load(tmp_path / "r.yaml", [set_]))
    assert word in str(error.value)


def test_without_a_task_there_is_nothing_to_judge_by(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\n")
    with pytest.raises(RecipeError, match="task: is missing"):
        require_criteria(load(tmp_path / "r.yaml"))
    with pytest.raises(RecipeError, match="there is no such recipe"):
        require_criteria(load(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("slices", "refused"), [(["title"], True), (["text"], True), (["why"], True), (["language", "length", "'x' in title"], False)]
)
def test_where_texts_are_private_no_slice_may_be_called_by_one(slices: list[str], refused: bool) -> None:
    fields = {"high": FieldSpec(kind="flag"), "why": FieldSpec(kind="text")}
    task, evaluate = TaskSpec(input="{title}: {{body}}", fields=fields), EvaluateSpec(slices=tuple(slices))
    found = list(criteria.private(task, evaluate, None, ReportSpec(show_texts=False)))
    assert [path for path, *_ in found] == (["evaluate.slices.0"] if refused else [])
    assert not list(criteria.private(task, evaluate, None, ReportSpec()))
    groups = list(criteria.private(task, EvaluateSpec(), FairnessSpec(groups=tuple(slices)), ReportSpec(show_texts=False)))
    assert [path for path, *_ in groups] == (["fairness.groups.0"] if refused else [])
