"""Kernels for rows that go on, in a process of their own (see `together_alone`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton", reason="Triton is not installed: its kernels are not tested here")


def test_rows_that_go_on_are_computed_at_once_as_if_alone() -> None:
    environment = os.environ if torch.cuda.is_available() else {**os.environ, "TRITON_INTERPRET": "1"}
    file = Path(__file__).with_name("together_alone.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-W", "ignore", file], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout
