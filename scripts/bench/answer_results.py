"""From what the processes that answered measured to ratios, counts and targets: rows of the JSON document, and tables for a person.

Ratios are taken within a turn, in which all ran one after another, and then their median and spread over the turns. The limit is
arithmetic: floating-point operations of every token once, at the matmul rate that the same turns measured. It measures nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench import flops
from bench.flops import Tokens, text
from bench.model import Sizes
from bench.results import Cells, Measurement, Row, clock_of, judged, markdown, ratios, seconds, target
from bench.shapes import Shape

OURS = ("json", "slots")
LONG, SHORT = "600/200-900/80 16x1", "300/40-150/80 48x1"
Target = tuple[str, str, str, float]
FASTER: Sequence[Target] = (
    (LONG, "mlx-lm default", "json", 1.7),
    (SHORT, "mlx-lm default", "json", 2.2),
    (LONG, "mlx-lm default", "slots", 2.0),
    (SHORT, "mlx-lm default", "slots", 3.5),
    (LONG, "mlx-lm best", "json", 1.0),
    (SHORT, "mlx-lm best", "json", 1.1),
    (LONG, "mlx-lm best", "slots", 1.15),
    (SHORT, "mlx-lm best", "slots", 1.8),
    (LONG, "generate best", "json", 1.7),
    (SHORT, "generate best", "json", 2.2),
    (LONG, "generate best", "slots", 2.0),
    (SHORT, "generate best", "slots", 3.5),
)
"""Time, rival over ours, at least."""
COUNTED = (
    ("json", "own_step_share", "answer tokens with a forward step of their own", 0.6),
    ("slots", "own_steps", "forward steps after the prompt", 0),
    ("json", "padded_share", "padded share of forwarded tokens", 0.05),
    ("slots", "padded_share", "padded share of forwarded tokens", 0.05),
    ("json", "grammar_share", "grammar's share of the time", 0.05),
)
"""At most, on any machine and shape."""


@dataclass(frozen=True, slots=True)
class Trial:
    """All that was measured of one shape."""

    shape: Shape
    """As it is asked for."""
    answered: Shape
    """With the tokens that were answered: fewer, where the model is smaller."""
    sizes: Sizes
    prefix: int
    articles: Sequence[int]
    """Tokens of each row's prompt behind the prefix."""
    answer: Mapping[str, int]
    """Tokens of an answer, by ours."""
    turns: Sequence[Mapping[str, Measurement]]
    """By who answered; each also has `matmul`, the machine's rate then."""
    settings: Mapping[str, Mapping[str, int]]
    """Of a rival's batches, where they were tuned."""
    valid: Mapping[str, float]
    """Share of answers that are JSON as the task wants it, by who answered."""
    same: Mapping[str, Mapping[str, int]]
    """By grammar-free rival: rows compared token by token with ours, and how many of them were the same."""

    def limit(self, ours: str, *, rival: bool = False) -> tuple[int, int, int]:
        """FLOPs at least: linear layers, head, attention.

        Ours: the prefix once, each article and answer token once, no logits but of a few rows of the head, which are left out. A rival's:
        every row whole, and all logits of each answer token.
        """
        length = self.answer[ours]
        if rival:
            each = [text(self.prefix + article + length, logits=length) for article in self.articles]
        else:
            each = [text(self.prefix), *(text(article + length, behind=self.prefix) for article in self.articles)]
        return flops.parts(self.sizes, sum(each, Tokens(0, 0, 0)))


def rows(trial: Trial) -> list[Row]:
    """One for each rival and each of ours."""
    names = [name for name in trial.turns[0] if name not in ("matmul", *map(called, OURS))]
    return [row(trial, rival, ours) for rival in names for ours in OURS if called(ours) in trial.turns[0]]


def called(ours: str) -> str:
    """The process that answers so."""
    return f"ours {ours}"


def row(trial: Trial, rival: str, ours: str) -> Row:
    pairs = [(turn[rival], turn[called(ours)]) for turn in trial.turns]
    clock = clock_of(trial.turns[0]["matmul"]["machine"])
    linear, _, attention = trial.limit(ours)
    rate = median(turn["matmul"][clock] for turn in trial.turns)
    taken = median(seconds(own, clock) for _, own in pairs)
    return {
        "shape": str(trial.shape),
        "answered_shape": str(trial.answered),
        "rival": rival,
        "ours": ours,
        **ratios(pairs, clock),
        "limit_flops": {"linear": linear, "attention": attention},
        "rival_flops": dict(zip(("linear", "head", "attention"), trial.limit(ours, rival=True), strict=True)),
        "matmul_flops_per_second": rate,
        "limit_seconds": (linear + attention) / rate,
        "limit_seconds_without_attention": linear / rate,
        "share_of_limit": (linear + attention) / rate / taken,
        "share_of_limit_without_attention": linear / rate / taken,
        "same_answers": trial.same.get(rival),
        "settings": trial.settings.get(rival),
        "turns": len(pairs),
        **_one(trial, called(ours), "ours_"),
        **_one(trial, rival, "rival_"),
    }


