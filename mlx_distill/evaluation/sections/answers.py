"""The sections of report.html: each draws one part of report.json, and is empty where that part has no figures. They compute none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_distill.evaluation import judge, plots
from mlx_distill.evaluation.markup import bdi, esc, row, table
from mlx_distill.evaluation.words import amount, interval, lower, standing, title

Doc = Mapping[str, Any]
SHORT = {"majority": "Majority", "tfidf": "TF-IDF"}
MATRIX_AT_MOST = 14
"""Labels of a confusion matrix that fit a page; the others are in report.json."""


def targets(document: Doc) -> str:
    rows = []
    for name, target in document["targets"].items():
        figure = document["metrics"].get(name)
        sign = "≤" if judge.lower_is_better(name) else "≥"
        met = '<span class="good">✓ met</span>' if target["met"] else '<span class="bad">✗ missed</span>'
        unsure = target["value"] is None or (figure and figure["low"] is not None and figure["low"] <= target["target"] <= figure["high"])
        note = ' <span class="small">not measured</span>' if target["value"] is None else ' <span class="small">not certain</span>'
        cells = [
            ("words", met + (note if unsure else "")),
            ("number", amount(name, target["value"])),
            ("number", f"{sign} {amount(name, target['target'])}"),
            ("range", interval(name, figure) if figure else "–"),
        ]
        rows.append(row(_named(name), cells))
    note = '<p class="note">Not certain: the wanted value lies within the 95 % interval, so other rows might have turned the verdict.</p>'
    return table(["", '<span class="words">verdict</span>', "reached", "wanted", "95 %"], rows) + note if rows else ""


def _named(metric: str) -> str:
    """A metric in words, the field within it in the recipe's."""
    family, dot, field = metric.partition(".")
    return esc(title(family)) + (f" of {bdi(field)}" if dot else "")


def fields(document: Doc) -> str:
    blocks = [_field(document, name, field) for name, field in document["fields"].items() if field["headline"] in document["metrics"]]
    if not blocks:
        return ""
    with_baselines = (
        "<p class='note'>Baselines learned from the student's own rows, and answer the same test. Majority: always the most common answer. "
        "TF-IDF: words and characters, with a linear model. A difference is student − baseline, with its paired 95 % interval; "
        "where that holds 0, there is no clear difference.</p>"
    )
    return (with_baselines if document["baselines"] else "") + "".join(blocks)


def _field(document: Doc, name: str, field: Doc) -> str:
    metric = field["headline"]
    own = document["metrics"][metric]
    others = {key: baseline for key, baseline in document["baselines"].items() if metric in baseline["metrics"]}
    lines = [("Student", own, None)] + [
        (SHORT.get(key, key), baseline["metrics"][metric], baseline["difference"].get(metric)) for key, baseline in others.items()
    ]
    rows = [
        row(
            esc(who),
            [("number", amount(metric, figure["value"])), ("range", interval(metric, figure)), ("number", _difference(metric, gap))],
            kind,
        )
        for (who, figure, gap), kind in zip(lines, ["main"] + [""] * len(others), strict=True)
    ]
    word = esc(lower(metric.partition(".")[0]))
    head = ["", word, "95 %", "difference"]
    drawn = _dots(metric, f"{title(metric)}, with 95 % intervals", [(who, figure) for who, figure, _ in lines])
    better = "lower is better" if judge.lower_is_better(metric) else "higher is better"
    return (
        f'<div class="pair"><h3>{bdi(name)} <span class="small">{word}, {better}, n = {own["n"]:,}</span></h3>'
        f"<figure>{drawn}</figure>{table(head, rows)}</div>"
    )


def _difference(metric: str, gap: Doc | None) -> str:
    if gap is None or gap["value"] is None:
        return ""
    css = {"better": "good", "worse": "bad", "level": "small"}[standing(metric, gap)]
    low, high = (amount(metric, gap[end], signed=True) for end in ("low", "high"))
    return f'<span class="{css}">{amount(metric, gap["value"], signed=True)}</span> <span class="small">({low} to {high})</span>'


def _dots(metric: str, alt: str, figures: Sequence[tuple[str, Doc]]) -> str:
    low, high, ticks = _axis(metric, [figure for _, figure in figures])
    lines = [
        plots.Dot(who, figure["value"], figure["low"], figure["high"], amount(metric, figure["value"]), main=who == "Student")
        for who, figure in figures
        if figure["value"] is not None
    ]
    words = "; ".join(f"{line.name} {line.shown}" for line in lines)
    return plots.dots(lines, low, high, ticks, f"{alt}: {words}")


