"""A folder of wheels without content, as an index: every requirement of the package, and of mlx what it needs on each system."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

VERSION = "99.0"
MAC = "cp312-cp312-macosx_14_0_arm64"
MLX = ['mlx-metal==99.0; platform_system == "Darwin"', 'mlx-cpu==99.0; extra == "cpu" and platform_system == "Linux"']


def make_index(folder: Path) -> Path:
    folder.mkdir()
    required = {Requirement(text).name for text in distribution("mlx-distill").requires or [] if "extra" not in text}
    for name in required - {"mlx"}:
        make_wheel(folder, name)
    for tag in ("py3-none-any", MAC):
        make_wheel(folder, "mlx", tag=tag, requires=MLX)
    make_wheel(folder, "mlx-metal", tag="py3-none-macosx_14_0_arm64")
    make_wheel(folder, "mlx-cpu", tag="py3-none-any")
    return folder


def make_wheel(folder: Path, name: str, *, tag: str = "py3-none-any", requires: Sequence[str] = ()) -> Path:
    name = name.replace("-", "_")
    info = f"{name}-{VERSION}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSION}\n" + "".join(f"Requires-Dist: {item}\n" for item in requires)
    with zipfile.ZipFile(folder / f"{name}-{VERSION}-{tag}.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder / f"{name}-{VERSION}-{tag}.whl"
