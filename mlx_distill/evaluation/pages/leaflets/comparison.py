"""A comparison for a person: in sentences, as a table of a terminal, as Markdown for a pull request, as a page of its own.

    sentences(document)   what to decide from, the first of them short
    lines(document)       the same with its table, for a terminal
    markdown(document)    for a pull request
    render(document)      HTML, one file that needs no network

It draws what `comparison.compare` found, and computes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_distill.evaluation.pages.leaflets import frame
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _metrics as metrics
from mlx_distill.evaluation.words import amount, interval, lower

Doc = Mapping[str, Any]
COST = {
    "train_seconds": ("training", "s"),
    "answer_seconds": ("an answer", "s"),
    "answer_tokens": ("tokens an answer", ""),
    "peak_memory_bytes": ("peak memory", "bytes"),
    "parameters": ("parameters", ""),
    "adapter_parameters": ("of them trained", ""),
    "base_bytes": ("base", "bytes"),
    "adapter_bytes": ("adapter", "bytes"),
}
NOTE = (
    "A difference is first − second, on the same rows, with its 95 % bootstrap interval: where that holds 0 there is no clear difference. "
    "p is two-sided, and adjusted by Holm’s method for all the differences of this table."
)


def sentences(document: Doc) -> list[str]:
    """The main metric first, then how many others are clear, then what is said of rows and fields that were left out."""
    names = [run["name"] for run in document["runs"]]
    main = document["main"]
    found = _main(document["metrics"][main], main) if main else ["There is no metric that stands for the whole task."]
    clear: dict[str, list[str]] = {}
    for name, entry in document["metrics"].items():
        if entry["standing"] == "clear" and name != main:
            clear.setdefault(entry["best"], []).append(lower(name))
    others = len(document["metrics"]) - bool(main)
    if others:
        told = [f"{name} is clearly best in {len(clear[name])} ({', '.join(clear[name][:4])})" for name in names if name in clear]
        rest = others - sum(map(len, clear.values()))
        found.append(f"Of {others} other metrics {'; '.join([*told, f'{rest} show no clear difference'] if rest else told)}.")
    return [*found, *_answering(document), *document["notes"]]


def _answering(document: Doc) -> Iterator[str]:
    """What an answer takes, where every side's is known."""
    known = [(run["cost"].get("answer_seconds") or 0.0, run["name"]) for run in document["runs"]]
    if all(seconds for seconds, _ in known):
        (least, quick), (most, slow) = min(known), max(known)
        yield f"An answer takes {_amount(least, 's')} by {quick}, {_amount(most, 's')} by {slow} ({most / least:.1f} times as long)."


def lines(document: Doc) -> list[str]:
    """A table in columns, and the sentences above it."""
    head, body = _plain(document)
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    aligned = [
        "  ".join(text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in enumerate(zip(line, widths, strict=True)))
        for line in [head, *body]
    ]
    shared = f"{document['rows']:,} test rows that all of them answered"
    return [*sentences(document), "", shared, *(line.rstrip() for line in aligned)]


def markdown(document: Doc) -> str:
    head, body = _plain(document)
    marked = grid([cell(name) for name in head], [[cell(text) for text in line] for line in body])
    rows = [[cell(entry["id"]), *(cell(_answer(side["answer"])) for side in entry["sides"].values())] for entry in document["differ"][:5]]
    names = [cell(run["name"]) for run in document["runs"]]
    differ = "\n**Where they differ most**\n\n" + grid(["row", *names], rows) if rows else ""
    return "".join(f"{cell(sentence)}\n\n" for sentence in sentences(document)) + marked + differ


def render(document: Doc) -> str:
    first, *rest = sentences(document)
    names = [run["name"] for run in document["runs"]]
    sections = {
        "figures": ("Figures", f'<p class="note">{NOTE}</p>' + _figures(document["metrics"], names)),
        "pairs": ("Every two of them", _pairs(document["metrics"], names)),
        "cost": ("Cost", _costs(document)),
        "differ": ("Where they differ most", "".join(_differing(document))),
        "more": ("More figures, p not adjusted", _figures(document["more"], names) if document["more"] else ""),
    }
    title = " · ".join(names)
    return frame.page(title, f"{document['rows']:,} test rows that all of them answered", [first, *rest], sections)


def _main(entry: Doc, metric: str) -> list[str]:
    """Who is best, and by how much against each of the others."""
    best, figures = entry["best"], entry["figures"]
    told = ", ".join(f"{name} {amount(metric, figure['value'])}" for name, figure in figures.items())
    if best is None:
        return [f"By {lower(metric)} nothing can be said: {told}."]
    against = "; ".join(_gap(pair, metric) for pair in entry["pairs"] if best in (pair["first"], pair["second"]))
    if entry["standing"] == "level":
        return [f"By {lower(metric)} there is no clear difference between {' and '.join([best, *entry['level']])}: {told}.", f"{against}."]
    weak = ", though not certainly among so many comparisons" if entry["standing"] == "weak" else ""
    return [f"By {lower(metric)} {best} is best{weak}: {told}.", f"{against}."]


def _gap(pair: Doc, metric: str) -> str:
    if pair["low"] is None:
        return f"{pair['first']} − {pair['second']}: unknown"
    figure = f"{amount(metric, pair['value'], signed=True)} ({interval(metric, pair)})"
    return f"{pair['first']} − {pair['second']}: {figure}, p {_p(pair)}"


