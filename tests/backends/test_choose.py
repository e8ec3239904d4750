"""Which backend a name means on which machine, and what is said where it cannot be had."""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_distill.backends import present
from mlx_distill.backends.choose import NAMES, PACKAGES, choose, decide, missing
from mlx_distill.errors import BackendError
from mlx_distill.observe.progress import Progress
from mlx_distill.workflows.setting import Setting, versions

BOTH = ("mlx", "mlx_lm", "torch", "transformers")
MLX, TORCH = BOTH[:2], BOTH[2:]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """machine("mlx", "mlx_lm", cuda=1): a machine that has these packages, and so on."""

    def make(*packages: str, metal: bool = False, cuda: int = 0, built: str | None = None) -> None:
        monkeypatch.setattr(present, "installed", lambda name: name in packages)
        monkeypatch.setattr(present, "metal", lambda: metal)
        monkeypatch.setattr(present, "cuda_devices", lambda: cuda)
        monkeypatch.setattr(present, "cuda_of_torch", lambda: built)

    return make


@pytest.mark.parametrize(
    ("packages", "hardware", "name", "why"),
    [
        (BOTH, {"metal": True}, "mlx", ""),
        (TORCH, {"metal": True}, "torch", "no GPU here"),
        (BOTH, {"cuda": 2, "built": "12.8"}, "torch", ""),
        (BOTH, {"cuda": 1}, "torch", "PyTorch is a build for CPUs"),
        (MLX, {"cuda": 1}, "mlx", "PyTorch is not installed: pip install 'mlx-distill[torch]'"),
        (("mlx", "mlx_lm", "torch"), {"cuda": 1, "built": "12.8"}, "mlx", "PyTorch is not installed"),
        (BOTH, {}, "torch", "no GPU here"),
        (BOTH, {"built": "12.8"}, "torch", "no GPU here"),
        (MLX, {}, "mlx", "no GPU here"),
        (TORCH, {}, "torch", "no GPU here"),
    ],
)
def test_auto_takes_the_fastest_that_is_there(machine: Any, packages: tuple[str, ...], hardware: Any, name: str, why: str) -> None:
    machine(*packages, **hardware)
    choice = decide()
    assert choice.name == name
    assert why in choice.why and bool(why) == bool(choice.why)
    assert "\n" not in choice.why


def test_a_name_is_taken_at_its_word(machine: Any) -> None:
    machine(*BOTH, metal=True, cuda=1, built="12.8")
    for name in ("mlx", "torch"):
        choice = decide(name, begun="mlx")
        assert (choice.name, choice.why) == (name, "")


def test_an_unknown_backend_is_refused_with_those_that_are_there() -> None:
    with pytest.raises(BackendError, match="no backend named 'jax'") as caught:
        choose("jax")
    assert caught.value.hint == "there is auto, mlx, torch" == f"there is {', '.join(NAMES)}"


def test_what_is_not_installed_says_how_to_get_it(machine: Any) -> None:
    machine("mlx", "torch", "transformers")
    with pytest.raises(BackendError, match="--backend mlx: mlx_lm is not installed here") as caught:
        decide("mlx")
    assert "pip install mlx-lm" in str(caught.value.hint)
    machine(*MLX)
    with pytest.raises(BackendError, match="--backend torch: torch and transformers are not installed here") as caught:
        decide("torch")
    assert "pip install 'mlx-distill[torch]'" in str(caught.value.hint)
    machine()
    with pytest.raises(BackendError, match="neither MLX nor PyTorch is installed here") as caught:
        decide()
    assert "mlx-lm" in str(caught.value.hint) and "mlx-distill[torch]" in str(caught.value.hint)


# going on with a run


def test_a_run_is_gone_on_with_by_what_it_was_begun_with(machine: Any) -> None:
    machine(*BOTH, metal=True)
    choice = decide(begun="torch")
    assert (choice.name, choice.why) == ("torch", "the run was begun with it")


def test_where_that_is_missing_the_way_out_is_the_other(machine: Any) -> None:
    machine(*MLX)
    with pytest.raises(BackendError, match=r"--backend torch \(the run was begun with it\): torch and transformers are not") as caught:
        decide(begun="torch")
    assert "--backend mlx goes on without it" in str(caught.value.hint)
    assert decide("mlx", begun="torch").name == "mlx"
    with pytest.raises(BackendError, match="begun with the backend 'jax'") as caught:
        decide(begun="jax")
    assert "--backend" in str(caught.value.hint)


