"""What stands in a report, and in which order: the sections by name, under their titles, in groups that each answer one question.

A section is a file of `sections`: render(document) gives its inside as HTML, markdown(document) the same in few lines, "" where the
document has nothing for it. A section that is named here and has no file is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_distill import catalog

KIND = "evaluation.pages.sections"
GROUPS: Mapping[str, Mapping[str, str]] = {
    "How far it agrees": {
        "targets": "Targets",
        "agreement": "Student and baselines",
        "ceiling": "The judge's agreement with itself",
        "tiers": "Tiers",
        "confusion": "What it confuses",
        "scores": "Scores: too high, too low",
    },
    "When it is sure": {
        "calibration": "Does it know when it is right?",
        "deferral": "What it hands back",
        "conformal": "Sets and intervals",
    },
    "Where it fails": {
        "slices": "Where it is worst",
        "robustness": "Texts that are spoiled",
        "fairness": "Like cases, like answers?",
        "forgetting": "What it forgot",
        "lm_eval": "Other benchmarks",
    },
    "What it takes": {
        "tokenizer": "Tokens for each language",
        "production": "In use: speed, memory, valid answers",
        "training": "Training",
    },
    "What to do": {
        "disagreements": "Worst disagreements",
        "remedies": "What may help",
    },
    "How it came about": {
        "lineage": "Lineage, and how to do it again",
        "figures": "All figures",
    },
}


@dataclass(frozen=True, slots=True)
class Section:
    name: str
    title: str
    group: str
    content: str


def rendered(document: Mapping[str, Any]) -> Iterator[Section]:
    """Those with something to show, as HTML."""
    return _sections(document, "render")


def in_markdown(document: Mapping[str, Any]) -> Iterator[Section]:
    return _sections(document, "markdown")


def _sections(document: Mapping[str, Any], form: str) -> Iterator[Section]:
    there = set(catalog.names(KIND))
    for group, titles in GROUPS.items():
        for name, title in titles.items():
            if name in there and (content := getattr(catalog.find(KIND, name), form)(document)):
                yield Section(name, title, group, content)
