"""An untrained student that tests of the engine ask, on every backend that is installed: what it says is of no use, and always the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends.base import Student
from mlx_distill.backends.choose import choose
from mlx_distill.task.prompt import load_tokenizer
from tests.backends.sides import SIDES
from tests.students import tiny_base


@pytest.fixture(scope="package")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its base."""
    return tiny_base(tmp_path_factory.mktemp("untrained"))


@pytest.fixture(scope="package", params=SIDES)
def student(request: pytest.FixtureRequest, untrained: Path) -> Student:
    return choose(request.param).open(untrained)


@pytest.fixture(scope="package")
def tokenizer(untrained: Path) -> Any:
    return load_tokenizer(untrained)
