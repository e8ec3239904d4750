"""Suites that someone wrote: each behaviour that can be expected, pass rates by functional test and language, and rows that are no use."""

import csv
import json
import re
from pathlib import Path

import pytest
import scipy.stats

from mlx_distill.errors import DataError, RecipeError
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.robustness import robustness
from mlx_distill.evaluation.shares import wilson
from mlx_distill.recipe.schema import FieldSpec, RobustnessSpec, SourceSpec, SuiteSpec, TaskSpec
from mlx_distill.records import BadRow, Prediction

HATECHECK = Path(__file__).parents[1] / "data" / "multilingual_hatecheck"
HATEFUL = TaskSpec(input="{text}", fields={"hateful": FieldSpec(kind="flag")})
HATED = re.compile(r"odi[ao]|ódio|odeio|haat|verafschuw|detest|asco|nojo|walg|mat[ae]|dood|morr|muer", re.IGNORECASE)


def by_rule(examples):
    """A filter of words, as people wrote before there were models."""
    return [Prediction(e.id, {"hateful": bool(HATED.search(e.text))}, {"hateful": 0.9}) for e in examples]


def hatecheck(**more):
    return SuiteSpec(
        source=SourceSpec(kind="csv", path=str(HATECHECK)),
        labels={"hateful": "label_gold"},
        values={"hateful": "true", "non-hateful": "false"},
        by=("functionality", "lang"),
        **more,
    )


def tried(suite, ask=by_rule, task=HATEFUL, rows=(), **more):
    spec = RobustnessSpec(suites=(), given={"own": suite}, **more)
    return robustness(spec, task, list(rows), ask, bootstrap=100, seed=0)["given"]["own"]


# Multilingual HateCheck


