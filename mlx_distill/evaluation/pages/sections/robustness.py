"""What becomes of the answers when texts are spoiled: by changes that should turn none, by texts that have none, by rows of the user's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mlx_distill.evaluation.pages import plots
from mlx_distill.evaluation.pages.markup import bdi, cell, esc, grid, row, table
from mlx_distill.evaluation.pages.sections import _spoiled
from mlx_distill.evaluation.pages.sections._metrics import counted, percent
from mlx_distill.evaluation.words import amount, lower
from mlx_distill.observe import progress

Doc = Mapping[str, Any]
VERDICTS = {"met": '<span class="good">✓ met</span>', "missed": '<span class="bad">✗ missed</span>', "none": ""}
PLAIN = {"met": "✓ met", "missed": "✗ **missed**", "none": "–"}
WORST = 5
"""Lines of a suite's table that a pull request shows."""
REASONS = 2
"""Why rows of a given suite could not be judged: so many of the reasons."""
FLIPPED = (
    "Flipped: any choice, flag or score is another than to the unchanged text, or the changed text was refused. "
    "Unnoticed: flipped, and the row is not handed back."
)
HANDED = "A change marked ↩ passes, too, where the row is handed back: it is held against the unnoticed flips."
STILL = "Surer than usual: answered with more confidence than half of the unchanged test rows; a student that never doubts reaches 50 %."


def render(document: Doc) -> str:
    found = document.get("robustness")
    if not found:
        return ""
    texts = _spoiled.shown(document)
    kept, empty = _kept(found), _empty(found)
    given = "".join(_given(name, suite, texts) for name, suite in found["given"].items())
    return _intro(found, kept + empty) + _stay(found, kept) + _doubt(empty) + _spoiled.changes(kept + empty, texts) + given


def markdown(document: Doc) -> str:
    found = document.get("robustness")
    if not found:
        return ""
    head = (["changed text", "n", "flipped", "95 %", "verdict"], ["nothing to answer", "n", "handed back", "surer than usual"])
    blocks = [
        grid(head[0], [_kept_plainly(suite) for suite in _kept(found)]),
        grid(head[1], [_empty_plainly(suite) for suite in _empty(found)]),
        *(_given_plainly(name, suite) for name, suite in found["given"].items()),
    ]
    return "\n".join(filter(None, blocks))


def _kept_plainly(suite: Doc) -> list[str]:
    flips = suite["flips"]["any"]
    return [cell(suite["title"]), counted(suite["n"]), percent(flips["value"]), _range(flips), PLAIN[suite["verdict"]]]


def _empty_plainly(suite: Doc) -> list[str]:
    return [cell(suite["title"]), counted(suite["n"]), _share(suite["doubt"]["handed_back"]), _share(suite["doubt"]["still_sure"])]


def _kept(found: Doc) -> list[Doc]:
    """Suites whose answers should stay, the worst first."""
    return sorted((s for s in found["suites"].values() if s["n"] and not s["doubt"]), key=lambda s: -(s["flips"]["any"]["value"] or 0.0))


def _empty(found: Doc) -> list[Doc]:
    """Suites that ask for doubt, the most certain first."""
    return sorted((s for s in found["suites"].values() if s["n"] and s["doubt"]), key=lambda s: -(s["doubt"]["still_sure"]["value"] or 0.0))


def _intro(found: Doc, shown: Sequence[Doc]) -> str:
    if not found["suites"]:
        return ""
    limit = "" if found["limit"] is None else f" At most {percent(found['limit'])} may flip."
    left = [f"{esc(suite['title'])} ({counted(suite['unchanged'])})" for suite in found["suites"].values() if not suite["n"]]
    nothing = f" Nothing to change in any row, so not asked: {', '.join(left)}." if left else ""
    how = f"Up to {counted(found['rows'])} test rows, evenly over what the judge says of them, are changed in each way and asked again."
    return f'<p class="note">{how}{limit} {FLIPPED if shown else ""}{nothing}</p>'


