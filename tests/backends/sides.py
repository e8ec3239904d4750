"""The backends that are installed, as tests of their sessions ask for them: on the CPU, in float32."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends.allocation import memory
from mlx_distill.backends.base import Student
from tests.backends import plain


class Side(ABC):
    """`mixed` and `session`: the backend's modules of that name."""

    name: str

    @property
    def mixed(self) -> Any:
        return import_module(f"mlx_distill.backends.{self.name}.mixed")

    @property
    def session(self) -> Any:
        return import_module(f"mlx_distill.backends.{self.name}.session")

    @abstractmethod
    def open(self, base: Path, *, unpack: bool = False) -> Student: ...

    @abstractmethod
    def held(self) -> int:
        """Bytes of all arrays that are there."""

    @abstractmethod
    def cut(self, patch: pytest.MonkeyPatch, scores: int) -> None:
        """Attention into tiles of so many scores."""

    def forwards(self, patch: pytest.MonkeyPatch) -> list[int]:
        """From now on, the tokens of each forward."""
        sizes: list[int] = []
        made = self.mixed.Mixed.__init__

        def counted(mixture: Any, *arguments: Any) -> None:
            made(mixture, *arguments)
            sizes.append(len(mixture.tokens))

        patch.setattr(self.mixed.Mixed, "__init__", counted)
        return sizes


class Mlx(Side):
    name = "mlx"

    def open(self, base: Path, *, unpack: bool = False) -> Student:
        return plain.open_student(base, unpack=unpack)

    def held(self) -> int:
        import mlx.core as mx

        mx.synchronize()
        mx.clear_cache()
        return int(mx.get_active_memory())

    def cut(self, patch: pytest.MonkeyPatch, scores: int) -> None:
        patch.setattr(self.mixed, "TILE_CPU", scores)


class Torch(Side):
    name = "torch"

    def open(self, base: Path, *, unpack: bool = False) -> Student:
        import torch

        from mlx_distill.backends.torch.student import TorchStudent

        return TorchStudent(base, {}, device=torch.device("cpu"), dtype=torch.float32, unpack=unpack, limit=memory())

    def held(self) -> int:
        import torch

        gc.collect()
        storages = [thing.untyped_storage() for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def cut(self, patch: pytest.MonkeyPatch, scores: int) -> None:
        from mlx_distill.backends.torch import flash

        patch.setitem(flash.TILES, "cpu", scores)


SIDES = {side.name: side for side in (Mlx(), Torch()) if find_spec(side.name) is not None}
each_side = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES.keys())
"""The test is of every backend that is installed."""
