"""From what the processes measured to ratios: rows of the JSON document, and the same as tables for a person.

Ratios are taken within a repetition, in which the rivals ran one after another, and then their median and their spread over the
repetitions: so a machine that slows down slows both. It measures nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench import flops
from bench.model import Sizes
from bench.shapes import Shape, draw, rows_of

OURS = "ours"
TARGETS = (
    ("none/640/80 4x1", "peft best", 1.1, 0.9),
    ("600/200-900/40-120 4x4", "peft best", 1.9, 0.65),
    ("1200/200-900/40-120 8x2", "peft best", 2.65, 0.5),
    ("600/40-150/20-60 16x1", "peft best", 4.4, 0.3),
)
"""Time, rival over ours, at least; peak memory, ours over rival, at most."""
Measurement = Mapping[str, Any]
"""A `Measured` as JSON."""
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """All that was measured of one shape."""

    shape: Shape
    """As it is asked for."""
    trained: Shape
    """With the tokens that were trained: fewer, where the model is smaller."""
    batches: int
    sizes: Sizes
    repetitions: Sequence[Mapping[str, Measurement]]
    """By trainer; each also has `matmul`, the machine's rate then."""
    judged: Mapping[str, float]
    """Nats an answer token by the plain evaluation, by trainer; `initial` before training."""

    def work(self, *, attention: bool = True) -> tuple[int, int]:
        """FLOPs of an effective batch, ours at its limit and whole rows."""
        rows = rows_of(draw(self.trained, self.batches, self.sizes.vocabulary).measured)
        tokens = flops.ours(self.trained.prefix, rows, self.batches), flops.whole_rows(self.trained.prefix, rows)
        once, whole = (flops.flops(self.sizes, each, attention=attention) // self.batches for each in tokens)
        return once, whole


def seconds(measured: Measurement, clock: str) -> float:
    """Of an effective batch, the mean over those measured."""
    return float(sum(measured[clock]) / len(measured[clock]))


def clock_of(machine: str) -> str:
    """CPU seconds are steadier than wall where the CPU computes; elsewhere they say nothing."""
    return "cpu" if machine.startswith("CPU") else "wall"


def rows(trial: Trial) -> list[Row]:
    """One for each rival."""
    return [row(trial, rival) for rival in trial.repetitions[0] if rival not in (OURS, "matmul")]


def row(trial: Trial, rival: str) -> Row:
    pairs = [(repetition[rival], repetition[OURS]) for repetition in trial.repetitions]
    clock = clock_of(trial.repetitions[0]["matmul"]["machine"])
    reached = ratios(pairs, clock)
    once, whole = trial.work()
    once_linear, whole_linear = trial.work(attention=False)
    rate = median(repetition["matmul"][clock] for repetition in trial.repetitions)
    return {
        "shape": str(trial.shape),
        "trained_shape": str(trial.trained),
        "rival": rival,
        "ours": "json",
        **reached,
        "limit": whole / once,
        "limit_without_attention": whole_linear / once_linear,
        "share_of_limit": reached["time_ratio"] * once / whole,
        "limit_flops": once,
        "matmul_flops_per_second": rate,
        "limit_seconds": once / rate,
        "first_loss_difference": median(own["first_loss"] - theirs["first_loss"] for theirs, own in pairs),
        "loss_difference": trial.judged[OURS] - trial.judged[rival],
        "loss_before": trial.judged["initial"],
        "repetitions": len(pairs),
        **_trainer(trial, OURS, "ours_", once / rate),
        **_trainer(trial, rival, "rival_", whole / rate),
    }


def ratios(pairs: Sequence[tuple[Measurement, Measurement]], clock: str) -> Row:
    """A rival's time over ours, ours of its memory: of each repetition (theirs, ours), by this clock."""
    time, wall = ([seconds(theirs, of) / seconds(own, of) for theirs, own in pairs] for of in (clock, "wall"))
    return {
        "clock": clock,
        "blas": pairs[0][0]["blas"],
        "time_ratio": median(time),
        "time_ratio_spread": [min(time), max(time)],
        "wall_ratio": median(wall),
        "wall_ratio_spread": [min(wall), max(wall)],
        "memory_ratio": median(own["peak_memory"] / theirs["peak_memory"] for theirs, own in pairs),
        "resident_ratio": median(own["resident"] / theirs["resident"] for theirs, own in pairs),
    }


def _trainer(trial: Trial, name: str, prefix: str, at_matmul_rate: float) -> Row:
    """What one trainer took, per effective batch. `matmul_share`: the part of its time that its FLOPs take at the machine's matmul rate."""
    each = [repetition[name] for repetition in trial.repetitions]
    clock = clock_of(trial.repetitions[0]["matmul"]["machine"])
    computed = each[0]["computed"]
    facts = {
        "cpu_seconds": median(seconds(measured, "cpu") for measured in each),
        "wall_seconds": median(seconds(measured, "wall") for measured in each),
        "peak_memory": median(measured["peak_memory"] for measured in each),
        "resident_memory": median(measured["resident"] for measured in each),
        "learned_tokens": each[0]["learned"] / trial.batches,
        "padded_share": each[0]["padded"] / computed if computed else None,
        "loss": trial.judged[name],
        "matmul_share": at_matmul_rate / median(seconds(measured, clock) for measured in each),
    }
    return {prefix + key: value for key, value in facts.items()}


def targets(rows: Sequence[Row]) -> list[Row]:
    """What was asked of these rows, and what came of it."""
    found = []
    for shape, rival, time, memory in TARGETS:
        for row in rows:
            if (row["shape"], row["rival"]) == (shape, rival):
                ratio, share = row["time_ratio"], row["memory_ratio"]
                found.append(target(shape, f"{rival} ÷ ours, time", f"≥ {time}", ratio, ratio >= time))
                found.append(target(shape, f"ours ÷ {rival}, memory", f"≤ {memory}", share, share <= memory))
    return found


def target(shape: str, what: str, asked: str, measured: float | None, met: bool | None) -> Row:
    """`met` None: not measured."""
    return {"shape": shape, "what": what, "asked": asked, "measured": measured, "met": met}


# for a person

Cells = Sequence[Sequence[str]]


def tables(trials: Sequence[Sequence[Row]]) -> str:
    """Markdown: what was asked, what was reached, what each trainer took, and what the limit says."""
    every = [row for group in trials for row in group]
    asked = targets(every)
    parts = [_reached(every), _taken(trials), _limits([group[0] for group in trials])]
    return "\n\n".join([judged(asked), *parts] if asked else parts)


def judged(asked: Sequence[Row]) -> str:
    words = {True: "yes", False: "no", None: "not counted"}
    cells = [[each["shape"], each["what"], each["asked"], _number(each["measured"]), words[each["met"]]] for each in asked]
    return markdown(["shape", "what", "asked", "measured", "met"], cells)


def _number(value: float | None) -> str:
    return "?" if value is None else str(value) if isinstance(value, int) else f"{value:.3g}"


def _reached(every: Sequence[Row]) -> str:
    head = [
        "shape",
        "rival",
        "time, rival ÷ ours",
        "spread",
        "wall, rival ÷ ours",
        "limit",
        "share of it",
        "peak memory, ours ÷ rival",
        "resident",
    ]
    return markdown(
        head,
        [
            [
                row["shape"],
                row["rival"],
                f"{row['time_ratio']:.2f}",
                "{:.2f} to {:.2f}".format(*row["time_ratio_spread"]),
                f"{row['wall_ratio']:.2f}",
                f"{row['limit']:.2f}",
                f"{row['share_of_limit']:.0%}",
                f"{row['memory_ratio']:.2f}",
                f"{row['resident_ratio']:.2f}",
            ]
            for row in every
        ],
    )


def _taken(trials: Sequence[Sequence[Row]]) -> str:
    head = ["shape", "trainer", "CPU s", "wall s", "peak GB", "tokens learned", "padded", "matmul's share", "loss after", "ours − rival"]
    cells = []
    for group in trials:
        for prefix, row in [("ours_", group[0]), *(("rival_", row) for row in group)]:
            padded, own = row[f"{prefix}padded_share"], prefix == "ours_"
            cells.append(
                [
                    row["shape"],
                    OURS if own else row["rival"],
                    f"{row[f'{prefix}cpu_seconds']:.2f}",
                    f"{row[f'{prefix}wall_seconds']:.2f}",
                    f"{row[f'{prefix}peak_memory'] / 1e9:.2f}",
                    f"{row[f'{prefix}learned_tokens']:.0f}",
                    "?" if padded is None else f"{padded:.1%}",
                    f"{row[f'{prefix}matmul_share']:.0%}",
                    f"{row[f'{prefix}loss']:.4f}",
                    "" if own else f"{row['loss_difference']:+.1e}",
                ]
            )
    return markdown(head, cells)


def _limits(each: Sequence[Row]) -> str:
    head = ["shape", "limit", "without attention", "GFLOP at the limit", "matmul, GFLOP/s", "seconds at the limit", "ours, seconds", "BLAS"]
    return markdown(
        head,
        [
            [
                row["shape"],
                f"{row['limit']:.2f}",
                f"{row['limit_without_attention']:.2f}",
                f"{row['limit_flops'] / 1e9:.0f}",
                f"{row['matmul_flops_per_second'] / 1e9:.0f}",
                f"{row['limit_seconds']:.2f}",
                f"{row['ours_' + row['clock'] + '_seconds']:.2f}",
                row["blas"] or "the backend's own",
            ]
            for row in each
        ],
    )


def markdown(head: Sequence[str], cells: Cells) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *cells])
