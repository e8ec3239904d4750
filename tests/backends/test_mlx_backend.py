"""What MLX says of the machine, and that it works without a C++ compiler and without OpenBLAS."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_distill.backends.base import Backend
from mlx_distill.backends.mlx import blas
from mlx_distill.backends.mlx.backend import MlxBackend
from mlx_distill.errors import CheckpointError
from tests.conftest import MakeBase

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="OpenBLAS is for Linux")


def test_the_machine_is_described(backend: Backend) -> None:
    machine = backend.machine()
    assert machine.backend == "mlx" and machine.device and machine.memory > 1 << 28
    assert machine.compute_dtype == ("bfloat16" if mx.metal.is_available() else "float32")


# opening


def test_a_folder_that_is_no_base_is_refused(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no base") as caught:
        backend.open(tmp_path)
    assert "mlx-distill convert" in str(caught.value.hint)


def test_a_damaged_base_is_refused(backend: Backend, base: MakeBase, tmp_path: Path) -> None:
    for path in base(num_hidden_layers=1).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes() if "safetensors" not in path.name or path.suffix == ".json" else b"\x00" * 99)
    with pytest.raises(CheckpointError, match="cannot be opened") as caught:
        backend.open(tmp_path)
    assert str(tmp_path) in str(caught.value.file) and caught.value.hint


def test_the_memory_limit_is_handed_to_mlx(backend: Backend, base: MakeBase) -> None:
    folder, before = base(num_hidden_layers=1), mx.set_memory_limit(1 << 34)
    try:
        student = backend.open(folder, memory_limit=3 << 28)
        assert mx.set_memory_limit(1 << 34) == 3 << 28
        kept = mx.set_cache_limit(1 << 30)
        assert kept == (3 << 26 if mx.metal.is_available() else 0), "freed buffers may keep a quarter of it; on CPUs malloc keeps them"
        backend.open(folder)
        assert mx.set_memory_limit(1 << 34) == backend.machine().memory
        assert mx.set_cache_limit(1 << 30) <= 2 << 30
    finally:
        mx.set_memory_limit(before)
    assert 0 < student.peak_memory() < 1 << 28


@pytest.mark.skipif(mx.metal.is_available(), reason="Metal computes with packed weights")
def test_on_cpus_packed_weights_are_unpacked_where_half_of_the_memory_suffices(base: MakeBase) -> None:
    """The quantized matmul of MLX on CPUs is some 30 times slower than BLAS."""
    folder, before = base(num_hidden_layers=1, bits=4), mx.set_memory_limit(1 << 34)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    dense = 4 * int(index["metadata"]["total_parameters"])
    try:
        for limit, unpacked in ((2 * dense, True), (2 * dense - 2, False)):
            student = MlxBackend(None).open(folder, memory_limit=limit)
            assert ("scales" not in student._model.model.layers[0].mlp.up_proj) == unpacked
    finally:
        mx.set_memory_limit(before)


def test_the_head_has_as_many_rows_as_the_vocabulary(backend: Backend, base: MakeBase) -> None:
    for tied in (True, False):
        assert backend.open(base("llama", num_hidden_layers=1, vocab=389, tied=tied, bits=4)).vocabulary == 389


FORWARD = """
import sys, numpy as np, pathlib
from mlx_distill.backends.choose import choose
session = choose("mlx").open(pathlib.Path(sys.argv[1])).session(np.arange(3, dtype=np.int32))
row = session.admit([np.array([5, 6, 7])])[0]
print(repr(float(session.read({row: [-1]}, {row: [np.array([4, 9])]})[row][0][0])))
"""


@pytest.mark.skipif(mx.metal.is_available(), reason="Metal needs no C++ compiler")
def test_without_a_c_plus_plus_compiler_a_model_still_answers(backend: Backend, base: MakeBase, tmp_path: Path) -> None:
    """MLX compiles fused kernels with g++ on CPUs, and keeps them in the temporary folder: here it has neither."""
    folder = base(num_hidden_layers=1)
    environment = {**os.environ, "PATH": "", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FORWARD, str(folder)], env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr
    session = backend.open(folder).session(np.arange(3, dtype=np.int32))
    row = session.admit([np.array([5, 6, 7])])[0]
    assert float(done.stdout) == pytest.approx(float(session.read({row: [-1]}, {row: [np.array([4, 9])]})[row][0][0]), abs=1e-5)


@pytest.mark.skipif(mx.metal.is_available(), reason="Metal needs no C++ compiler")
@pytest.mark.parametrize("compiler", [None, "/usr/bin/g++"])
def test_kernels_are_not_fused_where_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch, compiler: str | None) -> None:
    """MLX 0.32 notices by itself; 0.29 does not, and every compiled function fails."""
    disabled: list[bool] = []
    monkeypatch.setattr(shutil, "which", lambda name: compiler if name == "g++" else "/usr/bin/" + name)
    monkeypatch.setattr(mx, "disable_compile", lambda: disabled.append(True))
    MlxBackend(None)
    assert disabled == ([True] if compiler is None else [])


# OpenBLAS


@LINUX
def test_the_system_s_openblas_comes_first_then_that_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "lib" / "openblas" / "usr" / "lib" / "libopenblas.so.0"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"no library")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "libopenblas.so.0")
    assert blas._candidates() == ["libopenblas.so.0", str(own)]
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    assert blas._candidates() == [str(own)]
    assert blas.load_openblas() is None, "a file that cannot be loaded is none"


@LINUX
def test_its_fortran_runtime_is_loaded_before_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "lib" / "openblas"
    for name in ("a/libgfortran.so.5", "a/libquadmath.so.0", "b/libopenblas.so.0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    loaded: list[str] = []
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: loaded.append(Path(path).name))
    assert blas.load_openblas() == str(folder / "b/libopenblas.so.0")
    assert loaded == ["libquadmath.so.0", "libgfortran.so.5", "libopenblas.so.0"]
    loaded.clear()
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "libopenblas.so.0")
    assert blas.load_openblas() == "libopenblas.so.0"
    assert loaded == ["libopenblas.so.0"], "the system's finds its own runtime"


def test_nothing_is_loaded_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: pytest.fail("nothing is loaded"))
    assert blas.load_openblas() is None


@pytest.mark.skipif(mx.metal.is_available(), reason="Metal needs no BLAS")
def test_a_missing_openblas_is_said_on_linux_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert MlxBackend(None).machine().note == blas.MISSING and MlxBackend(None).machine().blas is None
    assert "apt install libopenblas0" in blas.MISSING and "dnf install openblas" in blas.MISSING, "not all have a checkout's scripts"
    assert MlxBackend("libopenblas.so.0").machine().note is None
    assert MlxBackend("libopenblas.so.0").machine().blas == "OpenBLAS"
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert MlxBackend(None).machine().note is None
