"""Find things by name: a kind is a folder of the package, a thing is a file in it, its name is the file's name.

    find("data.sources", "csv")          the module mlx_distill/data/sources/csv.py
    names("evaluation.metrics")          what there is

Nothing registers itself; adding a file adds the thing. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from types import ModuleType

from mlx_distill.errors import DistillError

PACKAGE = Path(__file__).parent


def names(kind: str) -> list[str]:
    folder = PACKAGE.joinpath(*kind.split("."))
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def find(kind: str, name: str) -> ModuleType:
    """The module of that name. Raises DistillError, with the nearest name, where there is none."""
    if name not in names(kind):
        raise DistillError(f"no {kind.rpartition('.')[2]} named {name!r}", hint=nearest(name, names(kind)))
    return importlib.import_module(f"mlx_distill.{kind}.{name}")


def nearest(name: str, known: list[str]) -> str:
    """ "did you mean ...?", or the list of what there is."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there is {', '.join(known)}"