def test_multilingual_hatecheck_runs_by_functional_test_and_language():
    found = tried(hatecheck())
    rows = [row for file in sorted(HATECHECK.glob("*.csv")) for row in csv.DictReader(file.open(encoding="utf-8"))]
    right = [bool(HATED.search(row["text"])) == (row["label_gold"] == "hateful") for row in rows]
    assert len(rows) == found["n"] == 162 and found["bad"] == 0
    assert found["passed"]["value"] == pytest.approx(sum(right) / 162)
    assert 0.2 < found["passed"]["value"] < 0.8
    for column in ("functionality", "lang"):
        by_hand = {}
        for row, passed in zip(rows, right, strict=True):
            by_hand.setdefault(row[column], []).append(passed)
        shares = {entry["value"]: (entry["passed"]["value"], entry["n"]) for entry in found["by"][column]}
        assert shares == {value: (pytest.approx(sum(own) / len(own)), len(own)) for value, own in by_hand.items()}
        values = [entry["passed"]["value"] for entry in found["by"][column]]
        assert values == sorted(values)
    assert len(found["by"]["functionality"]) == 27 and len(found["by"]["lang"]) == 3
    assert all(entry["small"] for entry in found["by"]["functionality"])  # 6 rows each
    assert not any(entry["small"] for entry in found["by"]["lang"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_fewer_rows_are_drawn_evenly_over_tests_and_languages():
    asked = []

    def ask(examples):
        asked.append([(e.record["functionality"], e.record["lang"]) for e in examples])
        return by_rule(examples)

    assert tried(hatecheck(rows=81), ask)["n"] == 81
    assert len(asked) == 1 and len(set(asked[0])) == 81
    assert tried(hatecheck(rows=81), by_rule) == tried(hatecheck(rows=81), by_rule)
    assert tried(hatecheck(rows=30), by_rule, seed=1) != tried(hatecheck(rows=30), by_rule)


# Behaviours

TASK = TaskSpec(
    input="{text}",
    fields={
        "risk": FieldSpec(kind="score"),
        "urgent": FieldSpec(kind="flag"),
        "kind": FieldSpec(kind="choice", choices=("fire", "flood")),
        "tags": FieldSpec(kind="list"),
        "why": FieldSpec(kind="text"),
    },
)
ANSWER = {"risk": 3, "urgent": True, "kind": "fire", "tags": ["a", "b"], "why": "smoke"}


def write(tmp_path, rows):
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SourceSpec(kind="jsonl", path=str(path))


def saying(**changes):
    """Answers by text: `refuse` refuses, `defer` defers, {field: value} after the text's first word; else ANSWER."""

    def one(example):
        word = example.text.split()[0] if example.text.split() else ""
        if word == "refuse":
            return BadRow("cannot be read", id=example.id)
        return Prediction(example.id, {**ANSWER, **changes.get(word, {})}, {}, defer=word == "defer")

    return lambda examples: [one(example) for example in examples]


def passed(tmp_path, rows, ask=None, **how):
    found = tried(SuiteSpec(source=write(tmp_path, rows), by=("text",), **how), ask or saying(), TASK)
    return {entry["value"]: entry["passed"]["value"] == 1.0 for entry in found["by"]["text"]}


def test_deferred_and_refused_rows_pass_where_that_is_expected(tmp_path):
    rows = [{"text": word} for word in ("answer", "defer", "refuse")]
    assert passed(tmp_path, rows, expect="defer") == {"answer": False, "defer": True, "refuse": False}
    assert passed(tmp_path, rows, expect="refuse") == {"answer": False, "defer": True, "refuse": True}
    assert passed(tmp_path, rows, expect="flag: urgent") == {"answer": True, "defer": True, "refuse": False}


def test_a_row_with_nothing_to_read_is_refused_without_being_asked(tmp_path):
    found = tried(SuiteSpec(source=write(tmp_path, [{"text": " "}, {"text": "x"}]), expect="refuse"), saying(), TASK)
    assert (found["n"], found["passed"]["value"], found["refused"]["value"]) == (2, 0.5, 0.5)


def test_a_flag_has_to_be_true(tmp_path):
    rows = [{"text": "yes"}, {"text": "no"}]
    assert passed(tmp_path, rows, saying(no={"urgent": False}), expect="flag: urgent") == {"yes": True, "no": False}


def test_an_expected_answer_is_compared_field_by_field_as_far_as_it_is_given(tmp_path):
    rows = [
        {"text": "all", "risk": 3, "urgent": "yes", "kind": "fire", "tags": ["b", "a"], "why": "anything"},
        {"text": "between", "risk": 3.4},
        {"text": "step", "risk": 4},
        {"text": "tags", "tags": ["a"]},
        {"text": "kind", "kind": "flood", "risk": 3},
    ]
    assert passed(tmp_path, rows) == {"all": True, "between": True, "step": False, "tags": False, "kind": False}


def test_labels_stand_in_other_columns_and_are_read_by_their_meaning(tmp_path):
    rows = [{"text": "one", "gold": {"k": "brand"}, "alarm": 1}, {"text": "two", "gold": {"k": "vloed"}, "alarm": 1}]
    how = {"labels": {"kind": "gold.k", "urgent": "alarm"}, "values": {"brand": "fire", "vloed": "flood"}}
    assert passed(tmp_path, rows, **how) == {"one": True, "two": False}


def test_the_same_answer_is_that_to_a_test_row_or_to_a_row_of_the_suite_itself(tmp_path):
    rows = [
        {"id": "a", "text": "original"},
        {"id": "b", "text": "like", "of": "a"},
        {"id": "c", "text": "unlike", "of": "a"},
        {"id": "d", "text": "tested", "of": 7},
        {"id": "e", "text": "stray", "of": "nobody"},
    ]
    clean = [Judged(id="7", split="test", reference={}, answer={**ANSWER, "why": "other words", "tags": []})]
    ask = saying(original={"risk": 9}, like={"risk": 9, "why": "x", "tags": ["z"]}, unlike={"risk": 8, "urgent": True})
    found = tried(SuiteSpec(source=write(tmp_path, rows), expect="same_answer", by=("text",)), ask, TASK, clean, max_flip_rate=0.3)
    assert {entry["value"]: entry["passed"]["value"] for entry in found["by"]["text"]} == {"like": 1.0, "unlike": 0.0, "tested": 1.0}
    assert (found["n"], found["bad"], found["verdict"]) == (3, 1, "missed")  # the original itself is not judged
    assert "names 'nobody'" in found["reasons"][0]


def test_an_original_that_was_refused_leaves_nothing_to_compare(tmp_path):
    rows = [{"id": "a", "text": "refuse"}, {"id": "b", "text": "x", "of": "a"}, {"id": "c", "text": "x", "of": "b"}]
    found = tried(SuiteSpec(source=write(tmp_path, rows), expect="same_answer"), saying(), TASK)
    assert (found["n"], found["bad"], found["passed"]["value"]) == (1, 1, 1.0)


def test_a_row_that_is_judged_and_an_original_too_is_asked_once(tmp_path):
    rows = [{"id": "a", "text": "x"}, {"id": "b", "text": "x", "of": "a"}, {"id": "c", "text": "x", "of": "b"}]
    asked = []
    tried(SuiteSpec(source=write(tmp_path, rows), expect="same_answer"), lambda es: asked.extend(es) or saying()(es), TASK)
    assert sorted(example.id for example in asked) == ["a", "b", "c"]


def test_originals_are_asked_even_where_they_were_not_drawn(tmp_path):
    rows = [{"id": "a", "text": "x"}] + [{"id": str(i), "text": "x", "of": "a"} for i in range(9)]
    asked = []
    found = tried(SuiteSpec(source=write(tmp_path, rows), expect="same_answer", rows=2), lambda es: asked.extend(es) or saying()(es), TASK)
    assert found["n"] == 2 and len(asked) == 3 and "a" in [e.id for e in asked]


def test_each_row_may_expect_something_else(tmp_path):
    rows = [
        {"text": "defer", "expect": "defer"},
        {"text": "x", "expect": "flag: urgent"},
        {"text": "y", "kind": "flood"},
        {"text": "z", "expect": "shout"},
    ]
    found = tried(SuiteSpec(source=write(tmp_path, rows)), saying(), TASK, max_flip_rate=0.0)
    assert {kind: figure["value"] for kind, figure in found["expect"].items()} == {"answer": 0.0, "defer": 1.0, "flag": 1.0}
    assert found["n"] == 3 and found["bad"] == 1 and "'shout' is no behaviour" in found["reasons"][0]
    [failed] = found["examples"]
    assert (failed["expected"], failed["answer"]["kind"], failed["text"]) == ("kind: flood", "fire", "y")
    assert found["verdict"] == "none"  # the most that may flip is for suites that are to change nothing


def test_what_failed_and_is_handed_back_was_noticed(tmp_path):
    rows = [
        {"text": "defer", "kind": "flood"},
        {"text": "refuse", "kind": "fire"},
        {"text": "x", "kind": "flood"},
        {"text": "x", "kind": "fire"},
    ]
    found = tried(SuiteSpec(source=write(tmp_path, rows)), saying(), TASK)
    figures = {name: found[name]["value"] for name in ("passed", "unseen", "deferred", "refused")}
    assert figures == {"passed": 0.25, "unseen": 0.25, "deferred": 0.25, "refused": 0.25}


def test_private_texts_stand_nowhere(tmp_path):
    spec = RobustnessSpec(suites=(), given={"own": SuiteSpec(source=write(tmp_path, [{"text": "secret words", "kind": "flood"}]))})
    found = robustness(spec, TASK, [], saying(), bootstrap=100, seed=0, texts=False)
    assert "secret" not in json.dumps(found)


# What is no use


@pytest.mark.parametrize(
    ("rows", "how", "said"),
    [
        ([{"text": "x"}], {}, "no expected value"),
        ([{"text": "x", "kind": "storm"}], {}, "'storm' is none of its choices"),
        ([{"text": "x"}], {"expect": "flag: urgnt"}, "no flag 'urgnt'"),
        ([{"txt": "x", "kind": "fire"}], {}, "no column 'text'"),
        ([{"text": "x"}], {"expect": "same_answer"}, "no row has anything in the column `of`"),
        ([{"text": "x", "kind": "fire"}], {"by": ("lang",)}, "no row has anything in the column 'lang'"),
        ([], {}, "empty"),
    ],
)
def test_a_suite_without_a_row_to_judge_is_refused_before_anything_is_asked(tmp_path, rows, how, said):
    def ask(examples):
        raise AssertionError("asked")

    with pytest.raises(DataError, match=re.escape(said)):
        tried(SuiteSpec(source=write(tmp_path, rows), **how), ask, TASK)


def test_labels_of_a_field_that_there_is_not_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="no field 'knd'") as error:
        tried(SuiteSpec(source=write(tmp_path, [{"text": "x"}]), labels={"knd": "gold"}), saying(), TASK)
    assert "kind" in error.value.hint


def test_one_bad_row_stops_nothing(tmp_path):
    source = write(tmp_path, [{"text": "x", "kind": "fire"}])
    with Path(source.path).open("a", encoding="utf-8") as file:
        file.write("{ no json\n")
    found = tried(SuiteSpec(source=source), saying(), TASK)
    assert (found["n"], found["bad"]) == (1, 1) and "suite.jsonl:2" in found["reasons"][0]


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (8, 10), (1, 30), (300, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits, n):
    low, high = scipy.stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == (pytest.approx(low), pytest.approx(high))


def test_the_recipe_says_what_is_wrong_with_a_suite():
    source = SourceSpec(kind="csv", path="x.csv")
    assert list(SuiteSpec(source=source, expect="flag: urgent").problems()) == []
    [(where, message, hint)] = SuiteSpec(source=source, expect="same answer").problems()
    assert (where, hint) == ("expect", "did you mean same_answer?") and "no behaviour" in message
    assert [where for where, *_ in SuiteSpec(source=source, expect="defer", labels={"a": "b"}).problems()] == ["labels"]
    assert [hint for *_, hint in RobustnessSpec(suites=("typo", "case")).problems()] == ["did you mean typos?"]
    assert [where for where, *_ in RobustnessSpec(suites=()).problems()] == ["suites"]
