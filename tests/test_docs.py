"""The documentation names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlx_distill import catalog

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("kind", ["evaluation.metrics", "evaluation.robustness", "evaluation.benchmarks"])
def test_the_page_on_evaluation_names_every_metric_suite_and_benchmark(kind: str) -> None:
    words = set(re.findall(r"`([a-z_0-9]+)", (DOCS / "evaluation.md").read_text("utf-8")))
    named = {re.sub(r"_[\d.]+$", "", word) for word in words} | words
    assert [name for name in catalog.names(kind) if name not in named] == []
