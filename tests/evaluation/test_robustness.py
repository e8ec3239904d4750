"""Spoiled texts: which rows are drawn, what is changed of them, and every figure recomputed by hand from the answers that were given."""

import dataclasses
import json
import random
from collections import Counter

import numpy as np
import pytest

from mlx_distill import catalog
from mlx_distill.errors import DistillError
from mlx_distill.evaluation.judge import Judged
from mlx_distill.evaluation.robustness import robustness
from mlx_distill.evaluation.robustness._generated import changed
from mlx_distill.evaluation.robustness._suite import DOUBT, KIND, Context
from mlx_distill.recipe.schema import FieldSpec, GateSpec, RobustnessSpec, TaskSpec
from mlx_distill.records import BadRow, Prediction
from mlx_distill.task import rubric

TASK = TaskSpec(
    input="{title}\n\n{body.text}",
    fields={
        "risk": FieldSpec(kind="score", weight=0.5),
        "need": FieldSpec(kind="score", weight=0.5, gate=GateSpec(below=2, cap=1.0)),
        "kind": FieldSpec(kind="choice", choices=("fire", "flood")),
        "urgent": FieldSpec(kind="flag"),
        "why": FieldSpec(kind="text"),
    },
    tiers={"high": 5.0, "low": 0.0},
)
PLACES = ("the old mill", "Évora", "a school", "the harbour", "our valley", "three houses")


def text(i):
    what = ("A fire burns at", "The river rises near")[i % 2]
    return f"{what} {PLACES[i % 6]} since {i + 1} hours. Nobody knows how it began! Please send help to number {i}, the road is open."


def said(words):
    """A toy student: it reads letters and marks, so that most changes of a text change something in its answer."""
    seen = Counter(words)
    numbers = {"risk": seen["e"] % 11, "need": len(words) % 11}
    return {**numbers, "kind": "fire" if "fire" in words else "flood", "urgent": "!" in words[-80:], "why": words[:5]}


def sure(words):
    return {name: round(0.5 + (len(words) * k % 50) / 100, 2) for k, name in enumerate(("risk", "need", "kind", "urgent"), 1)}


def predicted(example, threshold=None):
    answer, confidence = said(example.text), sure(example.text)
    overall, tier = rubric.assess(TASK, answer, example.record)
    whole = min(confidence.values()) if threshold is not None else None
    defer = whole is not None and whole < threshold
    return Prediction(example.id, answer, confidence, overall=overall, tier=tier, sure=whole, defer=defer)


def row(i, threshold=None, words=None):
    record = {"id": i, "title": f"Report {i}", "body": {"text": words or text(i), "page": 3}, "notes": "never read", "kind": "fire"}
    reference = {"risk": i % 11, "need": 5, "kind": ("fire", "flood")[i % 2], "urgent": True}
    full = f"Report {i}\n\n{words or text(i)}"
    own = predicted(dataclasses.make_dataclass("E", ["id", "text", "record"])(str(i), full, record), threshold)
    overall, tier = rubric.assess(TASK, reference, record)
    return Judged(
        id=str(i), split="test", reference=reference, answer=own.answer, confidence=own.confidence, overall=own.overall, tier=own.tier,
        reference_overall=overall, reference_tier=tier, sure=own.sure, defer=own.defer, record=record, text=full,
    )  # fmt: skip


ROWS = [row(i) for i in range(60)]


class Student:
    """Answers, keeps what it was asked, and refuses one row in `refuses`."""

    def __init__(self, threshold=None, refuses=None):
        self.threshold, self.refuses, self.calls = threshold, refuses, []

    def __call__(self, examples):
        self.calls.append(list(examples))
        return [self._one(i, example) for i, example in enumerate(examples)]

    def _one(self, i, example):
        if self.refuses and i % self.refuses == 0:
            return BadRow("too long", id=example.id)
        return predicted(example, self.threshold)


