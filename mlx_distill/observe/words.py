"""What a training's figures are called and how they are written, for a line in a log and for the board on a terminal alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlx_distill.observe.progress import duration
from mlx_distill.observe.trend import Trend, Validation, direction

SHOWN = 3
"""Rows named of those that a skipped step had."""
ASCII = {ord(char): plain for char, plain in {"↘": "-", "→": "=", "↗": "+", "–": "-", "…": "~", "×": "x"}.items()}
_CONTROL = {code: 0x2400 + code for code in range(32)} | {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def loss(value: float) -> str:
    """
    >>> loss(0.61234), loss(12.3456), loss(0.00012)
    ('0.6123', '12.35', '0.00012')
    """
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 or value == 0 else f"{value:.4g}"


def memory(count: float) -> str:
    """
    >>> memory(3 * 2**29), memory(5 * 2**20)
    ('1.5 GiB', '5 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def rate(value: float) -> str:
    """
    >>> rate(1234.5), rate(12.34), rate(0.0432)
    ('1,234', '12.3', '0.0432')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def figures(trend: Trend) -> Iterator[tuple[str, list[str]]]:
    """(label, what is known of it) beside the losses: how it learns, how fast, what it needs, how long it takes."""
    now = trend.now
    learning = [f"rate {now['learning_rate']:.3g}"] if now.get("learning_rate") is not None else []
    yield "learning", learning + ([f"gradient norm {now['grad_norm']:.3g}"] if now.get("grad_norm") is not None else [])
    tokens, rows, each = trend.per_second("tokens"), trend.per_second("rows"), trend.seconds_per_step
    speed = [f"{rate(tokens)} learned tokens/s"] if tokens is not None else []
    speed += [f"{rate(rows)} rows/s"] if rows is not None else []
    yield "speed", speed + ([f"{rate(each)} s a step"] if each is not None else [])
    memories = [f"{memory(trend.memory)} at most"] if trend.memory is not None else []
    yield "memory", memories + ([f"padding {trend.padded_share:.1%}".replace("%", " %")] if trend.padded_share is not None else [])
    yield "time", [f"{duration(trend.elapsed)} so far"] + ([left(trend)] if trend.seconds_left is not None else [])


def left(trend: Trend) -> str:
    return "" if trend.seconds_left is None else f"about {duration(round(trend.seconds_left)).replace('.0 s', ' s')} left"


def line(trend: Trend) -> str:
    """All of it in one line of a log."""
    of = f"{trend.step:,} of {trend.steps:,} steps ({100 * trend.step // trend.steps} %)" if trend.steps else f"{trend.step:,} steps"
    losses = [value for _, value in trend.losses]
    way = direction(losses)
    parts = [f"train: {of}"]
    parts += [f"loss {loss(losses[-1])}" + (f" ({way})" if way else "")] if losses else []
    known = dict(figures(trend))
    parts += [f"learning {part}" for part in known["learning"][:1]] + known["speed"][:2] + known["memory"] + known["time"][1:]
    return ", ".join(parts)


def validated(validation: Validation, train: float | None) -> str:
    """`train`: the mean loss of the steps since the last validation.

    >>> validated(Validation(80, 0.58, True, {"tier_agreement": 0.71}), 0.61)
    'step 80: validation loss 0.5800, tier_agreement 0.7100, training loss 0.6100, the best so far'
    """
    found = [f"validation loss {loss(validation.loss)}"] if validation.loss is not None else []
    found += [f"{name} {loss(value)}" for name, value in validation.metrics.items()]
    best = ["the best so far"] if validation.best and found else []
    return f"step {validation.step:,}: " + ", ".join([*found, *([f"training loss {loss(train)}"] if train is not None else []), *best])


def skipped(event: Mapping[str, Any]) -> str:
    rows = [clean(row) for row in event.get("rows") or ()]
    more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
    named = f"; its rows: {', '.join(rows[:SHOWN])}{more}" if rows else ""
    return f"step {event.get('step')}: skipped, its loss or gradient was not finite{named}"


def samples(event: Mapping[str, Any], width: int) -> Iterator[str]:
    """Reference beside answer, field by field; what differs is marked."""
    rows = event.get("rows") or ()
    names = [name for row in rows for name in (row.get("reference") or {})]
    first = min(max(map(len, names), default=8), 26)
    cell = max(8, (width - first - 9) // 2)
    yield f"step {event.get('step')}: what the student answers now"
    yield f"  {'':{first + 2}}  {'judge':{cell}}  student"
    for row in rows:
        reference, answer = row.get("reference") or {}, row.get("answer")
        yield "  " + clipped(f"row {clean(row.get('id'))}  {clean(row.get('text') or '')}".rstrip(), width - 2)
        for name in dict.fromkeys([*reference, *(answer or {})]):
            theirs, ours = _said(reference.get(name)), "no valid answer" if answer is None else _said(answer.get(name))
            mark = "✗" if theirs != ours and name in reference else " "
            yield f"    {clipped(clean(name), first):{first}}  {clipped(theirs, cell):{cell}}{mark} {clipped(ours, cell)}".rstrip()


def clean(text: object) -> str:
    """On one line, control characters as their pictures: text from data could otherwise steer the terminal.

    >>> clean("a\\n b\\x1b[2Jc")
    'a b␛[2Jc'
    """
    return " ".join(str(text).split()).translate(_CONTROL)


def clipped(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _said(value: Any) -> str:
    """
    >>> _said(None), _said(True), _said(["a", "b"]), _said(4.0)
    ('–', 'true', 'a, b', '4.0')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return clean(", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value)
