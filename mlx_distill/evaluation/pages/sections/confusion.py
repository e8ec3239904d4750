"""Which labels the student takes for which: a matrix a field, and each label's precision and recall."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.evaluation.pages.markup import bdi, cell, row, table
from mlx_distill.evaluation.pages.sections._metrics import counted, percent

Doc = Mapping[str, Any]
AT_MOST = 14
"""Labels of a matrix that fit a page; the others are in report.json."""
MANY = 7
"""More columns than this are headed from below upwards, to be narrow."""
FEW = 10
"""Rows of a label below which nothing is said of it in words."""


def render(document: Doc) -> str:
    found = [f"<h3>{bdi(name)}</h3>{_worst_words(counts)}{matrix(counts)}{_classes(counts)}" for name, counts in _known(document)]
    note = '<p class="note">A row is what the judge said, a column what the student said; the shade is the share of the row.</p>'
    return note + "".join(found) if found else ""


def markdown(document: Doc) -> str:
    lines = [f"- {cell(name)}: {words}" for name, counts in _known(document) if (words := _in_words(counts, cell))]
    return "\n".join(lines) + "\n" if lines else ""


def worst(counts: Doc) -> tuple[str, str, float] | None:
    """The label that is most often taken for another one, that other, and in what share of its rows; None: too few rows to say."""
    found = [
        (counts["matrix"][i][j] / counts["support"][i], label, other)
        for i, label in enumerate(counts["labels"])
        for j, other in enumerate(counts["labels"])
        if i != j and counts["support"][i] >= FEW and counts["matrix"][i][j]
    ]
    if not found:
        return None
    share, label, other = max(found, key=lambda entry: entry[0])
    return label, other, share


def _known(document: Doc) -> Iterator[tuple[str, Doc]]:
    return ((name, counts) for name, counts in document["confusion"].items() if sum(counts["support"]))


def _worst_words(counts: Doc) -> str:
    words = _in_words(counts, bdi)
    return f"<p>{words}</p>" if words else ""


def _in_words(counts: Doc, write: Any) -> str:
    pair = worst(counts)
    if pair is None:
        return ""
    label, other, share = pair
    return f"Most often confused: of the rows that the judge calls “{write(label)}”, the student calls {percent(share)} “{write(other)}”."


def matrix(counts: Doc) -> str:
    """`counts`: labels, matrix, unanswered, support, as `tables.confusion` gives them."""
    seen = [i for i in range(len(counts["labels"])) if counts["support"][i] or any(line[i] for line in counts["matrix"])]
    kept = sorted(sorted(seen, key=lambda i: -counts["support"][i])[:AT_MOST])
    unanswered = any(counts["unanswered"])
    rows = []
    for i in kept:
        cells = "".join(_heat(counts["matrix"][i][j], counts["support"][i], i == j) for j in kept)
        last = f"<td>{counts['unanswered'][i]}</td>" if unanswered else ""
        rows.append(f'<tr><th scope="row">{bdi(counts["labels"][i])}</th>{cells}{last}</tr>')
    head = ["judge ↓ student →", *(bdi(counts["labels"][i]) for i in kept), *(["no answer"] if unanswered else [])]
    left_out = len(seen) - len(kept)
    caption = f"The {AT_MOST} commonest labels; {left_out} rarer ones are in report.json." if left_out else ""
    return table(head, rows, caption, "matrix many" if len(kept) > MANY else "matrix")


def _heat(count: int, support: int, hit: bool) -> str:
    share = count / support if support else 0.0
    css = " ".join(word for word, holds in (("hit", hit), ("strong", share > 0.6), ("zero", not count)) if holds)
    return f'<td class="{css}" style="--share:{share:.2f}">{counted(count)}</td>'


def _classes(counts: Doc) -> str:
    """Of the labels that either side gave; folded where they are many."""
    shown = [i for i in range(len(counts["labels"])) if counts["support"][i] or any(line[i] for line in counts["matrix"])]
    rows = []
    for i in shown:
        shares = [percent(counts[key][i]) for key in ("precision", "recall", "f1")]
        rows.append(row(bdi(counts["labels"][i]), [("number", share) for share in [*shares, counted(counts["support"][i])]]))
    found = table(["label", "precision", "recall", "F1", "rows"], rows)
    return f"<details><summary>Precision and recall of {len(shown)} labels</summary>{found}</details>" if len(shown) > AT_MOST else found
