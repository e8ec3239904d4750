"""What a student must beat: the most common value, and TF-IDF with a linear model, both taught on the student's own rows.

    baselines(train, test, fields)   {"majority": {id: answer}, "tfidf": {id: answer}}

TF-IDF counts words 1–2 and characters 2–5 (within words), sublinear; logistic regression for choices and flags, ridge for scores.
Texts and lists have no baseline. Where there is nothing to learn from, TF-IDF answers as the majority does, and `say` is told why.
It knows no model and no metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlx_distill.evaluation.metrics import CLOSED
from mlx_distill.recipe.schema import FieldSpec
from mlx_distill.records import Example, Value
from mlx_distill.task.decision import expectation
from mlx_distill.task.fields import closed_values, limits, nearest_value

INVERSE_PENALTY = 3.0
"""Logistic regression's C, a middle: 1, 3, 5 and 10 differed by 0.01 to 0.05 of accuracy on tweets (three draws of held-out events), and
no value led everywhere. It was not tuned on anyone's test."""
CHARACTERS = 4000
"""A text counts this far: long articles would cost minutes, and their beginnings say what they are about."""

Answers = dict[str, dict[str, Value]]
Say = Callable[[str], None]


def baselines(
    train: Sequence[Example], test: Sequence[Example], fields: Mapping[str, FieldSpec], *, say: Say = lambda line: None
) -> dict[str, Answers]:
    """Both baselines' answers to `test`, by name and id. A field that no row of `train` has is left out, and `say` is told."""
    closed = {name: spec for name, spec in fields.items() if spec.kind in CLOSED}
    known = {name: spec for name, spec in closed.items() if any(name in row.labels for row in train)}
    for name in closed.keys() - known.keys():
        say(f"{name}: no row to train has it, so it has no baseline")
    common = {name: most_common([row.labels[name] for row in train if name in row.labels], spec) for name, spec in known.items()}
    learned = _tfidf(train, test, known, common, say)
    return {
        "majority": {row.id: dict(common) for row in test},
        "tfidf": {row.id: {name: learned[name][i] for name in known} for i, row in enumerate(test)},
    }


def most_common(values: Sequence[Value], spec: FieldSpec) -> Value:
    """The most frequent value, the first of the recipe where two tie; of scores the median, at the nearest step.

    >>> most_common([2, 9, 3], FieldSpec(kind="score"))
    3
    >>> most_common(["b", "a", "b", "a"], FieldSpec(kind="choice", choices=("a", "b")))
    'a'
    """
    if spec.kind == "score":
        return on_step(float(np.median(np.array(values, dtype=float))), spec)
    return max(closed_values(spec) or (), key=values.count)


def on_step(value: float, spec: FieldSpec) -> Value:
    """The nearest legal score.

    >>> on_step(11.2, FieldSpec(kind="score")), on_step(0.7, FieldSpec(kind="score", min=0, max=1, step=0.25))
    (10, 0.75)
    """
    low, high, _ = limits(spec)
    return nearest_value(spec, min(max(value, low), high))


def _tfidf(
    train: Sequence[Example], test: Sequence[Example], fields: Mapping[str, FieldSpec], common: Mapping[str, Value], say: Say
) -> dict[str, list[Value]]:
    """A value for each test row, by field."""
    if not fields or not test:
        return {name: [] for name in fields}
    features = _features([_head(row) for row in train], [_head(row) for row in test])
    if features is None:
        say("TF-IDF: the texts to train have no words, so it answers as the majority")
        return {name: [common[name]] * len(test) for name in fields}
    return {name: _field(name, spec, train, *features, common[name], say) for name, spec in fields.items()}


def _head(row: Example) -> str:
    return row.text[:CHARACTERS]


def _features(train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any] | None:
    """Sparse (rows, features) of both, or None where no text has a word or a character."""
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    rare = 2 if len(train) >= 200 else 1  # what one row alone has teaches nothing about another, and is most of the features
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=rare, dtype=np.float32)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=rare, dtype=np.float32)
    found = []
    for vectorizer in (words, characters):
        try:
            found.append((vectorizer.fit_transform(train), vectorizer.transform(test)))
        except ValueError:  # an empty vocabulary
            continue
    if not found:
        return None
    return hstack([pair[0] for pair in found]).tocsr(), hstack([pair[1] for pair in found]).tocsr()


def _field(name: str, spec: FieldSpec, train: Sequence[Example], learn: Any, answer: Any, common: Value, say: Say) -> list[Value]:
    rows = [i for i, row in enumerate(train) if name in row.labels]
    values = [train[i].labels[name] for i in rows]
    if all(value == values[0] for value in values):
        say(f"{name}: every row to train has the same value, so TF-IDF answers as the majority")
        return [common] * answer.shape[0]
    if spec.kind == "score":
        from sklearn.linear_model import Ridge

        scores = Ridge(alpha=1.0).fit(learn[rows], np.array(values, dtype=float)).predict(answer)
        return [expectation(spec, float(score)) if spec.estimate == "mean" else on_step(float(score), spec) for score in scores]
    return _classify(learn[rows], values, answer)


def _classify(learn: Any, values: Sequence[Value], answer: Any) -> list[Value]:
    """One logistic regression a value, against all others: in the dual it is 15 times as fast as the softmax, and no worse here."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    names = sorted(set(values), key=str)
    model = OneVsRestClassifier(LogisticRegression(C=INVERSE_PENALTY, solver="liblinear", dual=True, max_iter=1000, random_state=0))
    codes = model.fit(learn, [names.index(value) for value in values]).predict(answer)
    return [names[int(code)] for code in codes]
