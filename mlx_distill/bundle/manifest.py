"""What a bundle says of itself: manifest.json, with name, size and SHA-256 of every part, and manifest.sha256, which holds its hash.

    bundle      = part("manifest.sha256") + part("manifest.json") + the other parts, sorted by name
    identity    = SHA-256 of manifest.json: two bundles with the same one hold the same

It knows which names a part may have, since they become files; it opens no file.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_distill.bundle import layout
from mlx_distill.errors import BundleError
from mlx_distill.models.checkpoint import PICKLES

FORMAT = 1
MANIFEST, HASH = "manifest.json", "manifest.sha256"
TOP = ("recipe.lock.yaml", "report.json", "report.html")
FOLDERS = ("adapter", "base", "licenses", "tokenizer", "wheels")
"""Where the other parts lie; none lies deeper."""
EXECUTED = (*PICKLES, "*.pkl", "*.pickle", "*.npy", "*.npz", "*.py", "*.pyc", "*.so", "*.dylib", "*.dll", "*.exe", "*.sh")
"""Names of what a library might unpickle or run, and of weights that are no safetensors: no part is called so."""
LONGEST_NAME = 255
SIZE_AT_MOST = 16 << 20
"""Of a manifest: one that says to be larger is damaged."""


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    """`adapter/adapter_model.safetensors`"""
    size: int
    """Bytes."""
    sha256: str

    @property
    def space(self) -> int:
        return layout.space(self.name, self.size)


@dataclass(frozen=True, slots=True)
class Manifest:
    parts: Sequence[Part]
    """Sorted by name; neither the manifest nor its hash is among them."""
    facts: Mapping[str, Any]
    """What is told beside the parts: plain mappings, lists, texts, numbers."""
    encoded: bytes
    """manifest.json."""

    @property
    def identity(self) -> str:
        return hashlib.sha256(self.encoded).hexdigest()

    @property
    def head(self) -> bytes:
        """The first bytes of the bundle: the two parts that stand before the others."""
        digest = hash_line(self.identity)
        parts = ((HASH, digest), (MANIFEST, self.encoded))
        return b"".join(layout.header(name, len(data)) + data + layout.padding(len(data)) for name, data in parts)

    @property
    def size(self) -> int:
        """Bytes of the whole bundle."""
        return len(self.head) + sum(part.space for part in self.parts) + len(layout.END)


def make(parts: Iterable[Part], facts: Mapping[str, Any]) -> Manifest:
    """Raises BundleError for a name that no part may have."""
    ordered = sorted(parts, key=lambda part: part.name)
    if found := next(name_faults([part.name for part in ordered]), None):
        raise BundleError(f"{found[0]} cannot be a part of a bundle: {found[1]}")
    listed = [{"name": part.name, "size": part.size, "sha256": part.sha256} for part in ordered]
    document = {"format": FORMAT, **facts, "parts": listed}
    return Manifest(ordered, facts, (json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n").encode())


def parse(encoded: bytes, file: Path) -> Manifest:
    """Raises BundleError where it is no manifest, names what may not be a part, or is of a format that this version does not know."""
    try:
        document = json.loads(encoded)
        parts = [Part(str(part["name"]), part["size"], str(part["sha256"])) for part in document["parts"]]
        sound = all(type(part.size) is int and part.size >= 0 and re.fullmatch("[0-9a-f]{64}", part.sha256) for part in parts)
        known = document["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BundleError(f"{MANIFEST}: no manifest of a bundle", hint=AGAIN, file=file) from None
    if not known:
        hint = "update mlx-distill; or make the bundle with this version"
        raise BundleError(f"{MANIFEST}: format {document['format']!r} is not known here; this version reads {FORMAT}", hint=hint, file=file)
    if not sound:
        raise BundleError(f"{MANIFEST}: a part's size or hash is none", hint=AGAIN, file=file)
    if found := next(name_faults([part.name for part in parts]), None):
        raise BundleError(f"{found[0]}: {found[1]}", hint=DISTRUST, file=file)
    if [part.name for part in parts] != sorted(part.name for part in parts):
        raise BundleError(f"{MANIFEST}: the parts are not in their order", hint=DISTRUST, file=file)
    return Manifest(parts, {key: value for key, value in document.items() if key not in ("format", "parts")}, encoded)


AGAIN = "copy the bundle again; mlx-distill bundle --verify FILE names all that is damaged"
DISTRUST = "mlx-distill never wrote this: do not trust whoever it comes from"


def hash_line(identity: str) -> bytes:
    """manifest.sha256, as `sha256sum --check` reads it."""
    return f"{identity}  {MANIFEST}\n".encode()


def name_faults(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(name, what is wrong with it), for each that may not be a part, or not beside those before it."""
    taken: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold()
        if wrong := name_fault(name):
            yield name, wrong
        elif key in taken:
            yield name, "it stands there twice" if taken[key] == name else f"{taken[key]} is the same file where case does not matter"
        taken.setdefault(key, name)


def name_fault(name: str) -> str | None:
    """Why no part may be called so; None where it may.

    >>> name_fault("adapter/../../.ssh/id")
    'it leaves its folder'
    >>> name_fault("base/config.json")
    """
    folder, slash, own = name.rpartition("/")
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        return "its path is absolute"
    if ".." in re.split(r"[/\\]", name):
        return "it leaves its folder"
    if not name.isprintable() or "\\" in name or len(own.encode("utf-8", "replace")) > LONGEST_NAME:
        return "not every system can have a file of that name"
    if name in (MANIFEST, HASH) or (name not in TOP if not slash else folder not in FOLDERS or not own or own.startswith(".")):
        return "a bundle has no such part"
    if any(fnmatch.fnmatchcase(own.lower(), pattern) for pattern in EXECUTED) or (folder == "wheels") != own.endswith(".whl"):
        return "a bundle holds nothing that is executed or unpickled"
    return None
