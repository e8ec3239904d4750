"""The names of a task's metrics, as a recipe may give them: in `targets`, in `train.keep`.

`evaluation.metrics` measures them; a recipe is checked before that can be asked, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping

from mlx_distill.recipe.schema import TaskSpec

OF_LABELS = ("accuracy", "macro_f1", "cohen_kappa", "brier", "ece", "ece_mass")
OF_KIND: Mapping[str, tuple[str, ...]] = {
    "choice": OF_LABELS,
    "flag": OF_LABELS,
    "score": ("mae", "rmse", "bias", "exact", "kappa", "spearman", "crps", "ece", "ece_mass"),
    "list": ("list_f1",),
    "text": ("rouge_l", "length", "length_ratio", "empty"),
}
"""Of a field, as METRIC.FIELD."""
OF_ALL = ("nll", "perplexity")
"""Of every field, and of the whole answer: the loss on the judge's answers."""
OF_OVERALL = (
    "overall_mae", "score_mae", "overall_rmse", "overall_bias", "overall_spearman", "overall_within_0.5", "overall_within_1.0",
)  # fmt: skip
OF_TIERS = ("tier_agreement", "tier_adjacent", "tier_kappa")
NO_SHARES = (
    "mae", "dimension_mae", "overall_mae", "score_mae", "rmse", "overall_rmse", "bias", "overall_bias", "crps", "brier", "length",
    "length_ratio", *OF_ALL,
)  # fmt: skip
"""These may be more than 1."""
LIMITS = ("length", "length_ratio")
"""They have limits, and no best."""


def metric_names(task: TaskSpec) -> list[str]:
    """The metrics that a report on this task has, and that `targets` may name."""
    weighted = any(spec.weight is not None for spec in task.fields.values())
    labels = any(spec.kind in ("choice", "flag") for spec in task.fields.values())
    return [
        *(["accuracy"] if labels or weighted else []),
        *(f"{metric}.{name}" for name, spec in task.fields.items() for metric in (*OF_KIND.get(spec.kind, ()), *OF_ALL)),
        *(["dimension_mae"] if any(spec.kind == "score" for spec in task.fields.values()) else []),
        *(OF_OVERALL if weighted else ()),
        *(OF_TIERS if weighted and task.tiers else ()),
        *("exact_match", "valid_json", *OF_ALL),
    ]


def parts(metric: str) -> tuple[str, str]:
    """A metric's name, and of what field it is; "" where it is of the whole answer, point or no point.

    >>> parts("mae.risk"), parts("overall_within_0.5")
    (('mae', 'risk'), ('overall_within_0.5', ''))
    """
    family, _, field = metric.partition(".")
    return (metric, "") if metric in OF_OVERALL else (family, field)


def may_keep(task: TaskSpec) -> list[str]:
    """Those that an adapter may be the best by: measured on answers, and with a best."""
    return [name for name in metric_names(task) if parts(name)[0] not in (*OF_ALL, *LIMITS)]