def _axis(metric: str, figures: Sequence[Doc]) -> tuple[float, float, list[tuple[float, str]]]:
    """From 0 to 1 for shares and F1; from 0 to a round number above the highest interval for errors."""
    unit = judge.metric(metric).UNIT
    if unit.startswith("share") or "0 to 1" in unit:
        return 0.0, 1.0, [(i / 4, f"{i * 25} %" if unit.startswith("share") else f"{i / 4:g}") for i in range(5)]
    most = max((figure["high"] or 0.0 for figure in figures), default=1.0) or 1.0
    top = next(step * 10**power for power in range(-6, 300) for step in (1, 2, 4, 5) if step * 10.0**power >= most)
    return 0.0, float(top), [(top * i / 4, f"{top * i / 4:g}") for i in range(5)]


def figures(document: Doc) -> str:
    rows = [
        row(
            f'{_named(name)} <span class="small code">{esc(name)}</span>',
            [("number", amount(name, figure["value"])), ("range", interval(name, figure)), ("number", f"{figure['n']:,}")],
        )
        for name, figure in sorted(document["metrics"].items(), key=lambda item: _place(item[0], document["fields"]))
        if name.partition(".")[0] == judge.metric(name).__name__.rpartition(".")[2]  # an alias says it twice
    ]
    return table(["", "value", "95 %", "n"], rows)


def _place(metric: str, fields: Doc) -> tuple[int, str]:
    """The task's figures first, then field by field."""
    field = metric.partition(".")[2]
    return (list(fields).index(field) if field else -1, metric)


def slices(document: Doc) -> str:
    main = document["main"]
    if main is None:
        return ""
    return "".join(_slice_table(document, column, entries, main) for column, entries in document["slices"].items())


def _slice_table(document: Doc, column: str, entries: Sequence[Doc], main: str) -> str:
    """A row a value, worst first, with every field's headline beside the main metric."""
    own = [field["headline"] for field in document["fields"].values() if field["headline"] in document["metrics"]]
    headlines = own if 1 < len(own) <= 4 else []
    low, high, _ = _axis(main, [entry["metrics"][main] for entry in entries if main in entry["metrics"]])
    rows = []
    for entry in entries:
        figure = entry["metrics"].get(main)
        drawn = ""
        if figure and figure["value"] is not None:
            words = f"{amount(main, figure['value'])}, {interval(main, figure)}"
            drawn = plots.interval(figure["value"], figure["low"], figure["high"], low, high, words)
        mark = ' <span class="small">few rows</span>' if entry["small"] else ""
        cells = [
            ("number", f"{entry['n']:,}"),
            ("number", _cell(main, figure)),
            ("range", interval(main, figure) if figure else "–"),
            ("", drawn),
        ]
        rows.append(
            row(
                bdi(entry["value"] or "(empty)") + mark, cells + [("number", _cell(name, entry["metrics"].get(name))) for name in headlines]
            )
        )
    head = [bdi(column), "n", esc(lower(main.partition(".")[0])), "95 %", "", *(bdi(name.partition(".")[2]) for name in headlines)]
    return table(head, rows, f"By {bdi(column)}, worst first")


def _cell(metric: str, figure: Doc | None) -> str:
    return amount(metric, figure["value"]) if figure else "–"


def confusions(document: Doc) -> str:
    found = []
    for name, table_ in document["confusion"].items():
        if sum(table_["support"]):
            found.append(f"<h3>{bdi(name)}</h3>{_matrix(table_)}{_classes(table_)}")
    note = '<p class="note">A row is what the judge said, a column what the student said; the shade is the share of the row.</p>'
    return note + "".join(found) if found else ""


def _matrix(counts: Doc) -> str:
    seen = [i for i in range(len(counts["labels"])) if counts["support"][i] or any(line[i] for line in counts["matrix"])]
    kept = sorted(sorted(seen, key=lambda i: -counts["support"][i])[:MATRIX_AT_MOST])
    unanswered = any(counts["unanswered"])
    rows = []
    for i in kept:
        cells = "".join(_heat(counts["matrix"][i][j], counts["support"][i], i == j) for j in kept)
        last = f"<td>{counts['unanswered'][i]}</td>" if unanswered else ""
        rows.append(f'<tr><th scope="row">{bdi(counts["labels"][i])}</th>{cells}{last}</tr>')
    head = ["judge ↓ student →", *(bdi(counts["labels"][i]) for i in kept), *(["no answer"] if unanswered else [])]
    left_out = len(seen) - len(kept)
    caption = f"{left_out} rarer labels are left out here; report.json has them." if left_out else ""
    return table(head, rows, caption, "matrix")


