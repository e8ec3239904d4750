"""Wheels of the package and of all that it needs, for a laptop that has Python and no network: fetched by pip, completed by ourselves.

pip can fetch for another platform, but asks of this machine which requirements hold (`; platform_system == "Darwin"`). So what it brings
is followed from wheel to wheel, under the conditions of the platform that is meant; what is wanting is asked for by name, what is not
needed there is left out. The package's own wheel is made of what is installed here: it is what made the bundle.
"""

from __future__ import annotations

import base64
import email
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx_distill
from mlx_distill.errors import BundleError
from mlx_distill.files import atomic_file

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PROJECT = "mlx-distill"
PLATFORM = re.compile(r"macosx_\d+_\d+_(arm64|x86_64)|manylinux_2_\d+_(x86_64|aarch64)|manylinux2014_(x86_64|aarch64)")
EXAMPLES = "macosx_14_0_arm64, manylinux_2_28_x86_64"
ROUNDS = 5
"""How often pip is asked for what was still wanting."""
OLDEST_GLIBC = 5
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold: a wheel's bytes depend on its content alone."""
WHEEL = "Wheel-Version: 1.0\nGenerator: mlx-distill\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@dataclass(frozen=True, slots=True)
class Target:
    """The laptop."""

    platform: str | None = None
    """As wheels name it; None: this machine's."""
    python: str = f"{sys.version_info.major}.{sys.version_info.minor}"

    def check(self) -> None:
        """Raises BundleError."""
        if self.platform is not None and not PLATFORM.fullmatch(self.platform):
            raise BundleError(f"no platform of wheels is called {self.platform!r}", hint=f"for instance {EXAMPLES}; none: this machine's")
        if not re.fullmatch(r"3\.\d+", self.python):
            raise BundleError(f"no Python is called {self.python!r}", hint="for instance 3.12")

    @property
    def name(self) -> str:
        import sysconfig

        return self.platform or re.sub(r"[.-]", "_", sysconfig.get_platform())

    @property
    def is_here(self) -> bool:
        return self.platform is None and self.python == Target().python

    def options(self) -> list[str]:
        """pip's."""
        if self.is_here:
            return []
        platforms = [option for name in _compatible(self.name) for option in ("--platform", name)]
        return [*platforms, "--python-version", self.python, "--implementation", "cp"]

    def environment(self) -> dict[str, str]:
        """What requirements' conditions are about."""
        from packaging.markers import default_environment

        known: dict[str, str] = {**default_environment()}  # type: ignore[dict-item]
        if self.is_here:
            return known
        mac = self.name.startswith("macosx")
        known |= {"python_version": self.python, "python_full_version": f"{self.python}.0"}
        known |= {"sys_platform": "darwin", "platform_system": "Darwin"} if mac else {"sys_platform": "linux", "platform_system": "Linux"}
        return known | {"platform_machine": next(name for name in ("arm64", "x86_64", "aarch64") if self.name.endswith(name))}


def gather(folder: Path, target: Target, *, find_links: Path | None = None, project: str = PROJECT) -> list[Path]:
    """The wheels, in a folder within `folder`, sorted by name.

    `find_links`: a folder of wheels to take them from, instead of the network. Raises BundleError where one cannot be had.
    """
    target.check()
    installed = distribution(project)
    environment = target.environment()
    wanted = [str(_bare(item)) for item in _holding(installed.requires or [], environment, ())]
    asked = list(wanted)
    for number in range(ROUNDS):
        place = folder / f"wheels-{number}"
        _download(place, asked, target, find_links)
        found = {wheel.project: wheel for wheel in map(_Wheel.open, sorted(place.glob("*.whl")))}
        reached, wanting = _follow(wanted, found, environment)
        if not wanting:
            return sorted([_own(place, installed), *(found[name].path for name in reached)], key=lambda path: path.name)
        asked += [item for item in wanting if item not in asked]
    raise BundleError(f"pip brings no wheel of {wanting[0]} for {target.name}", hint="make the bundle on a machine of that platform")


@dataclass(frozen=True, slots=True)
class _Wheel:
    path: Path
    project: str
    version: str
    requires: Sequence[str]

    @classmethod
    def open(cls, path: Path) -> _Wheel:
        from packaging.utils import canonicalize_name

        try:
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
                told = email.message_from_bytes(archive.read(name))
        except (OSError, zipfile.BadZipFile, StopIteration):
            raise BundleError("this is no wheel, or a damaged one", hint="remove it from pip's cache: pip cache purge", file=path) from None
        return cls(path, canonicalize_name(told["Name"]), told["Version"], told.get_all("Requires-Dist") or [])