def _one(trial: Trial, name: str, prefix: str) -> Row:
    """What one of them took and counted; None of what it does not count."""
    each = [turn[name] for turn in trial.turns]
    first, wall = each[0], median(seconds(measured, "wall") for measured in each)
    parts = {part: median(measured["parts"][part] for measured in each) for part in first["parts"]}
    facts = {
        "cpu_seconds": median(seconds(measured, "cpu") for measured in each),
        "wall_seconds": wall,
        "peak_memory": median(measured["peak_memory"] for measured in each),
        "resident_memory": median(measured["resident"] for measured in each),
        "prompt_tokens": first["prompt"],
        "answer_tokens": first["decoded"],
        "passes": first["passes"],
        "own_steps": first["own_steps"],
        "own_step_share": _share(first["own_steps"], first["decoded"]),
        "padded_share": max(0, first["forwarded"] - first["prompt"] - first["decoded"]) / first["forwarded"],
        "grammar_share": _share(parts.get("grammar"), wall),
        "valid_json": trial.valid[name],
        "parts": parts,
    }
    return {prefix + key: value for key, value in facts.items()}


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def targets(rows: Sequence[Row]) -> list[Row]:
    """What was asked of these rows, and what came of it; `met` is None where it was not measured."""
    found = []
    for shape, rival, ours, asked in FASTER:
        for each in rows:
            if (each["shape"], each["rival"], each["ours"]) == (shape, rival, ours):
                ratio = each["time_ratio"]
                found.append(target(shape, f"{rival} ÷ ours {ours}", f"≥ {asked}", ratio, ratio >= asked))
    for ours, key, words, most in COUNTED:
        for each in {each["shape"]: each for each in rows if each["ours"] == ours}.values():
            value = each[f"ours_{key}"]
            met = None if value is None else value <= most
            found.append(target(each["shape"], f"{words}, {ours}", f"≤ {most}", value, met))
    return found


# for a person


def tables(rows: Sequence[Row], failed: Mapping[str, str]) -> str:
    """Markdown: what was asked, what was reached, what each took, and what the limit says; and who could not run."""
    parts = [judged(targets(rows)), _reached(rows), _taken(rows), _limits(rows)]
    return "\n\n".join([*parts, *(f"{name} could not run: {why}" for name, why in failed.items())])


def _reached(rows: Sequence[Row]) -> str:
    head = ["shape", "rival", "ours", "time, rival ÷ ours", "spread", "wall, rival ÷ ours", "peak memory, ours ÷ rival", "resident"]
    return markdown(
        head,
        [
            [
                row["shape"],
                row["rival"],
                row["ours"],
                f"{row['time_ratio']:.2f}",
                "{:.2f} to {:.2f}".format(*row["time_ratio_spread"]),
                f"{row['wall_ratio']:.2f}",
                f"{row['memory_ratio']:.2f}",
                f"{row['resident_ratio']:.2f}",
            ]
            for row in rows
        ],
    )


def _taken(rows: Sequence[Row]) -> str:
    """Each of them once: ours from its row against the first rival."""
    head = ["shape", "who", "CPU s", "wall s", "peak GB", "answer tokens", "passes", "padded", "valid JSON", "same as ours", "of the time"]
    lines: dict[tuple[str, str], list[str]] = {}
    for shape in dict.fromkeys(row["shape"] for row in rows):
        each = [row for row in rows if row["shape"] == shape]
        for side, name in (("ours_", "ours"), ("rival_", "rival")):
            for row in each:
                who = called(row[name]) if side == "ours_" else row[name]
                lines.setdefault((shape, who), _line(row, side, who))
    return markdown(head, list(lines.values()))


def _line(row: Row, side: str, name: str) -> list[str]:
    same = row["same_answers"] if side == "rival_" else None
    parts = ", ".join(f"{part} {value:.1f} s" for part, value in row[f"{side}parts"].items())
    return [
        row["shape"],
        name,
        f"{row[f'{side}cpu_seconds']:.2f}",
        f"{row[f'{side}wall_seconds']:.2f}",
        f"{row[f'{side}peak_memory'] / 1e9:.2f}",
        str(row[f"{side}answer_tokens"]),
        str(row[f"{side}passes"]),
        f"{row[f'{side}padded_share']:.1%}",
        f"{row[f'{side}valid_json']:.0%}",
        f"{same['same']} of {same['rows']}" if same else "",
        parts + (f" ({_settings(row)})" if side == "rival_" and row["settings"] else ""),
    ]


def _settings(row: Row) -> str:
    return ", ".join(f"{name.removesuffix('_size')} {value}" for name, value in row["settings"].items())


def _limits(rows: Sequence[Row]) -> str:
    head = [
        "shape",
        "ours",
        "GFLOP at least, linear",
        "attention",
        "matmul, GFLOP/s",
        "seconds at the limit",
        "ours, seconds",
        "share",
        "without attention",
        "BLAS",
    ]
    each = {(row["shape"], row["ours"]): row for row in rows}
    cells: Cells = [
        [
            row["shape"],
            row["ours"],
            f"{row['limit_flops']['linear'] / 1e9:.0f}",
            f"{row['limit_flops']['attention'] / 1e9:.0f}",
            f"{row['matmul_flops_per_second'] / 1e9:.0f}",
            f"{row['limit_seconds']:.2f}",
            f"{row['ours_' + row['clock'] + '_seconds']:.2f}",
            f"{row['share_of_limit']:.0%}",
            f"{row['share_of_limit_without_attention']:.0%}",
            row["blas"] or "the backend's own",
        ]
        for row in each.values()
    ]
    return markdown(head, cells)
