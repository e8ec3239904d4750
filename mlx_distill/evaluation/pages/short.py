"""The report in short: what a person who decides asks first, answered in sentences.

    answers(document)     does it agree, how sure is that, what does it hand back, where does it fail: from report.json's document alone
    beside(document)      what was missed besides the targets

It knows what sections hold; it computes no figure and writes no HTML.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_distill.evaluation import judge
from mlx_distill.evaluation.pages import failures
from mlx_distill.evaluation.words import amount, interval, lower

Doc = Mapping[str, Any]
PARTS = {
    "robustness": "robustness",
    "fairness": "fairness",
    "forgetting": "general ability",
    "calibration": "calibration",
    "deferral": "deferral",
}
"""Parts of the document with a verdict of their own, in words."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A question, what is to be said to it, and whether that is good or bad news, or neither ("")."""

    question: str
    sentences: tuple[str, ...]
    standing: str = ""


def answers(document: Doc) -> list[Answer]:
    return [_agrees(document), _certain(document), _hands_back(document), _fails(document)]


def beside(document: Doc) -> str | None:
    """A sentence on the parts whose limits were missed; None: none was."""
    missed = [words for name, words in PARTS.items() if (document.get(name) or {}).get("verdict") == "missed"]
    return f"What the recipe allows at most was exceeded in: {', '.join(missed)}." if missed else None


def _agrees(document: Doc) -> Answer:
    """Beside the sentences of the verdict, those that compare: with how far the judge agrees with itself, and with baselines."""
    found = (*_ceiling(document), *document["summary"][2:])
    standing = {"met": "good", "missed": "bad"}.get(document["verdict"], "")
    return Answer("Does it agree with the judge?", found or ("There is nothing to compare it with.",), standing)


def _ceiling(document: Doc) -> Iterator[str]:
    main = document["main"]
    again = ((document.get("ceiling") or {}).get("again") or {}).get("metrics") or {}
    sides = again.get(main)
    if sides and sides["judge"]["value"] is not None and sides["student"]["value"] is not None:
        theirs, ours = (amount(main, sides[side]["value"]) for side in ("judge", "student"))
        yield f"The judge, asked again, agrees with itself less than perfectly too: {lower(main)} {theirs}; the student has {ours}."


def _certain(document: Doc) -> Answer:
    question, main = "How certain is that?", document["main"]
    figure = document["metrics"].get(main) if main else None
    if figure is None or figure["low"] is None:
        return Answer(question, ("Nothing was measured.",))
    found = [f"{figure['n']:,} rows were judged. On other rows like them, expect {lower(main)} from {_range(main, figure)}."]
    if figure["n"] < judge.SMALL:
        found.append(f"That is few: fewer than {judge.SMALL} rows say little.")
    if doubts := [name for name, target in document["targets"].items() if _is_close(document["metrics"].get(name), target)]:
        verb = "is" if len(doubts) == 1 else "are"
        found.append(f"{_listed([lower(name) for name in doubts])} {verb} so near the target that other rows might turn the verdict.")
    if document.get("learned"):
        found.append(f"{document['learned']:,} of the rows may be among those that it learned from, which flatters it.")
    return Answer(question, tuple(found))


def _range(metric: str, figure: Doc) -> str:
    unit = " %" if amount(metric, figure["low"]).endswith("%") else ""
    return f"{interval(metric, figure)}{unit}"


def _is_close(figure: Doc | None, target: Doc) -> bool:
    return figure is not None and figure["low"] is not None and bool(figure["low"] <= target["target"] <= figure["high"])


def _listed(things: list[str]) -> str:
    text = ", ".join(things[:3]) + (f" and {len(things) - 3} more" if len(things) > 3 else "")
    return text[:1].upper() + text[1:]


def _hands_back(document: Doc) -> Answer:
    question, found = "What does it hand back to a person?", document.get("deferral")
    if not found:
        return Answer(question, ("Nothing: the recipe asks for no threshold (targets: {defer: ...}), so it answers every row.",))
    if found["threshold"] is None:
        return Answer(question, ("Every row: there is no threshold that can be promised.", found["promise"]), "bad")
    kept, wrong = found["test"]["coverage"]["value"], found["test"]["error"]["value"]
    if kept is None or wrong is None:
        return Answer(question, (found["promise"],))
    said = f"Of the test rows it hands back {_percent(1 - kept)}. Of those that it keeps, {_percent(wrong)} are {found['wrong']}."
    return Answer(question, (said, found["promise"]), "good" if wrong <= found["max_error"] else "bad")


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _fails(document: Doc) -> Answer:
    found = tuple(failures.named(document))
    return Answer("Where does it fail?", found or ("No weakness stands out in what was measured.",), "bad" if found else "")