def _stay(found: Doc, suites: Sequence[Doc]) -> str:
    if not suites:
        return ""
    judged = found["limit"] is not None
    rows = [
        row(esc(suite["title"]) + " ↩" * (judged and _handed(suite)), [("words", VERDICTS[suite["verdict"]])] * judged + list(_line(suite)))
        for suite in suites
    ]
    head = ["change", *['<span class="words">verdict</span>'] * judged, "n", "flipped", "95 %", "unnoticed", "confidence", _agreed(suites)]
    mark = f'<p class="note">{HANDED}</p>' if judged and any(map(_handed, suites)) else ""
    drawn = _dots(suites)
    figure = f"<figure>{drawn}</figure>" if drawn else ""
    return f"<h3>The answer should stay</h3>{figure}{table(head, rows)}{mark}{_fields(suites)}{_orders(suites)}"


def _line(suite: Doc) -> Iterator[tuple[str, str]]:
    flips, agreement = suite["flips"]["any"], suite["agreement"]
    yield "number", counted(suite["n"])
    yield "number", percent(flips["value"])
    yield "range", _range(flips)
    yield "number", percent(suite["unseen"]["value"])
    yield "number", _points(suite["confidence"]["change"]["value"])
    yield "number", _difference(agreement)


def _fields(suites: Sequence[Doc]) -> str:
    """Flips and shifts by field, folded away."""
    moved = "Points after − before; in brackets how far on average, in either direction"
    inside = _by_field(suites, "flips", "tier", _share, "Flipped") + _by_field(suites, "shifts", "overall", _shift, moved)
    return f"<details><summary>By field</summary>{inside}</details>" if inside else ""


def _by_field(suites: Sequence[Doc], part: str, whole: str, show: Callable[[Doc | None], str], caption: str) -> str:
    """A row a suite; a column for the tier or the overall, where there is one, and for each field."""
    names, has_whole = list(suites[0][part]["fields"]), any(suite[part][whole] for suite in suites)
    rows = [
        row(
            esc(suite["title"]),
            [("number", show(suite[part][whole]))] * has_whole + [("number", show(suite[part]["fields"][name])) for name in names],
        )
        for suite in suites
    ]
    return table(["", *[whole] * has_whole, *map(bdi, names)], rows, caption) if names or has_whole else ""


def _orders(suites: Sequence[Doc]) -> str:
    """Whether orders in the text were obeyed."""
    for suite in suites:
        if figure := suite["obeyed"]:
            said = f"{percent(figure['value'])} (95 % interval {_range(figure)}, n = {counted(figure['n'])})"
            return f"<p>{esc(suite['title'])}: the answer became what the text demanded in {said}.</p>"
    return ""


def _doubt(suites: Sequence[Doc]) -> str:
    if not suites:
        return ""
    rows = []
    for suite in suites:
        back, still = suite["doubt"]["handed_back"], suite["doubt"]["still_sure"]
        cells = [counted(suite["n"]), _share(back), _range(back), _share(still), _range(still)]
        kinds = ("number", "number", "range", "number", "range")
        rows.append(
            row(esc(suite["title"]), [*zip(kinds, cells, strict=True), ("number", _points(suite["confidence"]["change"]["value"]))])
        )
    none = "" if suites[0]["doubt"]["handed_back"] else " There is no threshold: this student hands nothing back."
    head = ["text", "n", "handed back", "95 %", "surer than usual", "95 %", "confidence"]
    return f'<h3>There is nothing to answer</h3>{table(head, rows)}<p class="note">{STILL}{none}</p>'


def _given(name: str, suite: Doc, texts: bool) -> str:
    passed = suite["passed"]
    lines = [
        f"{percent(passed['value'])} of {counted(suite['n'])} rows do what is expected of them (95 % interval {_range(passed)}).",
        f"{percent(suite['unseen']['value'])} do not, and are not handed back." if suite["deferred"]["value"] else "",
        _unjudged(suite),
        VERDICTS[suite["verdict"]],
    ]
    tables = [_by(column, entries) for column, entries in suite["by"].items()]
    if len(suite["expect"]) > 1:
        tables.insert(0, table(["expected", *HEAD], [row(bdi(kind), _passed(figure)) for kind, figure in suite["expect"].items()]))
    shown = _spoiled.failed(suite) if texts else ""
    return f"<h3>{bdi(name)}</h3><p>{' '.join(filter(None, lines))}</p>{''.join(tables)}{shown}"


