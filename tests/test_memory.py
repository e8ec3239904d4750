"""A process's memory is its own: not that of whoever started it, and not what it was before."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlx_distill.memory import largest_bytes, resident_bytes

CHILD = """
from mlx_distill.memory import largest_bytes, resident_bytes
before = largest_bytes(), resident_bytes()
block = b"x" * (40 << 20)
grown = largest_bytes(), resident_bytes()
del block
print(*before, *grown, largest_bytes(), resident_bytes())
"""


def test_the_most_there_ever_was_stays_when_it_is_gone_and_is_not_the_parent_s() -> None:
    """The parent holds 300 MB more than the child ever does."""
    block = b"x" * (300 << 20)
    out = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    before, held_before, grown, held, after, held_after = map(int, out.split())
    assert grown - before > 35 << 20 and held - held_before > 35 << 20
    assert after > grown - (4 << 20), "the kernel counts pages by the batch"
    assert held - held_after > 35 << 20, "what is gone is not held"
    assert after < len(block) < largest_bytes()


AGAIN = """
from mlx_distill.memory import begin_again, largest_bytes, largest_since, resident_bytes
block = b"x" * (40 << 20)
del block
begin_again()
print(largest_bytes(), largest_since(), resident_bytes())
block = b"x" * (20 << 20)
print(largest_since())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not forget")
def test_what_comes_from_now_on_is_counted_without_what_was_before() -> None:
    out = subprocess.run([sys.executable, "-c", AGAIN], capture_output=True, text=True, check=True).stdout
    ever, since, held, later = map(int, out.split())
    assert ever - since > 35 << 20 and abs(since - held) < 4 << 20, "the kernel counts pages by the batch"
    assert 15 << 20 < later - since < 25 << 20


def test_what_is_held_now_is_no_more_than_there_ever_was() -> None:
    now = resident_bytes()
    assert now is not None and 0 < now <= largest_bytes()
