"""Wheels for a laptop without a network, by the real pip, out of a folder that the test made."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_distill.bundle.wheels import Target, gather
from mlx_distill.errors import BundleError
from tests.wheels import MAC, make_index, make_wheel


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_index(tmp_path_factory.mktemp("wheels") / "index")


@pytest.fixture(scope="module", autouse=True)
def nothing_else() -> Iterator[None]:
    """pip knows no other source of wheels than the one it is told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.delenv("PIP_FIND_LINKS", raising=False)
        yield


@pytest.fixture(scope="module")
def for_mac(index: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return gather(tmp_path_factory.mktemp("mac"), Target("macosx_14_0_arm64", "3.12"), find_links=index)


@pytest.fixture(scope="module")
def for_here(index: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return gather(tmp_path_factory.mktemp("here"), Target(), find_links=index)


def test_a_mac_gets_what_its_wheels_need_though_pip_runs_elsewhere(for_mac: list[Path]) -> None:
    """pip itself asks this machine whether a condition holds; on Linux it would forget mlx-metal."""
    names = [path.name for path in for_mac]
    assert f"mlx-99.0-{MAC}.whl" in names
    assert "mlx_metal-99.0-py3-none-macosx_14_0_arm64.whl" in names
    assert not [name for name in names if name.startswith(("mlx_cpu", "torch", "pytest"))], "nor what is for other systems, or an extra"
    assert "mlx_distill-0.1.0-py3-none-any.whl" in names
    assert names == sorted(names)


@pytest.mark.skipif(sys.platform != "linux", reason="what this machine needs depends on its system")
def test_linux_gets_mlx_with_its_cpu_part(for_here: list[Path]) -> None:
    names = [path.name for path in for_here]
    assert {"mlx-99.0-py3-none-any.whl", "mlx_cpu-99.0-py3-none-any.whl"} <= set(names)
    assert not [name for name in names if "macosx" in name]


def test_wheels_of_an_older_glibc_serve_a_newer_one() -> None:
    options = Target("manylinux_2_18_x86_64", "3.12").options()
    platforms = [option for option in options if option.startswith("many")]
    assert platforms[:2] == ["manylinux_2_18_x86_64", "manylinux_2_17_x86_64"]
    assert {"manylinux_2_5_x86_64", "manylinux2014_x86_64"} <= set(platforms)
    assert Target().options() == []


def test_a_wheel_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    make_wheel(tmp_path / "links", "click")
    with pytest.raises(BundleError, match=r"pip brings no wheels for .*: No matching distribution found for \w+") as caught:
        gather(tmp_path, Target(), find_links=tmp_path / "links")
    assert "--find-links FOLDER" in (caught.value.hint or "")


def test_what_only_the_other_system_needs_is_missed_too(index: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    for wheel in index.iterdir():
        if not wheel.name.startswith("mlx_metal"):
            (tmp_path / "links" / wheel.name).hardlink_to(wheel)
    with pytest.raises(BundleError, match=r"mlx-metal==99\.0"):
        gather(tmp_path, Target("macosx_14_0_arm64", "3.12"), find_links=tmp_path / "links")


@pytest.mark.parametrize("target", [Target("win_amd64"), Target("macos"), Target("macosx_14_0_arm64", "312"), Target(None, "2.7")])
def test_a_platform_or_python_that_is_none_is_refused(target: Target, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is called"):
        gather(tmp_path, target)


def test_the_packages_own_wheel_is_the_same_each_time_and_pip_installs_it(
    for_mac: list[Path], for_here: list[Path], tmp_path: Path
) -> None:
    made = [next(path for path in wheels if path.name.startswith("mlx_distill")) for wheels in (for_mac, for_here)]
    assert made[0].read_bytes() == made[1].read_bytes()
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-compile", "--target", tmp_path / "site", made[0]]
    subprocess.run(command, check=True, capture_output=True)
    names = set(zipfile.ZipFile(made[0]).namelist())
    assert {"mlx_distill/evaluation/pages/page.css", "mlx_distill/py.typed", "mlx_distill-0.1.0.dist-info/licenses/LICENSE"} <= names
    asked = "import mlx_distill, importlib.metadata as m; print(mlx_distill.__file__, m.version('mlx-distill'))"
    told = subprocess.run(
        [sys.executable, "-c", asked], env={"PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [str(tmp_path / "site" / "mlx_distill" / "__init__.py"), "0.1.0"]
    assert (tmp_path / "site" / "bin" / "mlx-distill").is_file()
