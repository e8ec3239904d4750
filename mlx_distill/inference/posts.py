"""Where workers sit: which device each has, and how many threads. It says what their environments are; it starts nobody."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What libraries of linear algebra are told by. They read it when they are loaded: it is set before a worker begins."""


@dataclass(frozen=True, slots=True)
class Post:
    name: str
    environment: Mapping[str, str]


def named(visible: str | None, count: int) -> list[str]:
    """Of so many CUDA devices what CUDA_VISIBLE_DEVICES calls them, where it is set: it stands in a worker's environment for one of them.

    CUDA counts the names up to the first that is none of a device's.

    >>> named(None, 2), named("3,1", 2), named("GPU-8f2a, 5,77", 2), named("", 0)
    (['0', '1'], ['3', '1'], ['GPU-8f2a', '5'], [])
    """
    names = map(str, range(count)) if visible is None else (name.strip() for name in visible.split(","))
    return list(names)[:count]


def posts(number: int, environment: Mapping[str, str], *, devices: Sequence[str], cores: int) -> list[Post]:
    """`devices`: what CUDA_VISIBLE_DEVICES calls those that may be used, dealt out in turns; none on a machine without.

    >>> [post.name for post in posts(3, {}, devices=["4", "6"], cores=8)]
    ['worker 1 (CUDA device 4)', 'worker 2 (CUDA device 6)', 'worker 3 (CUDA device 4)']
    >>> posts(3, {"OMP_NUM_THREADS": "1"}, devices=[], cores=8)[2].environment["OMP_NUM_THREADS"]
    '1'
    """
    threads = max(1, cores // number)
    shared = {**environment, **{name: str(_least(environment.get(name), threads)) for name in THREADS}}
    if not devices:
        return [Post(f"worker {i + 1}", shared) for i in range(number)]
    mine = [devices[i % len(devices)] for i in range(number)]
    return [Post(f"worker {i} (CUDA device {device})", {**shared, VISIBLE: device}) for i, device in enumerate(mine, start=1)]


def sharing(number: int, devices: Sequence[str]) -> int:
    """How many workers one memory must serve at most: a device's, or the machine's.

    >>> sharing(4, ["0", "1", "2"]), sharing(4, [])
    (2, 4)
    """
    return math.ceil(number / len(devices)) if devices else number


def _least(asked: str | None, threads: int) -> int:
    """Who asked for fewer threads has them."""
    return min(int(asked), threads) if asked is not None and asked.isdecimal() and int(asked) > 0 else threads
