"""Fields of many values: NumPy's sums are those of plain Python, a field's values are made once, oddness is what its definition says."""

import sys

import numpy as np
import pytest

from mlx_distill.recipe.schema import FieldSpec, GateSpec, TaskSpec
from mlx_distill.records import Prediction
from mlx_distill.task import calibrated, deferral, fields, rubric, sets
from mlx_distill.task.confidence import Confidence, FieldMap, SetRule, Threshold
from mlx_distill.task.decision import decide
from mlx_distill.task.fields import nearest_value, values_of
from mlx_distill.task.sets import FREE_RANKS, OF_NAMES, PENALTY, TIE, oddness

FINE = {
    "risk": FieldSpec(kind="score", max=10, step=0.01, weight=0.6, gate=GateSpec(below=4.0, cap=3.0)),
    "reach": FieldSpec(kind="score", max=5, step=0.05, weight=0.4, estimate="mean"),
    "kind": FieldSpec(kind="choice", choices=tuple(f"kind {i}" for i in range(100))),
}
TASK = TaskSpec(input="{text}", fields=FINE, tiers={"high": 4.0, "low": 0.0})
MAPS = {
    "risk": FieldMap(temperature=2.0, beta=(0.7, 1.2, -0.3)),
    "reach": FieldMap(temperature=0.5),
    "kind": FieldMap(isotonic=((0.1, 0.6), (0.3, 0.5))),
}


def said(seed):
    random = np.random.default_rng(seed)
    shares = {name: random.dirichlet(np.full(len(values_of(spec)), 0.05)).tolist() for name, spec in FINE.items()}
    answer = {name: decide(spec, values_of(spec), shares[name]) for name, spec in FINE.items()}
    confidence = {name: shares[name][values_of(spec).index(nearest_value(spec, answer[name]))] for name, spec in FINE.items()}
    return Prediction("a", answer, confidence, shares, *rubric.assess(TASK, answer))


@pytest.mark.parametrize(("of", "least"), [("tier", 0.5), ("overall", 0.2), ("risk", 0.2)])
def test_many_values_are_summed_to_what_plain_python_finds(monkeypatch, of, least):
    cdf = {name: SetRule(method="cdf", quantile=0.3) for name in ("risk", "reach")}
    threshold = Threshold(of=of, within=0.5, max_error=0.05, level=0.9, value=least)
    found = Confidence(fields=MAPS, threshold=threshold, sets={**cdf, "kind": SetRule(method="aps", quantile=0.8)}, coverage=0.9)
    predictions = [said(seed) for seed in range(30)]
    wide = [found.apply(TASK, prediction) for prediction in predictions]
    for module in (calibrated, deferral, sets):
        monkeypatch.setattr(module, "WIDE", sys.maxsize)
    for one, prediction in zip(wide, predictions, strict=True):
        plain = found.apply(TASK, prediction)
        assert one.sets == plain.sets and one.defer == plain.defer
        assert one.sure == pytest.approx(plain.sure, abs=1e-12)
        assert one.confidence == pytest.approx(plain.confidence, abs=1e-12)
        for name in FINE:
            assert one.probabilities[name] == pytest.approx(plain.probabilities[name], abs=1e-12)
            assert type(one.probabilities[name]) is list and type(one.probabilities[name][0]) is float, "as JSON has them"
    assert len({one.defer for one in wide}) == 2, "rows of both kinds were tried"


def test_the_values_of_a_score_are_made_once_for_all_rows(monkeypatch):
    made = []
    plain = fields.closed_values
    monkeypatch.setattr(fields, "closed_values", lambda spec: made.append(spec) or plain(spec))
    spec = FieldSpec(kind="score", min=3.125, max=9, step=0.03125)
    assert [nearest_value(spec, value) for value in (3.13, 5.0, 8.99)] == [3.125, 5.0, 9.0]
    assert len(made) == 1


def by_definition(method, shares, answer):
    """The probability of all that is at least as likely, value by value."""
    above = [[other for other in shares if other >= p - TIE] for p in shares]
    penalty = PENALTY if method == "raps" else 0.0
    odd = [sum(likelier) + penalty * max(0, len(likelier) - FREE_RANKS) for likelier in above]
    odd[answer] = 0.0
    return odd


@pytest.mark.parametrize("method", OF_NAMES[1:])
def test_oddness_is_what_its_definition_says_with_ties_and_near_ties(method):
    random = np.random.default_rng(0)
    for size in (1, 2, 5, 40):
        for _ in range(50):
            weights = random.integers(0, 4, size).astype(float) + 1e-9  # many are equal, and some nothing
            weights *= 1 + random.choice([0.0, 1e-10], size)  # a last bit apart, nearer than a tie
            shares = (weights / weights.sum()).tolist()
            answer = int(random.integers(size))
            assert oddness(method, shares, answer) == pytest.approx(by_definition(method, shares, answer), abs=1e-12)


class Counted(float):
    """A probability that counts how often it is compared."""

    looks = 0

    def __lt__(self, other):
        Counted.looks += 1
        return float(self) < float(other)

    def __ge__(self, other):
        Counted.looks += 1
        return float(self) >= float(other)

    def __neg__(self):
        return Counted(-float(self))


def test_oddness_of_many_choices_does_not_compare_each_with_each():
    shares = [Counted(p) for p in np.random.default_rng(0).dirichlet(np.ones(500))]
    oddness("aps", shares, 0)
    assert Counted.looks < 500 * 40
