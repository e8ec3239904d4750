"""The rows of all parts as tables for a person, what was asked of them, and an estimate of what an RTX 4090 would make of the same work.

The estimate takes each row's share of the limit as it was measured here, and that card's limits: an estimate, and named so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.gpu.asked import Row
from bench.gpu.card import RTX_4090
from bench.results import judged, markdown, target

SHARE_OF_LIMIT, FASTER, OF_BANDWIDTH = 0.5, 1.9, 0.6
DECODED = 8
"""Rows in a batch up to which memory is the limit."""


def estimated(row: Row) -> Row:
    """The row with what an RTX 4090 would reach, where that follows."""
    bandwidth, flops = RTX_4090
    share = row.get("share_of_limit")
    if share is None or "limit_flops" not in row:
        return row
    seconds = row["limit_flops"] / flops
    if row["part"] == "answering" and row["what"].endswith("json"):
        seconds += row["read_bytes"] / bandwidth
    faster = row["seconds"] / (seconds / share)
    return row | {f"rtx_4090_estimated_{key}": row[key] * faster for key in ("tokens_per_second", "rows_per_hour") if key in row}


def targets(rows: Sequence[Row]) -> list[Row]:
    """What was asked of a card of the H200's class, and what came of it."""
    found = []
    for row in rows:
        if "failed" in row:
            continue
        what = row["what"]
        if row["part"] == "learning" and "time_ratio" in row:
            found.append(_least(what, "peft ÷ ours, time", FASTER, row["time_ratio"]))
            if "7B" in what:
                found.append(_least(what, "share of the gradient's FLOPs limit", SHARE_OF_LIMIT, row["share_of_limit"]))
        if row.get("asked") is not None:
            found.append(_least(what, "rows an hour", row["asked"], row["rows_per_hour"]))
        if row["part"] == "products" and row.get("batch", DECODED + 1) <= DECODED:
            found.append(_least(what, "share of bandwidth", OF_BANDWIDTH, row["share_of_bandwidth"]))
        if row["part"] == "memory":
            asked, value = ("≤ 12 GiB", row["peak_memory"] / (1 << 30)) if "peak_memory" in row else ("no growth", row["ratio"])
            found.append(target(what, "memory", asked, value, row["met"]))
    return found


def _least(shape: str, what: str, asked: float, value: float) -> Row:
    return target(shape, what, f"≥ {asked:,}", value, value >= asked)


def tables(rows: Sequence[Row]) -> str:
    parts = [judged(targets(rows)), _products(rows), _learning(rows), _answering(rows), _memory(rows)]
    failed = [f"{row['what']}: {row['failed']}" for row in rows if "failed" in row]
    return "\n\n".join([part for part in parts if part] + failed)


def _table(rows: Sequence[Row], part: str, columns: Mapping[str, str]) -> str:
    """Those rows of a part that have all but the estimates; `columns`: {heading: "key format"}."""
    cells = []
    for row in rows:
        if row["part"] == part and "failed" not in row and any(how.split()[0] in row for how in columns.values()):
            cells.append([row["what"], *(_cell(row, *how.split()) for how in columns.values())])
    return markdown(["what", *columns], cells) if cells else ""


def _cell(row: Row, key: str, how: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if how == "GiB":
        return f"{value / (1 << 30):.2f}"
    if how == "µs":
        return f"{value * 1e6:.1f}"
    return format(value, how)


def _products(rows: Sequence[Row]) -> str:
    columns = {
        "ours, µs": "ours_seconds µs",
        "launched, µs": "launched_seconds µs",
        "cuBLAS, µs": "cublas_seconds µs",
        "cuBLAS ÷ ours": "time_ratio .2f",
        "of bandwidth": "share_of_bandwidth .0%",
        "of FLOP/s": "share_of_flops .0%",
        "cuBLAS, of FLOP/s": "cublas_share_of_flops .0%",
        "difference": "difference .1e",
    }
    return _table(rows, "products", columns)


def _learning(rows: Sequence[Row]) -> str:
    columns = {
        "tokens/s": "tokens_per_second ,.0f",
        "peak GiB": "peak_memory GiB",
        "peft ÷ ours, time": "time_ratio .2f",
        "ours ÷ peft, memory": "memory_ratio .2f",
        "first loss": "first_loss .4f",
        "of the limit": "share_of_limit .0%",
        "at the measured matmul": "share_of_measured_matmul .0%",
        "RTX 4090, estimated tokens/s": "rtx_4090_estimated_tokens_per_second ,.0f",
    }
    return _table(rows, "learning", columns)


def _answering(rows: Sequence[Row]) -> str:
    columns = {
        "rows/hour": "rows_per_hour ,.0f",
        "rows": "rows d",
        "passes": "passes d",
        "valid": "valid .0%",
        "peak GiB": "peak_memory GiB",
        "of the limit": "share_of_limit .0%",
        "RTX 4090, estimated rows/hour": "rtx_4090_estimated_rows_per_hour ,.0f",
    }
    return _table(rows, "answering", columns)


def _memory(rows: Sequence[Row]) -> str:
    columns = {
        "peak GiB": "peak_memory GiB",
        "foretold GiB": "foretold GiB",
        "steps": "steps d",
        "first quarter GiB": "first_quarter GiB",
        "last quarter GiB": "last_quarter GiB",
    }
    return _table(rows, "memory", columns)
