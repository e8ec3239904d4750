"""Keys are told apart exactly, whatever they are, and their number takes no memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlx_distill.data.seen import Seen
from mlx_distill.errors import DoesNotFit

SURROGATES = ["\ud800", "\udfff", "?", "\ufffd", "\\ud800"]
ODD = [*SURROGATES, "", "a", "A", "a\0", "a\0b", "é", "e\u0301", "🌊", "x" * 1_000_000, "x" * 999_999 + "y"]


def test_every_key_has_its_own_number() -> None:
    seen = Seen()
    assert [key in seen for key in ODD] == [False] * len(ODD)
    for number, key in enumerate(ODD):
        seen.put(key, number)
    assert [seen.get(key) for key in ODD] == list(range(len(ODD)))
    seen.put("a", 2**63 - 1)
    assert seen.get("a") == 2**63 - 1


def test_two_have_nothing_in_common() -> None:
    one, other = Seen(), Seen()
    one.put("a")
    assert "a" in one and "a" not in other


def test_memory_does_not_grow_with_the_keys() -> None:
    """Of a set of Python's, 200,000 such keys are 25 MB, and 180,000 more than 20,000 would take 23."""
    code = """
import resource, sys
from mlx_distill.data.seen import Seen
seen = Seen()
peaks = []
for number in range(200_000):
    seen.put(f"article-{number * 7919 % 1_000_003}-of-the-backlog", number)
    if number in (19_999, 199_999):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
assert seen.get("article-7919-of-the-backlog") == 1 and "article-7918-of-the-backlog" not in seen
print(peaks[1] - peaks[0])
"""
    grown = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert grown < 4 << 20


def test_a_full_disk_of_temporary_files_is_said_with_the_way_out() -> None:
    seen = Seen()
    seen.put("a")
    assert seen._open is not None
    seen._open.execute("PRAGMA max_page_count = 4")
    with pytest.raises(DoesNotFit, match="TMPDIR"):
        for number in range(1000):
            seen.put(f"{number}" * 100)
