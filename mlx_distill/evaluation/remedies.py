"""What to try where targets are missed, in the order in which it was asked for, each with its evidence out of this very report.

    remedies(document)     [{remedy, evidence, worth, how}], empty where nothing is missed

`worth` is likely, unlikely or unknown: what this run's own figures say for it, and nothing else. What they do not say is unknown, and the
evidence then names the figure that is lacking. It knows report.json's document; it computes no metric.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

Doc = Mapping[str, Any]
Worth = Literal["likely", "unlikely", "unknown"]
Said = tuple[Worth, str, str]
"""Worth, evidence, and the command that tries it."""

BY_HEART = 1.5
"""Loss on rows that it did not learn / loss on those it did: from here on it has learned rows by heart ..."""
ALIKE = 1.15
"""... and up to here it is about as far off on both: what holds it back is not the number of rows."""
UNSURE = 0.7
"""A wrong value of less confidence than this is one that another draw may turn."""
SURE = 0.9
FEW = 20
"""Fewer wrong values than this say little of what they have in common."""
OFTEN, SELDOM = 0.5, 0.2
"""Shares of the wrong values from, and up to, which being unsure is the rule or the exception."""
AT_THE_CEILING = 0.95
"""A student that has so much of the judge's agreement with itself cannot get much nearer."""
FAR_BELOW = 0.85


def remedies(document: Doc) -> list[dict[str, str]]:
    """In the order of the remedies: a smaller or larger student, more labels, full fine-tuning, an ensemble that votes, the judge."""
    if document.get("verdict") != "missed":
        return []
    order: dict[str, Callable[[Doc], Said]] = {
        "a smaller or larger student": _student,
        "more labels": _labels,
        "full fine-tuning": _full,
        "an ensemble that votes": _ensemble,
        "the judge itself": _judge,
    }
    found = {name: say(document) for name, say in order.items()}
    return [{"remedy": name, "evidence": why, "worth": worth, "how": how} for name, (worth, why, how) in found.items()]


@dataclass(frozen=True, slots=True)
class Losses:
    """At the kept adapter's validation, nats a token. `last`: it was the last one, so that the loss may still have been falling."""

    learned: float
    others: float
    last: bool

    @property
    def ratio(self) -> float:
        return self.others / self.learned if self.learned > 0 else float("inf")

    @property
    def words(self) -> str:
        return f"loss {self.learned:.3f} on rows that it learned, {self.others:.3f} on validation rows ({self.ratio:.2f} times)"


def losses(document: Doc) -> Losses | None:
    """None where the training's events do not tell both."""
    curve = [point for point in document.get("curve") or [] if point.get("valid_loss") is not None]
    kept = (document.get("training") or {}).get("kept")
    point = next((point for point in curve if point["step"] == kept), None)
    if point is None or point.get("train_loss") is None:
        return None
    return Losses(point["train_loss"], point["valid_loss"], point is curve[-1])


def _student(document: Doc) -> Said:
    how = _again(document, "larger", "base.model=A_LARGER_ONE")
    found = losses(document)
    if found is None:
        return "unknown", "the events tell no losses, so whether it fits too little or too much is not known", how
    if found.ratio >= BY_HEART:
        return "unlikely", f"{found.words}: it has room enough to learn rows by heart", how
    if found.last:
        longer = f"mlx-distill train {_lock(document)} --out {_run(document)} --resume --set train.epochs=MORE"
        return "unknown", f"{found.words}, and the best adapter is the last one: it may not have learned all it can", longer
    if found.ratio <= ALIKE:
        return "likely", f"{found.words}, and no better later: this student fits no closer", how
    return "unknown", f"{found.words}: neither too small for its rows nor too large", how


def _labels(document: Doc) -> Said:
    curve = document.get("learning_curve")
    if curve and curve.get("extrapolated"):
        return _by_curve(curve)
    how = f"mlx-distill learning-curve {_lock(document)} --sizes {_sizes(document)} --out {_run(document)}/learning-curve"
    found = losses(document)
    if found is None:
        return "unknown", "there is no learning curve, and the events tell no losses", how
    if found.ratio >= BY_HEART:
        return "likely", f"{found.words}: it generalises less than it learns; a learning curve would say by how much", how
    if found.ratio <= ALIKE:
        return "unlikely", f"{found.words}: it has not made use of those that it has; a learning curve would say for certain", how
    return "unknown", f"{found.words}; a learning curve would say", how


def _by_curve(curve: Doc) -> Said:
    double = curve["extrapolated"][0]
    gain, how = double["gain"], f"label {double['labels']:,} rows in all, and train anew"
    if gain["low"] is None or curve.get("noise") is None:  # without a measure of luck, the interval is too narrow to go by
        return "unknown", curve["words"][0], how
    worth: Worth = "likely" if gain["low"] > 0 else "unlikely" if gain["high"] <= 0 else "unknown"
    return worth, curve["words"][0], how