# several processes


def test_a_launcher_brings_its_backend(machine: Any) -> None:
    machine(*BOTH, metal=True)
    assert (decide(launcher="torchrun").name, decide(launcher="torchrun").why) == ("torch", "started by torchrun")
    assert decide(launcher="torchrun", begun="mlx").name == "torch", "the others are waiting"
    machine(*BOTH, cuda=8, built="12.8")
    assert decide(launcher="mlx.launch").name == "mlx"


def test_another_backend_than_the_launchers_is_refused_with_the_launcher_to_take(machine: Any) -> None:
    machine(*BOTH)
    assert decide("torch", launcher="torchrun").name == "torch"
    with pytest.raises(BackendError, match="processes of torchrun compute with torch, not with mlx") as caught:
        decide("mlx", launcher="torchrun")
    assert caught.value.hint == "start them with mlx.launch"


# what is on the machine


class Driver:
    """NVIDIA's library, as far as it is called: `cuInit`'s answer, and so many devices."""

    def __init__(self, begins: int, devices: int) -> None:
        self.begins, self.devices = begins, devices

    def cuInit(self, flags: int) -> int:
        return self.begins

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0


@pytest.mark.parametrize(("driver", "devices"), [(Driver(0, 2), 2), (Driver(0, 0), 0), (Driver(100, 3), 0), (None, 0)])
def test_the_driver_counts_cuda_devices(monkeypatch: pytest.MonkeyPatch, driver: Driver | None, devices: int) -> None:
    """100 is CUDA_ERROR_NO_DEVICE: a driver without a card, or with all of them hidden."""

    def load(name: str) -> Driver:
        if driver is None or name != "libcuda.so.1":
            raise OSError(f"{name}: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert present.cuda_devices() == devices


@pytest.mark.parametrize(
    ("line", "version"), [("cuda: Optional[str] = '12.8'", "12.8"), ("cuda = '11.8'", "11.8"), ("cuda: Optional[str] = None", None)]
)
def test_what_pytorch_was_built_for_is_read_off_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, version: str | None
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('nobody imports it to ask')")
    (tmp_path / "torch" / "version.py").write_text(
        f"__all__ = ['cuda', 'hip']\n__version__ = '2.13.0'\n{line}\nhip: Optional[str] = None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert present.cuda_of_torch() == version
    assert versions().get("cuda") == version


def test_nothing_is_said_of_a_pytorch_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert present.cuda_of_torch() is None
    assert not any(present.installed(name) for name in BOTH)


def test_a_package_whose_import_somebody_refuses_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "json_of_nobody":
                raise ImportError(name)

    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    assert not present.installed("json_of_nobody") and present.installed("json")


@pytest.mark.parametrize(
    ("system", "processor", "metal"), [("darwin", "arm64", True), ("darwin", "x86_64", False), ("linux", "arm64", False)]
)
def test_metal_is_on_macs_with_apples_processor(monkeypatch: pytest.MonkeyPatch, system: str, processor: str, metal: bool) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: processor)
    assert present.metal() == metal


def test_nothing_of_a_backend_is_imported_before_it_is_chosen() -> None:
    code = "import sys; from mlx_distill.backends.choose import decide; decide('{}'); print(*sys.modules)"
    for name in NAMES:
        done = subprocess.run([sys.executable, "-c", code.format(name)], capture_output=True, text=True, check=True)
        loaded = {module.partition(".")[0] for module in done.stdout.split()}
        assert not loaded & {*BOTH, "numpy"}


# what is said


@pytest.mark.parametrize("name", [name for name in PACKAGES if not missing(name)])
def test_the_backend_is_said_once_with_its_device(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str) -> None:
    setting = Setting(Progress(), tmp_path, name)
    backend = setting.choose()
    setting.choose()
    assert backend.machine().backend == name
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("backend:")] == [f"backend: {name} on {backend.machine().device}"]


def test_why_it_is_another_than_one_may_expect_is_said_with_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    setting = Setting(Progress(), tmp_path)
    backend = setting.choose(begun="mlx")
    assert f"backend: mlx on {backend.machine().device} (the run was begun with it)" in capsys.readouterr().err


def test_versions_name_both_libraries_of_tensors() -> None:
    told = versions()
    for name in ("mlx", "torch", "triton"):
        assert (name in told) == present.installed(name)