def _p(pair: Doc) -> str:
    """The adjusted one where there is one."""
    p = pair["p_adjusted"] if pair["p_adjusted"] is not None else pair["p"]
    return "–" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _verdict(entry: Doc) -> str:
    if entry["standing"] == "level" or entry["best"] is None:
        return "no clear difference"
    return f"{entry['best']}{'' if entry['standing'] == 'clear' else '?'}"


def _plain(document: Doc) -> tuple[list[str], list[list[str]]]:
    """Head and rows of one table, texts alone: the metrics, then what each costs."""
    names = [run["name"] for run in document["runs"]]
    two = len(names) == 2
    head = ["", *names, *(["difference", "p (Holm)"] if two else []), "best"]
    body = []
    for metric, entry in document["metrics"].items():
        best = entry["best"] if entry["standing"] != "level" else None
        own = [f"{'✓ ' if name == best else ''}{metrics.value(metric, entry['figures'][name])}" for name in names]
        gap = [_difference(metric, entry["pairs"][0]), _p(entry["pairs"][0])] if two else []
        body.append([metric, *own, *gap, _verdict(entry)])
    for key, (name, unit) in COST.items():
        known = [run["cost"].get(key) for run in document["runs"]]
        if any(value is not None for value in known):
            body.append([name, *(_amount(value, unit) for value in known), *(["", ""] if two else []), ""])
    return head, body


def _difference(metric: str, pair: Doc) -> str:
    return "–" if pair["low"] is None else f"{amount(metric, pair['value'], signed=True)} ({interval(metric, pair)})"


def _figures(entries: Mapping[str, Doc], names: Sequence[str]) -> str:
    """A row for each metric: a figure with its interval for each side. Of two sides their difference too; of more it has its own table."""
    rows, two = [], len(names) == 2
    for metric, entry in entries.items():
        best = entry["best"] if entry["standing"] != "level" else None
        cells = [("number", _figure(metric, entry["figures"][name], best=name == best)) for name in names]
        gap = [("number", _line(metric, entry["pairs"][0]))] if two else []
        rows.append(row(metrics.named(metric), [*cells, *gap, ("words", bdi(_verdict(entry)))]))
    heads = [*map(bdi, names), *(["Difference"] if two else []), '<span class="words">Best</span>']
    return table(["Metric", *heads], rows)


def _pairs(entries: Mapping[str, Doc], names: Sequence[str]) -> str:
    """Of more than two sides, the difference of every two."""
    rows = [
        row(
            metrics.named(metric),
            [
                ("words", bdi(pair["first"])),
                ("words", bdi(pair["second"])),
                ("number", esc(_difference(metric, pair))),
                ("number", esc(_p(pair))),
            ],
        )
        for metric, entry in entries.items()
        for pair in entry["pairs"]
    ]
    heads = [f'<span class="words">{name}</span>' for name in ("First", "Second")]
    return table(["Metric", *heads, "Difference", "p"], rows) if len(names) > 2 else ""


def _figure(metric: str, figure: Doc, *, best: bool) -> str:
    value = esc(metrics.value(metric, figure))
    shown = f'<span class="good">✓ {value}</span>' if best else value
    return f'{shown}<br><span class="small">{esc(metrics.spread(metric, figure))}, n {figure["n"]:,}</span>'


def _line(metric: str, pair: Doc) -> str:
    return f'{esc(_difference(metric, pair))}<br><span class="small">p {esc(_p(pair))}</span>'


def _costs(document: Doc) -> str:
    rows = []
    for key, (name, unit) in COST.items():
        known = [run["cost"].get(key) for run in document["runs"]]
        if any(value is not None for value in known):
            rows.append(row(esc(name[0].upper() + name[1:]), [("number", esc(_amount(value, unit))) for value in known]))
    return table(["Cost", *(bdi(run["name"]) for run in document["runs"])], rows) if rows else ""


def _amount(value: float | None, unit: str) -> str:
    """A cost for a person.

    >>> _amount(0.0213, "s"), _amount(3 * 2**30, "bytes"), _amount(1543714304, ""), _amount(None, "s")
    ('0.021 s', '3.00 GiB', '1,543,714,304', '–')
    """
    if value is None:
        return "–"
    if unit == "s":
        return f"{value:.3f} s" if value < 1 else f"{value:,.1f} s"
    if unit == "bytes":
        return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.1f} MiB"
    return f"{value:,.0f}"


def _differing(document: Doc) -> Iterator[str]:
    """A card for each row: what the judge said, and each side."""
    if document["differ"]:
        yield '<div class="cards">'
    for entry in document["differ"]:
        sides = entry["sides"]
        rows = []
        for field, value in entry["reference"].items():
            answers = [(side["answer"] or {}).get(field) for side in sides.values()]
            rows.append(row(bdi(field), [("words", bdi(_shown(value))), *(("words", _marked(value, answer)) for answer in answers)]))
        head = ["Field", "Judge", *map(bdi, sides)]
        yield f"<article><h3>{bdi(entry['id'])}</h3>{table(head, rows)}</article>"
    if document["differ"]:
        yield "</div>"


def _marked(reference: Any, answer: Any) -> str:
    return bdi(_shown(answer)) if answer == reference else f'<span class="bad">✗ {bdi(_shown(answer))}</span>'


def _shown(value: Any) -> str:
    if value is None:
        return "no answer"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _answer(answer: Mapping[str, Any] | None) -> str:
    return "no answer" if answer is None else ", ".join(f"{field}: {_shown(value)}" for field, value in answer.items())
