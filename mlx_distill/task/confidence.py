"""How sure an answer really is: what was found out on rows that were not learned, applied to new answers. `calibration.json` holds it.

    Confidence.read(adapter folder)          None where nothing was found out
    confidence.apply(task, prediction)       confidences set right, the row's own, whether it is deferred, conformal sets

It is fitted by `evaluation`; inference applies it. It knows fields and probabilities, nothing of models or files but its own.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_distill.errors import OutputError
from mlx_distill.files import write_json
from mlx_distill.recipe.schema import TaskSpec
from mlx_distill.records import Prediction, Value
from mlx_distill.task import deferral
from mlx_distill.task.calibrated import FieldMap as FieldMap
from mlx_distill.task.decision import place
from mlx_distill.task.deferral import default_of as default_of
from mlx_distill.task.deferral import wrong as wrong
from mlx_distill.task.fields import CLOSED, values_of
from mlx_distill.task.sets import OF_NAMES, OF_SCORES
from mlx_distill.task.sets import SetRule as SetRule

FILE = "calibration.json"
"""Beside the weights that it was fitted with."""
VERSION = 1
ABOUT = "How sure this student's answers are: found out by `mlx-distill evaluate` on rows that were not learned, applied by `infer`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Of the rows at least this sure, at most `max_error` are wrong, with certainty `level`: see `evaluation.deferral`."""

    of: str
    """What is wrong: `tier`, `overall`, `answer`, or a field."""
    within: float
    max_error: float
    level: float
    value: float | None
    """None: no threshold can promise that, and every row is deferred."""

    def defers(self, sure: float | None) -> bool:
        """A row of which nothing is known is deferred."""
        return sure is None or self.value is None or sure < self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidence:
    """What evaluation has found out, each part where the recipe asks for it."""

    fields: Mapping[str, FieldMap] = field(default_factory=dict)
    """By closed field; one without is left as the student says it."""
    threshold: Threshold | None = None
    sets: Mapping[str, SetRule] = field(default_factory=dict)
    """By closed field."""
    coverage: float | None = None
    """What the sets promise."""
    adapter_sha256: str | None = None
    """Of the weights that it was fitted with: other weights are sure of other things."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """For reports: how each part was found, on how many rows of which split. Plain JSON; nothing of it is applied."""

    @property
    def whole(self) -> bool:
        """Whether whole distributions of closed fields are needed to apply it, or the probabilities of the answers will do."""
        tempered = any(own.temperature != 1.0 for own in self.fields.values())
        sets = any(rule.method != "distance" and rule.quantile is not None for rule in self.sets.values())
        return tempered or sets or (self.threshold is not None and self.threshold.of != "answer")

    def apply(self, task: TaskSpec, prediction: Prediction) -> Prediction:
        """The same answer, with confidences, distributions, sets and the row's own made right, and `raw` what the student said.

        Fields that were not answered are left out; open fields keep their confidence. Where `whole` is true the prediction must have whole
        distributions; where it is not, confidences will do.
        """
        confidence, probabilities = dict(prediction.confidence), dict(prediction.probabilities)
        sets: dict[str, list[Value]] = {}
        for name, answer in prediction.answer.items():
            spec = task.fields[name]
            if spec.kind not in CLOSED:
                continue
            values = values_of(spec)
            if name in self.fields:
                self._set_right(name, len(values), place(spec, values, answer), confidence, probabilities)
            if name in self.sets:
                sets[name] = self.sets[name].members(spec, values, probabilities.get(name), answer)
        sure = None if self.threshold is None else self._sure(task, self.threshold, prediction, confidence, probabilities)
        return dataclasses.replace(
            prediction,
            confidence=confidence,
            probabilities=probabilities,
            raw=dict(prediction.probabilities),
            sets=sets,
            sure=sure,
            defer=self.threshold is not None and self.threshold.defers(sure),
        )

    def _set_right(self, name: str, values: int, at: int, confidence: dict[str, float], probabilities: dict[str, Sequence[float]]) -> None:
        """One field's, in place; `at`: the answer's number."""
        own = self.fields[name]
        if name in probabilities:
            shares = own.distribution(probabilities[name], at)
            confidence[name], probabilities[name] = shares[at], shares
        elif name in confidence and values > 1:
            assert own.temperature == 1.0, f"{name}: a temperature needs the whole distribution"
            confidence[name] = own.right(confidence[name])

    @staticmethod
    def _sure(
        task: TaskSpec,
        threshold: Threshold,
        prediction: Prediction,
        confidence: Mapping[str, float],
        probabilities: Mapping[str, Sequence[float]],
    ) -> float | None:
        return deferral.sure(
            task,
            threshold.of,
            threshold.within,
            answer=prediction.answer,
            confidence=confidence,
            probabilities=probabilities,
            overall=prediction.overall,
            tier=prediction.tier,
        )

    def write(self, folder: Path) -> None:
        """`calibration.json` in the folder. Raises OutputError."""
        write_json(folder / FILE, self.document())

    @classmethod
    def read(cls, folder: Path) -> Confidence | None:
        """What the folder's `calibration.json` says; None where there is none. Raises OutputError where it is damaged."""
        path = folder / FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise _damaged(path, str(error)) from error
        if isinstance(document, dict) and document.get("version") != VERSION:
            raise _damaged(path, f"it has version {document.get('version')!r}, and this mlx-distill reads version {VERSION}")
        try:
            return cls.of(document)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from error

    def document(self) -> dict[str, Any]:
        """As plain JSON; `of` is its inverse, to the last bit."""
        sets = {name: {"method": rule.method, "quantile": rule.quantile} for name, rule in self.sets.items()}
        return {
            "version": VERSION,
            "about": ABOUT,
            "adapter_sha256": self.adapter_sha256,
            "fields": {name: own.parameters() for name, own in self.fields.items()},
            "threshold": None if self.threshold is None else dataclasses.asdict(self.threshold),
            "sets": {"coverage": self.coverage, "fields": sets},
            "facts": dict(self.facts),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Confidence:
        """Raises AttributeError, KeyError, TypeError or ValueError where a part is missing or of the wrong kind."""
        sets = document["sets"]
        return cls(
            fields={name: FieldMap.of(own) for name, own in document["fields"].items()},
            threshold=None if document["threshold"] is None else _threshold_of(document["threshold"]),
            sets={name: _rule_of(rule) for name, rule in sets["fields"].items()},
            coverage=_number(sets["coverage"]),
            adapter_sha256=document["adapter_sha256"],
            facts=dict(document["facts"]),
        )


def _damaged(path: Path, why: str) -> OutputError:
    hint = "evaluate the run again: that writes it anew; without the file, confidences are the student's own and nothing is deferred"
    return OutputError(f"cannot be read: {why}", file=path, hint=hint)


def _threshold_of(document: Mapping[str, Any]) -> Threshold:
    within, max_error, level = (float(document[name]) for name in ("within", "max_error", "level"))
    return Threshold(of=str(document["of"]), within=within, max_error=max_error, level=level, value=_number(document["value"]))


def _rule_of(document: Mapping[str, Any]) -> SetRule:
    if document["method"] not in (*OF_NAMES, *OF_SCORES):
        raise ValueError(f"no method {document['method']!r} for sets")
    return SetRule(method=document["method"], quantile=_number(document["quantile"]))


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if not math.isfinite(number := float(value)):
        raise ValueError(f"{number} is no number")
    return number