def _unjudged(suite: Doc) -> str:
    if not suite["bad"]:
        return ""
    why = "; ".join(suite["reasons"][:REASONS])
    return f"{progress.amount(suite['bad'], 'rows')} could not be judged{': ' if why else ''}{esc(why)}."


def _by(column: str, entries: Sequence[Doc]) -> str:
    rows = [row(bdi(entry["value"] or "(empty)") + _few(entry), _passed(entry["passed"])) for entry in entries]
    return table([bdi(column), *HEAD], rows, f"By {bdi(column)}, worst first")


HEAD = ("n", "passed", "95 %", "")


def _passed(figure: Doc) -> list[tuple[str, str]]:
    drawn = ""
    if figure["value"] is not None:
        drawn = plots.interval(figure["value"], figure["low"], figure["high"], 0.0, 1.0, f"{percent(figure['value'])}, {_range(figure)}")
    return [("number", counted(figure["n"])), ("number", percent(figure["value"])), ("range", _range(figure)), ("", drawn)]


def _given_plainly(name: str, suite: Doc) -> str:
    passed = suite["passed"]
    first = f"{cell(name)}: {percent(passed['value'])} of {counted(suite['n'])} rows pass ({_range(passed)}). {PLAIN[suite['verdict']]}\n"
    rows = [
        [
            f"{cell(column)}: {cell(entry['value'] or '(empty)')}",
            counted(entry["n"]),
            percent(entry["passed"]["value"]),
            _range(entry["passed"]),
        ]
        for column, entries in suite["by"].items()
        for entry in entries[:WORST]
    ]
    return first + ("\n" + grid(["worst", "n", "passed", "95 %"], rows) if rows else "")


def _handed(suite: Doc) -> bool:
    return bool(suite["expect"] == "same_answer_or_defer")


def _dots(suites: Sequence[Doc]) -> str:
    known = [(suite, suite["flips"]["any"]) for suite in suites if suite["flips"]["any"]["value"] is not None]
    lines = [
        plots.Dot(suite["title"], flips["value"], flips["low"], flips["high"], percent(flips["value"]), main=suite["verdict"] != "met")
        for suite, flips in known
    ]
    words = "; ".join(f"{line.name} {line.shown}" for line in lines)
    ticks = [(i / 4, f"{i * 25} %") for i in range(5)]
    return plots.dots(lines, 0.0, 1.0, ticks, f"Share of rows whose answer flipped, with 95 % intervals: {words}") if lines else ""


def _agreed(suites: Sequence[Doc]) -> str:
    metric = next((suite["agreement"]["metric"] for suite in suites if suite["agreement"]), None)
    return "agreement" if metric is None else f"{esc(lower(metric))}, change"


def _difference(agreement: Doc | None) -> str:
    return "–" if agreement is None else amount(agreement["metric"], agreement["difference"]["value"], signed=True)


def _shift(shift: Doc | None) -> str:
    if shift is None or shift["signed"]["value"] is None:
        return "–"
    return f"{shift['signed']['value']:+.2f} ({shift['absolute']['value']:.2f})".replace("-", "−")


def _share(figure: Doc | None) -> str:
    return percent(None if figure is None else figure["value"])


def _points(share: float | None) -> str:
    """A difference of two shares, in percentage points; nothing has no sign."""
    return "–" if share is None else f"{share * 100:+.1f}".replace("-", "−").replace("−0.0", "0.0").replace("+0.0", "0.0")


def _range(figure: Doc | None) -> str:
    if figure is None or figure["low"] is None:
        return "–"
    return f"{figure['low'] * 100:.1f} to {figure['high'] * 100:.1f}"


def _few(entry: Doc) -> str:
    return ' <span class="small">few rows</span>' if entry["small"] else ""
