from __future__ import annotations

import signal

import pytest

from mlx_distill.observe.interrupts import deferred


def test_the_first_signal_is_told_at_once_and_the_second_breaks_off() -> None:
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt), deferred(lambda: told.append("asked")) as stop:
        assert not stop()
        signal.raise_signal(signal.SIGINT)
        assert stop() and told == ["asked"]
        signal.raise_signal(signal.SIGTERM)
    assert told == ["asked"]