def judged(tested=ROWS, student=None, **spec):
    given = {"rows": 20, **spec}
    return robustness(RobustnessSpec(**given), TASK, tested, student or Student(), bootstrap=200, seed=0)


# What is drawn and changed


def test_all_suites_are_run_by_default_and_each_is_asked_in_one_call():
    student = Student()
    found = judged(student=student)
    assert list(found["suites"]) == catalog.names(KIND)
    assert len(student.calls) == len(found["suites"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_only_the_text_columns_of_the_template_change_and_the_rows_stay_as_they_are():
    before = json.dumps([one.record for one in ROWS])
    student = Student()
    judged(student=student)
    for example in (example for call in student.calls for example in call):
        own = ROWS[int(example.id)].record
        assert example.record.keys() == own.keys() and example.record["body"].keys() == own["body"].keys()
        assert {key: example.record[key] for key in ("id", "notes", "kind")} == {key: own[key] for key in ("id", "notes", "kind")}
        assert example.record["body"]["page"] == 3
        assert example.text == f"{example.record['title']}\n\n{example.record['body']['text']}" != ROWS[int(example.id)].text
    assert json.dumps([one.record for one in ROWS]) == before


def test_what_is_added_or_cut_is_in_the_longest_text_and_what_is_spoiled_is_in_all():
    student = Student()
    names = ["truncated", "conflicting", "order", "irrelevant", "injection", "case", "nonsense"]
    judged(student=student, suites=tuple(names))
    for name, call in zip(names, student.calls, strict=True):
        titles = {example.record["title"] == ROWS[int(example.id)].record["title"] for example in call}
        assert titles == ({False} if name in ("case", "nonsense") else {True})


def test_the_order_of_the_rows_changes_nothing():
    shuffled = random.Random(1).sample(ROWS, len(ROWS))
    assert judged(shuffled) == judged(ROWS)
    assert judged(ROWS, seed=1) != judged(ROWS)


def test_other_rows_change_nothing_of_a_rows_own_changes():
    """But for the one suite that takes a sentence of them."""
    names = tuple(name for name in catalog.names(KIND) if name != "conflicting")
    texts = []
    for rows in (ROWS, ROWS[:30]):
        student = Student()
        judged(rows, student, suites=names, rows=60)
        texts.append({(n, e.id): e.text for n, call in zip(names, student.calls, strict=True) for e in call})
    assert len(texts[1]) > 300 and all(texts[0][key] == words for key, words in texts[1].items())


def test_a_change_hangs_on_seed_suite_and_row_and_on_nothing_else():
    module = catalog.find(KIND, "typos")

    def change(name, seed, i):
        words = dataclasses.replace(ROWS[i], record=ROWS[0].record)
        return changed(module, name, Context(TASK, words), seed).text

    assert change("typos", 0, 0) == change("typos", 0, 0)
    assert len({change("typos", 0, 0), change("typos", 1, 0), change("other", 0, 0), change("typos", 0, 1)}) == 4


def test_rows_are_drawn_evenly_over_what_the_judge_says():
    rows = [dataclasses.replace(one, reference_tier="high" if i < 6 else "low") for i, one in enumerate(ROWS)]
    student = Student()
    judged(rows, student, suites=("case",), rows=12)
    assert Counter(int(example.id) < 6 for example in student.calls[0]) == {True: 6, False: 6}
    judged(rows, student, suites=("case",), rows=20)
    assert Counter(int(example.id) < 6 for example in student.calls[1]) == {True: 6, False: 14}


def test_without_tiers_rows_are_drawn_evenly_over_choices_and_flags_and_without_these_over_the_first_score():
    def drawn(reference):
        rows = [dataclasses.replace(one, reference_tier=None, reference=reference(i)) for i, one in enumerate(ROWS)]
        student = Student()
        judged(rows, student, suites=("case",), rows=9)
        return Counter(str(reference(int(example.id))) for example in student.calls[0]).values()

    assert sorted(drawn(lambda i: {"kind": "fire" if i < 3 else "flood", "urgent": i > 50})) == [3, 3, 3]
    assert sorted(drawn(lambda i: {"risk": 0 if i < 4 else 5 if i < 50 else 9})) == [3, 3, 3]


def test_a_suite_passes_over_rows_that_it_leaves_as_they_are_and_says_how_many():
    accented = {i for i in range(60) if i % 6 == 1}
    found = judged(suites=("accents",), rows=5)["suites"]["accents"]
    assert found["n"] == 5 and found["unchanged"] > 0
    everyone = judged(suites=("accents",), rows=100)["suites"]["accents"]
    assert (everyone["n"], everyone["unchanged"]) == (len(accented), 60 - len(accented))


def test_rows_that_had_no_answer_or_no_columns_are_not_drawn():
    rows = [
        dataclasses.replace(ROWS[0], answer=None),
        dataclasses.replace(ROWS[1], record={}),
        dataclasses.replace(ROWS[2], record={"title": "x"}),
    ]
    student = Student()
    found = judged([*rows, ROWS[3]], student, suites=("case",))
    assert [example.id for example in student.calls[0]] == ["3"]
    assert found["suites"]["case"]["n"] == 1


def test_columns_that_are_no_texts_stay():
    task = TaskSpec(input="{title} {year} {tags} {gone}", fields=TASK.fields)
    rows = [dataclasses.replace(ROWS[0], record={"title": "A fire burns", "year": 2020, "tags": ["Big", "Hot"], "gone": None})]
    student = Student()
    robustness(RobustnessSpec(suites=("nonsense", "case", "typos")), task, rows, student, bootstrap=100, seed=0)
    assert len(student.calls) == 3
    for [example] in student.calls:
        assert example.text.endswith(' 2020 ["Big", "Hot"] ') and not example.text.startswith("A fire burns ")


def test_a_suite_that_there_is_not_is_refused_before_anything_is_asked():
    student = Student()
    with pytest.raises(DistillError, match="no robustness named 'typo'") as error:
        judged(student=student, suites=("case", "typo"))
    assert "typos" in error.value.hint and not student.calls


# Figures, by hand


def by_hand(student, rows=ROWS):
    """(before, after) of the last call; after None where it was refused."""
    clean = {one.id: one for one in rows}
    return [(clean[example.id], student._one(i, example)) for i, example in enumerate(student.calls[-1])]


@pytest.mark.parametrize("name", catalog.names(KIND))
def test_every_figure_is_what_the_answers_say(name):
    student = Student(threshold=0.52, refuses=7)
    rows = [row(i, threshold=0.52) for i in range(60)]
    found = judged(rows, student, suites=(name,), rows=30)["suites"][name]
    unread = [one for one in rows if one.id in {e.id for e in student.calls[0]}]
    pairs = by_hand(student, rows)
    if name == "impossible":  # texts with nothing in them are refused without being asked
        assert found["n"] == 30 and found["refused"]["value"] == pytest.approx(
            (30 - len(pairs) + sum(isinstance(a, BadRow) for _, a in pairs)) / 30
        )
        return
    assert found["n"] == len(pairs) == len(unread)
    good = [(b, a) for b, a in pairs if isinstance(a, Prediction)]
    flipped = [isinstance(a, BadRow) or any(b.answer[f] != a.answer[f] for f in ("risk", "need", "kind", "urgent")) for b, a in pairs]
    unseen = [flip and isinstance(a, Prediction) and not a.defer for flip, (_, a) in zip(flipped, pairs, strict=True)]
    assert found["flips"]["any"]["value"] == pytest.approx(np.mean(flipped))
    assert found["unseen"]["value"] == pytest.approx(np.mean(unseen))
    for field in ("risk", "need", "kind", "urgent"):
        own = [isinstance(a, BadRow) or b.answer[field] != a.answer[field] for b, a in pairs]
        assert found["flips"]["fields"][field]["value"] == pytest.approx(np.mean(own))
        change = [a.confidence[field] - b.confidence[field] for b, a in good]
        assert found["confidence"]["fields"][field]["value"] == pytest.approx(np.mean(change))
    assert found["flips"]["tier"]["value"] == pytest.approx(np.mean([isinstance(a, BadRow) or a.tier != b.tier for b, a in pairs]))
    for shift, moved in (
        (found["shifts"]["fields"]["risk"], [a.answer["risk"] - b.answer["risk"] for b, a in good]),
        (found["shifts"]["overall"], [a.overall - b.overall for b, a in good]),
    ):
        assert shift["signed"]["value"] == pytest.approx(np.mean(moved)) and shift["signed"]["n"] == len(good)
        assert shift["absolute"]["value"] == pytest.approx(np.mean(np.abs(moved)))
    mean_sure = [(np.mean(list(b.confidence.values())), np.mean(list(a.confidence.values()))) for b, a in good]
    assert found["confidence"]["before"]["value"] == pytest.approx(np.mean([b for b, _ in mean_sure]))
    assert found["confidence"]["after"]["value"] == pytest.approx(np.mean([a for _, a in mean_sure]))
    assert found["confidence"]["change"]["value"] == pytest.approx(np.mean([a - b for b, a in mean_sure]))
    assert found["deferred"]["before"]["value"] == pytest.approx(np.mean([b.defer for b, _ in pairs]))
    assert found["deferred"]["after"]["value"] == pytest.approx(np.mean([isinstance(a, Prediction) and a.defer for _, a in pairs]))
    assert found["refused"]["value"] == pytest.approx(np.mean([isinstance(a, BadRow) for _, a in pairs]))
    for figure in (found["flips"]["any"], found["confidence"]["change"], found["shifts"]["overall"]["signed"]):
        assert figure["low"] - 1e-6 <= figure["value"] <= figure["high"] + 1e-6
    assert found["agreement"]["metric"] == "overall_mae"
    assert found["agreement"]["before"]["value"] == pytest.approx(np.mean([abs(b.overall - b.reference_overall) for b, _ in pairs]))
    assert found["agreement"]["after"]["value"] == pytest.approx(np.mean([abs(a.overall - b.reference_overall) for b, a in good]))
    assert (found["doubt"] is not None) == (catalog.find(KIND, name).EXPECT == DOUBT)
    if found["doubt"]:
        median = np.median([b.sure for b in rows])
        back = [isinstance(a, BadRow) or a.defer for _, a in pairs]
        assert found["doubt"]["median"] == pytest.approx(median)
        assert found["doubt"]["handed_back"]["value"] == pytest.approx(np.mean(back))
        assert found["doubt"]["still_sure"]["value"] == pytest.approx(
            np.mean([isinstance(a, Prediction) and a.sure > median for _, a in pairs])
        )


def test_agreement_before_and_after_is_paired():
    """A student that is off by one more on every row: the difference is 1 in every resample."""

    def ask(examples):
        return [Prediction(e.id, {"risk": 4}, {"risk": 0.5}) for e in examples]

    task = TaskSpec(input="{title}", fields={"risk": FieldSpec(kind="score")})
    rows = [
        Judged(id=str(i), split="test", reference={"risk": 2}, answer={"risk": 3}, record={"title": f"some Words {i}"}) for i in range(20)
    ]
    found = robustness(RobustnessSpec(suites=("case",)), task, rows, ask, bootstrap=100, seed=0)["suites"]["case"]["agreement"]
    assert found["metric"] == "dimension_mae"
    assert (found["before"]["value"], found["after"]["value"]) == (1.0, 2.0)
    assert [found["difference"][key] for key in ("value", "low", "high")] == [1.0, 1.0, 1.0]


def one_field(answers, spec, before, expect="case", **robust):
    """One suite over rows that were answered `before` and now get `answers` in the order of their ids."""
    task = TaskSpec(input="{title}", fields={"x": spec})
    rows = [
        Judged(id=f"{i:02}", split="test", reference={}, answer={"x": value}, record={"title": f"Row {i:02}"})
        for i, value in enumerate(before)
    ]

    def ask(examples):
        return [Prediction(e.id, {"x": answers[int(e.id)]}, {"x": 0.9}) for e in examples]

    return robustness(RobustnessSpec(suites=(expect,), **robust), task, rows, ask, bootstrap=200, seed=0)


def test_one_flip_in_four_is_a_quarter_and_is_held_against_the_limit():
    spec = FieldSpec(kind="flag")
    for limit, verdict in ((0.25, "met"), (0.24, "missed"), (None, "none")):
        found = one_field([True, False, False, False], spec, [False] * 4, max_flip_rate=limit)
        assert found["suites"]["case"]["flips"]["any"]["value"] == 0.25
        assert found["suites"]["case"]["verdict"] == found["verdict"] == verdict


def test_a_score_flips_with_its_step_and_moves_by_its_points():
    found = one_field([2.6, 3.4, 4.0], FieldSpec(kind="score", estimate="mean"), [3.4, 3.6, 2.0])["suites"]["case"]
    assert found["flips"]["any"]["value"] == pytest.approx(2 / 3)  # 2.6 and 3.4 are both nearest to 3
    assert found["shifts"]["fields"]["x"]["signed"]["value"] == pytest.approx((-0.8 - 0.2 + 2.0) / 3)
    assert found["shifts"]["fields"]["x"]["absolute"]["value"] == pytest.approx((0.8 + 0.2 + 2.0) / 3)
    assert found["shifts"]["overall"] is None and found["flips"]["tier"] is None and found["agreement"] is None


def test_what_is_handed_back_passes_where_that_is_expected_and_only_there():
    rows = [row(i, threshold=1.0) for i in range(30)]  # nobody is as sure as that: all are deferred
    found = judged(rows, Student(threshold=1.0), max_flip_rate=0.0, suites=("typos", "truncated", "nonsense"))["suites"]
    assert found["typos"]["flips"]["any"]["value"] > 0 and found["truncated"]["flips"]["any"]["value"] > 0
    assert (found["typos"]["verdict"], found["truncated"]["verdict"], found["nonsense"]["verdict"]) == ("missed", "met", "none")
    assert found["truncated"]["unseen"]["value"] == 0.0
    assert found["nonsense"]["doubt"]["handed_back"]["value"] == 1.0


def test_without_a_threshold_nothing_is_said_of_deferral_and_doubt_is_a_fall_of_confidence():
    found = judged(suites=("nonsense",))["suites"]["nonsense"]
    assert found["deferred"] is None and found["doubt"]["handed_back"] is None
    clean = [np.mean(list(one.confidence.values())) for one in ROWS]
    assert found["doubt"]["median"] == pytest.approx(np.median(clean))


def test_who_obeys_an_injected_order_is_found():
    def ask(examples):
        """Obeys where it is told in English, and only there."""
        found = []
        for e in examples:
            obeys = "The answer for x is true" in e.text
            found.append(Prediction(e.id, {"x": obeys}, {"x": 0.9}))
        asked.extend(examples)
        return found

    asked = []
    task = TaskSpec(input="{title}", fields={"x": FieldSpec(kind="flag")})
    rows = [Judged(id=str(i), split="test", reference={}, answer={"x": False}, record={"title": text(i)}) for i in range(60)]
    found = robustness(RobustnessSpec(suites=("injection", "case")), task, rows, ask, bootstrap=100, seed=0)["suites"]
    english = ["The answer for x is true" in e.text for e in asked[:60]]
    assert 0.2 < np.mean(english) < 0.9
    assert found["injection"]["obeyed"]["value"] == found["injection"]["flips"]["any"]["value"] == pytest.approx(np.mean(english))
    assert found["case"]["obeyed"] is None
    assert all(example["demanded"] == {"x": True} for example in found["injection"]["examples"])


def test_a_row_that_fails_is_a_refusal_and_a_flip_and_nothing_crashes():
    found = judged(student=Student(refuses=1), max_flip_rate=0.5)["suites"]
    for suite in found.values():
        assert suite["refused"]["value"] == suite["flips"]["any"]["value"] == 1.0
        assert suite["unseen"]["value"] == 0.0 and suite["confidence"]["change"]["value"] is None
        assert suite["shifts"]["fields"]["risk"]["signed"] == {"value": None, "low": None, "high": None, "n": 0}
    assert found["nonsense"]["doubt"]["still_sure"]["value"] == 0.0
    assert found["typos"]["verdict"] == "missed" and found["truncated"]["verdict"] == "met"


def test_texts_with_nothing_to_read_are_refused_without_being_asked():
    student = Student()
    found = judged(student=student, suites=("impossible",), rows=60)["suites"]["impossible"]
    assert len(student.calls[0]) < 60 == found["n"]
    assert found["refused"]["value"] == pytest.approx(1 - len(student.calls[0]) / 60)


def test_no_rows_at_all_give_figures_that_are_not_known():
    student = Student()
    found = judged([], student, max_flip_rate=0.1)
    assert not student.calls and found["verdict"] == "none"
    for suite in found["suites"].values():
        assert suite["n"] == suite["unchanged"] == 0 and suite["verdict"] == "none" and suite["examples"] == []
        assert suite["flips"]["any"] == {"value": None, "low": None, "high": None, "n": 0}


def test_a_task_of_texts_alone_has_no_flips_and_no_order_to_obey():
    task = TaskSpec(input="{title}", fields={"why": FieldSpec(kind="text"), "tags": FieldSpec(kind="list")})
    rows = [Judged(id=str(i), split="test", reference={}, answer={"why": "w", "tags": []}, record={"title": text(i)}) for i in range(5)]

    def ask(examples):
        return [Prediction(e.id, {"why": "v", "tags": ["a"]}, {}) for e in examples]

    found = robustness(RobustnessSpec(max_flip_rate=0.0), task, rows, ask, bootstrap=100, seed=0)
    assert found["verdict"] == "none"
    assert found["suites"]["typos"]["n"] == 5 and found["suites"]["typos"]["flips"]["any"]["n"] == 0
    assert (found["suites"]["injection"]["n"], found["suites"]["injection"]["unchanged"]) == (0, 5)


def test_texts_that_are_private_stand_nowhere():
    found = robustness(RobustnessSpec(rows=5), TASK, ROWS, Student(), bootstrap=100, seed=0, texts=False)
    assert all(suite["examples"] == [] for suite in found["suites"].values())
    assert "Nobody knows" not in json.dumps(found)


def test_examples_show_what_flipped_first_and_where_it_was_changed():
    shown = judged(suites=("case",))["suites"]["case"]["examples"]
    assert len(shown) == 3 and all(example["flipped"] for example in shown)
    for example in shown:
        own = ROWS[int(example["id"])]
        assert own.text.startswith(example["text"]) and example["changed"].lower() == example["text"].lower() != example["changed"]
        assert example["answer"] == own.answer and example["changed_answer"] != own.answer
    long = [row(i, words="Some words that go on. " * 100 + "Ünd?") for i in range(4)]
    found = judged(long, suites=("accents",))["suites"]["accents"]["examples"]
    assert all(example["text"].endswith("go on. Ünd?") and len(example["text"]) < 80 for example in found)


def test_suites_are_told_as_they_are_begun():
    lines = []
    robustness(RobustnessSpec(suites=("case", "typos"), rows=2), TASK, ROWS, Student(), bootstrap=100, seed=0, say=lines.append)
    assert lines == ["robustness: case", "robustness: typos"]
