"""What tests of several folders share: the backend, and tiny bases that are made once a session."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends.base import Backend
from mlx_distill.backends.choose import choose
from mlx_distill.backends.mlx.blas import load_openblas
from mlx_distill.convert import convert
from tests.checkpoints import make_checkpoint

load_openblas()  # before a test's own `import mlx` brings MLX's slow BLAS into the process: the first one wins

MakeBase = Callable[..., Path]


@pytest.fixture(scope="session")
def backend() -> Backend:
    return choose("mlx")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, backend: Backend) -> MakeBase:
    """base("gemma2", bits=4, num_hidden_layers=1): a base in float32; its checkpoint lies beside it, in `checkpoint`."""
    made: dict[str, Path] = {}

    def make(family: str = "qwen2", *, bits: int | None = None, **config: Any) -> Path:
        key = json.dumps([family, bits, config], sort_keys=True)
        if key not in made:
            folder = tmp_path_factory.mktemp(family)
            source = make_checkpoint(folder / "checkpoint", family, **config)
            made[key] = convert(source, folder / "base", backend=backend, bits=bits, group_size=64, dtype=None).out
        return made[key]

    return make