def _full(document: Doc) -> Said:
    how = _again(document, "full", "lora=none", "base.bits=none", "train.optimizer=adafactor")
    found = losses(document)
    if found is None:
        return "unknown", "the events tell no losses", how
    if found.ratio >= BY_HEART:
        return "unlikely", f"{found.words}: all weights would learn rows by heart sooner still", how
    if found.ratio <= ALIKE and not found.last:
        return "likely", f"{found.words}, and no better later: an adapter may be too narrow for this task", how
    return "unknown", f"{found.words}: nothing says that the adapter is what holds it back", how


def _ensemble(document: Doc) -> Said:
    how = f"with answer: json, mlx-distill infer {_run(document)} INPUT OUTPUT --samples 5 --temperature 0.7"
    wrong, unsure = wrong_values(document)
    if not wrong:
        return "unknown", "the report has no wrong value with a confidence", how
    evidence = f"{round(unsure):,} of {round(wrong):,} wrong values ({unsure / wrong:.0%}) had a confidence under {UNSURE:.0%}"
    if wrong < FEW:
        return "unknown", f"{evidence}: too few to go by", how
    if unsure / wrong >= OFTEN:
        return "likely", f"{evidence}: near ties, which votes decide better than one answer", how
    if unsure / wrong <= SELDOM:
        return "unlikely", f"{evidence}: where it is wrong it is mostly sure, and would vote for the same", how
    return "unknown", evidence, how


def wrong_values(document: Doc) -> tuple[float, float]:
    """(all, those of bins below UNSURE) over the closed fields, out of the reliability bins."""
    bins = [part for field in (document.get("reliability") or {}).values() for part in field if part["n"] and part["right"] is not None]
    missed = [(part["n"] * (1 - part["right"]), part["high"] <= UNSURE + 1e-9) for part in bins]
    return sum(n for n, _ in missed), sum(n for n, low in missed if low)


def _judge(document: Doc) -> Said:
    share, words = _of_ceiling(document)
    evidence = [words, *_sure_and_wrong(document)]
    how = f"give evaluate.again the judge's second answers, and mlx-distill evaluate {_run(document)}"
    worth: Worth = "unknown"
    if share is not None:
        worth = "likely" if share >= AT_THE_CEILING else "unlikely" if share <= FAR_BELOW else "unknown"
        how = (
            f"read the worst disagreements of {document.get('report') or 'the report'}, mend labels, sharpen the instructions, label again"
        )
    return worth, "; ".join(evidence), how


def _of_ceiling(document: Doc) -> tuple[float | None, str]:
    """The student's share of the judge's agreement with itself: the least over the missed metrics, else the main one's, else over all."""
    shares = _shares(document.get("ceiling") or {})
    if not shares:
        return None, "how far the judge agrees with itself is not known: no row was judged twice"
    missed = [name for name, target in (document.get("targets") or {}).items() if not target["met"] and name in shares]
    main = [document["main"]] if document.get("main") in shares else []
    name = min(missed or main or shares, key=lambda metric: shares[metric])
    return shares[name], f"by {name} the student has {shares[name]:.0%} of the judge's agreement with itself"


def _shares(ceiling: Doc) -> dict[str, float]:
    """By metric, those that are known."""
    found = {name: (entry.get("share") or {}).get("value") for name, entry in (ceiling.get("metrics") or {}).items()}
    return {name: share for name, share in found.items() if share is not None}


def _sure_and_wrong(document: Doc) -> list[str]:
    """Disagreements of which the student is sure are where a label may be wrong."""
    worst: Sequence[Doc] = document.get("disagreements") or []
    sure = [row for row in worst if any((row.get("confidence") or {}).get(field, 0.0) >= SURE for field in row.get("wrong", ()))]
    if not worst:
        return []
    first = f": labels to look at (first {', '.join(str(row['id']) for row in sure[:3])})" if sure else ""
    return [f"in {len(sure)} of the {len(worst)} worst disagreements the student is at least {SURE:.0%} sure{first}"]


def _again(document: Doc, suffix: str, *sets: str) -> str:
    """Another run of the same recipe, and the comparison with this one."""
    run = _run(document)
    laid = " ".join(f"--set {one}" for one in sets)
    return f"mlx-distill run {_lock(document)} --out {run}-{suffix} {laid}, then mlx-distill compare {run} {run}-{suffix}"


def _run(document: Doc) -> str:
    return shlex.quote(str(document.get("run") or "RUN"))


def _lock(document: Doc) -> str:
    """A lock is a recipe too."""
    return shlex.quote(str(PurePath(str(document.get("run") or "RUN")) / "recipe.lock.yaml"))


def _sizes(document: Doc) -> str:
    """An eighth, a quarter, half and all of the rows that were learned."""
    rows = (document.get("splits") or {}).get("train")
    return ",".join(str(max(1, rows * part // 8)) for part in (1, 2, 4, 8)) if rows and rows >= 8 else "250,500,1000"