def _heat(count: int, support: int, hit: bool) -> str:
    share = count / support if support else 0.0
    css = " ".join(word for word, holds in (("hit", hit), ("strong", share > 0.6), ("zero", not count)) if holds)
    return f'<td class="{css}" style="--share:{share:.2f}">{count}</td>'


def _classes(counts: Doc) -> str:
    shares = [[_percent(counts[key][i]) for key in ("precision", "recall", "f1")] for i in range(len(counts["labels"]))]
    rows = [
        row(bdi(label), [("number", cell) for cell in [*shares[i], f"{counts['support'][i]:,}"]])
        for i, label in enumerate(counts["labels"])
    ]
    return table(["label", "precision", "recall", "F1", "rows"], rows)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}".replace("%", " %")


def scores(document: Doc) -> str:
    rows = [
        row(
            bdi(name),
            [
                ("number", f"{entry['reference_mean']:.2f}"),
                ("number", f"{entry['student_mean']:.2f}"),
                ("number", _sign(entry["bias"])),
                ("number", f"{entry['n']:,}"),
            ],
        )
        for name, entry in document["scores"].items()
        if entry["n"]
    ]
    return table(["", "judge's mean", "student's mean", "student − judge", "n"], rows) if rows else ""


def _sign(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def reliability(document: Doc) -> str:
    found = []
    for name, bins in document["reliability"].items():
        known = [entry for entry in bins if entry["n"]]
        figure = document["metrics"].get(f"ece.{name}")
        if not known or figure is None:
            continue
        words = "; ".join(f"says {_percent(e['confidence'])}, right {_percent(e['right'])} ({e['n']} rows)" for e in known)
        drawn = plots.reliability([(e["confidence"], e["right"], e["n"]) for e in known], f"Confidence of {name}: {words}")
        rows = [
            row(
                f"{entry['low']:.1f}–{entry['high']:.1f}",
                [("number", _percent(entry["confidence"])), ("number", _percent(entry["right"])), ("number", f"{entry['n']:,}")],
            )
            for entry in known
        ]
        error = f"calibration error {amount('ece', figure['value'])} ({interval('ece', figure)})"
        found.append(
            f"<figure><figcaption><b>{bdi(name)}</b><br><span class='small'>{error}</span></figcaption>{drawn}"
            f"{table(['confidence', 'says', 'is right', 'n'], rows)}</figure>"
        )
    note = (
        '<p class="note">Each dot holds the rows with about the same confidence: across, how sure the student was; up, how often it was '
        "right. On the dashed line both agree; below it, the student is too sure of itself.</p>"
    )
    return f'{note}<div class="squares">{"".join(found)}</div>' if found else ""


def disagreements(document: Doc) -> str:
    if not document["disagreements"]:
        return ""
    note = (
        '<p class="note">The rows that student and judge see most differently, the student being sure. The judge can be wrong as well.</p>'
    )
    return f'{note}<div class="cards">{"".join(_disagreement(entry, document["fields"]) for entry in document["disagreements"])}</div>'


def _disagreement(entry: Doc, fields: Doc) -> str:
    answer = entry["answer"] or {}
    rows = []
    for name in fields:
        if name not in entry["reference"] and name not in answer:
            continue
        ours = _value(answer.get(name)) if entry["answer"] is not None else "no valid answer"
        wrong = name in entry["wrong"]
        sure = entry["confidence"].get(name)
        cells = [
            ("words", bdi(_value(entry["reference"].get(name)))),
            ("words", f'<span class="bad">✗ {bdi(ours)}</span>' if wrong else bdi(ours)),
            ("number", "" if sure is None else f"{sure:.0%}".replace("%", " %")),
        ]
        rows.append(row(bdi(name), cells))
    head = "".join(f'<th scope="col" class="words">{cell}</th>' for cell in ("field", "judge", "student", "sure"))
    return (
        f'<article><p class="text" dir="auto">{esc(entry["text"])}</p>'
        f'<table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table><p class="small code">{bdi(entry["id"])}</p></article>'
    )


def _value(value: object) -> str:
    if value is None:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else judge.label(value)


def lineage(document: Doc) -> str:
    facts = {"run": document["run"], **dict(_flat(document["lineage"]))}
    rows = "".join(
        f'<dt>{bdi(key)}</dt><dd class="{"code" if _is_code(value) else ""}">{bdi(_value(value))}</dd>' for key, value in facts.items()
    )
    notes = "".join(f"<p>{esc(note)}</p>" for note in document["notes"])
    return f"{notes}<dl>{rows}</dl>"


def _flat(facts: Doc, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested facts as dotted keys."""
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is_code(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{12,}|\S*/\S*", value) is not None
