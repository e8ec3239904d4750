"""The suite runs where only one backend is installed: whichever is there makes the bases."""

from __future__ import annotations

import pytest

from mlx_distill.backends.base import Backend
from tests.conformance.contestants import BACKENDS, backend_of


@pytest.fixture(scope="session")
def backend() -> Backend:
    return backend_of(BACKENDS[0])