def _follow(wanted: Sequence[str], found: Mapping[str, _Wheel], environment: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """(projects that are needed, requirements that nothing in `found` meets), from wheel to wheel."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    reached: dict[str, set[str]] = {}
    wanting: list[str] = []
    left = [Requirement(item) for item in wanted]
    while left:
        item = left.pop()
        name, extras = canonicalize_name(item.name), {"", *item.extras}
        wheel = found.get(name)
        if wheel is None or not item.specifier.contains(wheel.version, prereleases=True):
            wanting.append(str(_bare(item)))
        elif new := extras - reached.get(name, set()):
            reached.setdefault(name, set()).update(new)
            left += _holding(wheel.requires, environment, new)
    return list(reached), wanting


def _holding(requires: Sequence[str], environment: Mapping[str, str], extras: Sequence[str] | set[str]) -> Iterator[Requirement]:
    """The requirements whose condition is met there."""
    from packaging.requirements import Requirement

    for text in requires:
        item = Requirement(text)
        if item.marker is None or any(item.marker.evaluate({**environment, "extra": extra}) for extra in {"", *extras}):
            yield item


def _bare(item: Requirement) -> Requirement:
    """Without its condition."""
    from packaging.requirements import Requirement

    bare = Requirement(str(item))
    bare.marker = None
    return bare


def _compatible(platform: str) -> list[str]:
    """A platform and the older ones whose wheels run on it. pip knows them for macOS, and not for manylinux."""
    known = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", platform)
    if not known:
        return [platform]
    glibc, machine = int(known[1]), known[2]
    names = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc, OLDEST_GLIBC - 1, -1)]
    return names + ([f"manylinux2014_{machine}"] if glibc >= 17 else [])


def _download(place: Path, requirements: Sequence[str], target: Target, find_links: Path | None) -> None:
    source = ["--no-index", "--find-links", str(find_links)] if find_links else []
    options = ["--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--retries", "2"]
    command = [sys.executable, "-m", "pip", "download", "--dest", str(place), *options, *source, *target.options(), *requirements]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    if done.returncode:
        raise _refused(done.stderr, target)


def _refused(said: str, target: Target) -> BundleError:
    """What pip said, in a line, and the way out."""
    if "No module named pip" in said:
        return BundleError("pip, which fetches wheels, is not installed here", hint=f"{sys.executable} -m ensurepip")
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    hint = "it needs a network, or a folder of wheels: --find-links FOLDER; or bundle without --with-wheels"
    if re.search(r"Temporary failure in name resolution|NewConnectionError|ConnectTimeout|Network is unreachable", said):
        return BundleError("pip cannot reach its index: is there a network?", hint=hint)
    why = errors[-1] if errors else (said.strip().splitlines() or ["it did not say why"])[-1]
    return BundleError(f"pip brings no wheels for {target.name}, Python {target.python}: {why}", hint=hint)


# The package's own


def _own(folder: Path, installed: Distribution) -> Path:
    """A wheel of the package as it is installed here, in the format of PEP 427."""
    name, version = re.sub(r"[-_.]+", "_", installed.metadata["Name"]), installed.version
    files = dict(_own_files(installed, f"{name}-{version}.dist-info"))
    record = f"{name}-{version}.dist-info/RECORD"
    lines = [f"{file},sha256={_digest(data)},{len(data)}\n" for file, data in sorted(files.items())]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with atomic_file(path) as out, zipfile.ZipFile(out, "w") as archive:
        for file, data in sorted(files.items(), key=lambda item: (item[0] == record, item[0])):
            entry = zipfile.ZipInfo(file, EPOCH)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return path


def _own_files(installed: Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    root = Path(mlx_distill.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith("."):
            yield path.relative_to(root.parent).as_posix(), path.read_bytes()
    yield f"{info}/METADATA", (installed.read_text("METADATA") or installed.read_text("PKG-INFO") or "").encode()
    yield f"{info}/WHEEL", WHEEL.encode()
    yield f"{info}/entry_points.txt", (installed.read_text("entry_points.txt") or "").encode()
    for license in _licenses(installed):
        yield f"{info}/licenses/{license.name}", license.read_bytes()


def _licenses(installed: Distribution) -> list[Path]:
    files: list[Any] = [file for file in installed.files or [] if file.name.startswith(("LICENSE", "NOTICE"))]
    return sorted({path for file in files if (path := Path(str(file.locate()))).is_file()})


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
