"""What the soak calls growth, on made-up memories; and one real job whose memory does not grow with its rows."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

from soak_inference import LIMIT, MIB, Line, growth, trend  # noqa: E402

NOISE = random.Random(0)


def soaked(memory: Callable[[int], float], minutes: int = 20) -> list[str]:
    """`memory`: MiB in each minute, beside a noise of 1 MiB."""
    return growth([Line(minute, int((memory(minute) + NOISE.random()) * MIB), 1000) for minute in range(1, minutes + 1)])


@pytest.mark.parametrize(
    ("memory", "why"),
    [
        (lambda minute: 300, None),
        (lambda minute: 200 + 100 * min(1, minute / 5), None),
        (lambda minute: 320 if minute == 6 else 300, None),
        (lambda minute: 300 + 0.05 * minute, None),
        (lambda minute: 300 + 2 * minute, "the peak rose from"),
        (lambda minute: 318 if minute == 19 else 300, "the peak rose from"),
        (lambda minute: 300 + 0.5 * minute, "memory rises steadily"),
    ],
    ids=["flat", "warm-up", "a peak that does not come again", "less than half a percent", "leak", "late jump", "slow leak"],
)
def test_growth_is_found_and_nothing_else(memory: Callable[[int], float], why: str | None) -> None:
    found = soaked(memory)
    assert found[0].startswith(why) if why else found == []


def test_a_day_of_noise_is_no_growth() -> None:
    assert soaked(lambda minute: 300 + 3 * NOISE.random(), 1440) == []


def test_the_trend_is_that_of_the_middle_pair_whatever_a_single_minute_does() -> None:
    """Of the ten pairs in 0, 1, 2, 99, 4 six have the slope 1; nine rise and one falls. The spread is sqrt(5 x 4 x 15 / 18) = 4.0825."""
    slope, z = trend([Line(minute, memory, 0) for minute, memory in enumerate((0, 1, 2, 99, 4))])
    assert slope == 1
    assert z == pytest.approx((9 - 1 - 1) / 4.0825, abs=1e-3)


def test_ten_times_the_rows_take_the_same_memory(tmp_path: Path) -> None:
    """300 rows and 3,000, a fifth of them bad: a job remembers no row. The script itself, since this process may be larger than a job,
    and a child's peak begins with that of its parent.
    """
    command = [sys.executable, str(SCRIPTS / "soak_inference.py"), "--rows", "3000", "--answer", "slots", "--json", str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found").read_text())
    assert found["growth"] == []
    assert found["ratio"] <= 1.02 < LIMIT, "a row that is kept, with all that hangs on it, takes more"
