"""The file that goes to a laptop without a network: the same bytes for the same parts, every byte checked, nothing odd let in."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import shutil
import subprocess
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlx_distill import bundle
from mlx_distill.bundle import layout
from mlx_distill.bundle.manifest import HASH, MANIFEST, Manifest, Part, make, name_fault
from mlx_distill.bundle.writing import _copy
from mlx_distill.errors import BundleError, OutputError

PARTS = {
    "recipe.lock.yaml": b"recipe: {}\n",
    "adapter/adapter_config.json": b"{}",
    "adapter/adapter_model.safetensors": bytes(range(256)) * 5,
    "base/config.json": b"[]",
    "base/empty.txt": b"",
    "base/exactly.txt": b"x" * layout.BLOCK,
    f"wheels/{'long' * 30}.whl": b"wheel",
    "licenses/LICENÇA.txt": "Faça o que quiser.".encode(),
}
Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    bundle.write(tmp_path / "some.bundle", PARTS, {"name": "floods"})
    return tmp_path / "some.bundle"


def faults_of(file: Path) -> dict[str, str]:
    """Part: kind of fault. A bundle whose manifest cannot be used at all is told by an error that names it."""
    try:
        return {fault.part: fault.kind for fault in bundle.verify(file)[1]}
    except BundleError as error:
        assert error.file == str(file)
        named = [name for name in (MANIFEST, HASH) if name in error.message]
        assert named or error.message == "this is no bundle", error
        return dict.fromkeys(named or [HASH], "damaged")


def regions(file: Path) -> list[tuple[int, str]]:
    """Where each part begins, with its header and what fills its last block; computed from the format, not from the reader."""
    manifest = bundle.verify(file)[0]
    sizes = [(HASH, 80), (MANIFEST, len(manifest.encoded)), *((part.name, part.size) for part in manifest.parts)]
    blocks = [len(tarred(name)) + (size + 511) // 512 * 512 for name, size in sizes]
    return list(zip(itertools.accumulate(blocks, initial=0), [*(name for name, _ in sizes), "end"], strict=True))


def tarred(name: str, size: int = 0) -> bytes:
    """A header as Python's own library writes it."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


# The format


@pytest.mark.parametrize("name", ["a", "adapter/x.json", "n" * 100, "wheels/" + "n" * 101, "base/ü.txt", "é" * 99])
@pytest.mark.parametrize("size", [0, 1, 511, 8**11 - 1, 8**11, 9**13])
def test_a_header_is_the_one_that_pythons_tarfile_writes(name: str, size: int) -> None:
    assert layout.header(name, size) == tarred(name, size)
    entry = layout.read_entry(io.BytesIO(layout.header(name, size)))
    assert entry is not None
    assert (entry.name, entry.size, entry.odd) == (name, size, None)


def test_tar_reads_it_and_every_content_begins_at_a_multiple_of_512(file: Path) -> None:
    with tarfile.open(file, "r:") as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [HASH, MANIFEST, *sorted(PARTS)]
        assert {archive.extractfile(name).read() == data for name, data in PARTS.items()} == {True}  # type: ignore[union-attr]
    assert {(m.mode, m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0o644, 0, 0, 0, "", "")}
    assert {member.offset_data % 512 for member in members} == {0}


def test_the_systems_own_tools_unpack_and_check_it(file: Path, tmp_path: Path) -> None:
    if not (shutil.which("tar") and shutil.which("sha256sum")):
        pytest.skip("no tar, or no sha256sum, on this system")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", file, "-C", tmp_path / "out"], check=True)
    subprocess.run(["sha256sum", "--check", HASH], check=True, cwd=tmp_path / "out", capture_output=True)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in PARTS} == PARTS


def test_the_same_parts_make_the_same_bytes_whatever_their_order_times_and_modes(file: Path, tmp_path: Path) -> None:
    sources: dict[str, Path | bytes] = {}
    for number, (name, data) in enumerate(reversed(PARTS.items())):
        sources[name] = path = tmp_path / str(number)
        path.write_bytes(data)
        path.chmod(0o600 if number % 2 else 0o755)
        os.utime(path, (number, number))
    bundle.write(tmp_path / "other.bundle", sources, {"name": "floods"})
    assert (tmp_path / "other.bundle").read_bytes() == file.read_bytes()
    assert bundle.verify(file)[0].size == file.stat().st_size


def test_a_name_that_may_not_be_a_part_is_not_written_either(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"base/weights\.bin cannot be a part"):
        bundle.write(tmp_path / "some.bundle", {"base/weights.bin": b""}, {})
    assert list(tmp_path.iterdir()) == []


# Writing


def test_a_file_that_stands_there_is_left_alone_unless_it_is_this_very_bundle(file: Path, tmp_path: Path) -> None:
    before = file.stat()
    assert bundle.write(file, PARTS, {"name": "floods"})[1] is False
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    with pytest.raises(OutputError, match="another bundle stands there already"):
        bundle.write(file, PARTS, {"name": "storms"})
    flip(file, file.stat().st_size - 1)
    with pytest.raises(OutputError, match="a damaged bundle stands there"):
        bundle.write(file, PARTS, {"name": "floods"})
    for name, data in (("text", b"precious"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(OutputError, match="another file stands there already"):
            bundle.write(tmp_path / name, PARTS, {})
        assert (tmp_path / name).read_bytes() == data
    with pytest.raises(OutputError, match="this is a folder"):
        bundle.write(tmp_path, PARTS, {})


def test_a_source_that_changes_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    part = Part("base/config.json", 2, hashlib.sha256(b"{}").hexdigest())
    for changed in (b"[]", b"{ }"):
        with pytest.raises(OutputError, match="it changed while it was copied"):
            _copy(part, changed, io.BytesIO())


def test_what_cannot_be_written_whole_is_not_written_at_all(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.write(tmp_path / "some.bundle", {"base/config.json": tmp_path / "gone"}, {})
    assert list(tmp_path.iterdir()) == []


def test_memory_stays_at_a_few_pieces_whatever_the_size(tmp_path: Path) -> None:
    size = 40 << 20
    with (tmp_path / "weights").open("wb") as weights:
        weights.truncate(size)
    tracemalloc.start()
    bundle.write(tmp_path / "big.bundle", {"base/model.safetensors": tmp_path / "weights"}, {})
    folder = bundle.opened(tmp_path / "big.bundle", tmp_path / "cache")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (folder / "base/model.safetensors").stat().st_size == size
    assert peak < 6 << 20


# Verifying


def flip(file: Path, position: int, bit: int = 0) -> None:
    with file.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ 1 << bit]))


def test_a_flipped_bit_is_found_in_every_byte_and_its_part_is_named(file: Path) -> None:
    file.unlink()
    bundle.write(file, {name: data for name, data in PARTS.items() if name.startswith(("base/c", "wheels/"))}, {})
    assert faults_of(file) == {}
    starts = regions(file)
    for position in range(file.stat().st_size):
        name = next(name for start, name in reversed(starts) if start <= position)
        flip(file, position, position % 8)
        found = faults_of(file)
        flip(file, position, position % 8)
        # of the manifest and its hash either may be the damaged one
        assert found.get(name) == "damaged" or (name in (HASH, MANIFEST) and found.keys() & {HASH, MANIFEST}), (position, name, found)
        assert name in (HASH, MANIFEST) or found == {name: "damaged"}, (position, name, found)


def test_a_bundle_cut_off_anywhere_names_what_is_missing(file: Path) -> None:
    whole, starts = file.read_bytes(), regions(file)
    for length in range(0, len(whole), 37):
        file.write_bytes(whole[:length])
        found = faults_of(file)
        cut = [name for _, name in starts if name not in (HASH, MANIFEST)] if length < starts[2][0] else []
        cut += [name for (_, name), (end, _) in itertools.pairwise(starts) if end > length and name not in (HASH, MANIFEST)]
        assert found, length
        assert not cut or length < starts[2][0] or found.keys() >= set(cut), (length, found)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_a_bundle_cut_off_says_how_many_bytes_are_missing(file: Path, share: float) -> None:
    whole = file.read_bytes()
    length = max(int(len(whole) * share), len(bundle.verify(file)[0].head))
    file.write_bytes(whole[:length])
    said = {fault.part: fault.what for fault in bundle.verify(file)[1]}
    assert said["end"] == f"the bundle is cut off: {len(whole) - length:,} bytes are missing"


def test_a_header_of_zeros_costs_that_part_alone(file: Path) -> None:
    """As a bad sector leaves it: zeros also mark an archive's end."""
    whole = file.read_bytes()
    for start, name in regions(file)[2:-1]:
        file.write_bytes(whole[:start] + bytes(512) + whole[start + 512 :])
        assert faults_of(file) == {name: "damaged"}


@pytest.mark.parametrize("more", [b"\0", b"x", bytes(512), b"x" * 512, bytes(1024), b"PK\3\4" * 500])
def test_what_is_appended_is_found(file: Path, more: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(more)
    assert faults_of(file) == {"end": "additional"}


def rebuilt(file: Path, edit: Callable[[Members], Members]) -> Path:
    """The bundle with other members, as anybody's tar would write them."""
    with tarfile.open(file, "r:") as archive:
        members: Members = [(member, archive.extractfile(member).read()) for member in archive.getmembers()]  # type: ignore[union-attr]
    out = io.BytesIO()
    for info, data in edit(members):
        info.size = len(data)
        out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict") + data + bytes(-len(data) % 512))
    file.write_bytes(out.getvalue() + bytes(1024))
    return file


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, 0o644
    return info, data


def test_rebuilding_without_a_change_gives_the_same_bytes(file: Path) -> None:
    before = file.read_bytes()
    assert rebuilt(file, lambda members: members).read_bytes() == before


@pytest.mark.parametrize("place", range(2, 2 + len(PARTS)))
def test_a_missing_part_is_named_and_no_other(file: Path, place: int) -> None:
    assert faults_of(rebuilt(file, lambda m: m[:place] + m[place + 1 :])) == {sorted(PARTS)[place - 2]: "missing"}


ODD = {
    "a stranger": (member("adapter/more.json", b"more"), "it does not belong there"),
    "a path upwards": (member("adapter/../../.bashrc", b"rm"), "it leaves its folder"),
    "an absolute path": (member("/etc/passwd", b"root"), "its path is absolute"),
    "a pickle": (member("base/pytorch_model.bin", b"x"), "nothing that is executed or unpickled"),
    "a link": (member("adapter/link", kind=tarfile.SYMTYPE, target="/etc"), "it is a symbolic link to /etc, and no file"),
    "a hard link": (member("adapter/link", kind=tarfile.LNKTYPE, target="base/x"), "it is a hard link to base/x, and no file"),
    "a device": (member("adapter/device", kind=tarfile.CHRTYPE), "it is a device, and no file"),
    "a pipe": (member("adapter/pipe", kind=tarfile.FIFOTYPE), "it is a pipe, and no file"),
    "a folder": (member("adapter/", kind=tarfile.DIRTYPE), "it is a folder, and no file"),
    "the same twice": (member("adapter/adapter_config.json", b"[]"), "it stands there twice"),
    "another case": (member("adapter/Adapter_Config.json", b"[]"), "adapter_config.json is the same file where case does not matter"),
    "a long name": (member("adapter/" + "x" * 200 + ".json", b"{}"), "it does not belong there"),
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("place", [4, 99])
def test_an_additional_member_is_named_wherever_it_stands(file: Path, tmp_path: Path, what: str, place: int) -> None:
    odd, said = ODD[what]
    rebuilt(file, lambda members: [*members[:place], odd, *members[place:]])
    [fault] = bundle.verify(file)[1]
    assert (fault.part, fault.kind) == (odd[0].name, "additional")
    assert said in fault.what
    refused(file, tmp_path, odd[0].name)


@pytest.mark.parametrize("size", [8**11 - 1, 10**13, 10**18])
def test_a_member_that_says_to_be_enormous_ends_with_the_file(file: Path, size: int) -> None:
    whole, (start, first) = file.read_bytes(), regions(file)[2]
    file.write_bytes(whole[:start] + layout.header("adapter/huge", size) + whole[start:])
    found = faults_of(file)
    assert (found["adapter/huge"], found[first]) == ("additional", "missing")


def test_a_part_that_became_a_link_is_named(file: Path, tmp_path: Path) -> None:
    link = member("adapter/adapter_config.json", kind=tarfile.SYMTYPE, target="/etc/passwd")
    rebuilt(file, lambda members: [*members[:2], link, *members[3:]])
    [fault] = bundle.verify(file)[1]
    assert str(fault) == "adapter/adapter_config.json: it is a symbolic link to /etc/passwd, and no file"
    refused(file, tmp_path, "adapter/adapter_config.json")


def test_parts_of_another_size_time_or_order_are_named(file: Path) -> None:
    def longer(members: Members) -> Members:
        members[2] = member("adapter/adapter_config.json", b"{ }")
        members[4][0].mtime = 1
        return members

    found = {fault.part: fault.what for fault in bundle.verify(rebuilt(file, longer))[1]}
    assert found == {
        "adapter/adapter_config.json": "it has 3 bytes instead of 2",
        "base/config.json": "its header is not as it was written",
    }


def test_parts_in_another_order_are_named(file: Path) -> None:
    rebuilt(file, lambda m: [*m[:3], m[4], m[3], *m[5:]])
    assert faults_of(file).keys() == {sorted(PARTS)[1]}


def test_what_is_no_bundle_says_so(tmp_path: Path) -> None:
    (tmp_path / "zip").write_bytes(b"PK\3\4" * 1000)
    (tmp_path / "empty").touch()
    for name, said in (
        ("zip", "this is no bundle"),
        ("empty", "this is no bundle"),
        (".", "this is a folder"),
        ("gone", "there is no such"),
    ):
        for call in (bundle.verify, lambda path: bundle.opened(path, tmp_path / "cache")):
            with pytest.raises(BundleError, match=said):
                call(tmp_path / name)


# Opening


def refused(file: Path, tmp_path: Path, name: str) -> None:
    """`opened` says the member's name, and leaves nothing behind."""
    with pytest.raises(BundleError) as caught:
        bundle.opened(file, tmp_path / "cache")
    assert name in caught.value.message
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path != file] == []


def test_an_opened_bundle_has_every_part_and_the_manifest(file: Path, tmp_path: Path) -> None:
    folder = bundle.opened(file, tmp_path / "cache")
    manifest, _ = bundle.verify(file)
    assert folder == tmp_path / "cache" / "bundles" / hashlib.sha256(manifest.encoded).hexdigest()
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {**PARTS, MANIFEST: manifest.encoded}


def test_it_is_unpacked_once_wherever_the_file_lies(file: Path, tmp_path: Path) -> None:
    folder = bundle.opened(file, tmp_path / "cache")
    before = {path: path.stat().st_ino for path in folder.rglob("*")}
    flip(file, file.stat().st_size - 2000)  # a content: only its size is looked at again
    assert bundle.opened(file.rename(tmp_path / "moved.bundle"), tmp_path / "cache") == folder
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == before


@pytest.mark.parametrize("lost", ["base/config.json", MANIFEST])
def test_a_cache_that_lost_a_part_is_filled_anew(file: Path, tmp_path: Path, lost: str) -> None:
    folder = bundle.opened(file, tmp_path / "cache")
    for spoil in (Path.unlink, lambda path: path.write_bytes(b"torn")):
        spoil(folder / lost)
        assert bundle.opened(file, tmp_path / "cache") == folder
        assert (folder / "base/config.json").read_bytes() == PARTS["base/config.json"]
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_damaged_bundle_is_not_opened_and_leaves_nothing(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    for start, name in regions(file):
        file.write_bytes(whole)
        flip(file, start + 3)
        refused(file, tmp_path, name)
    file.write_bytes(whole[:-1])
    refused(file, tmp_path, "end")


def test_a_shortened_bundle_is_refused_though_it_was_opened_before(file: Path, tmp_path: Path) -> None:
    bundle.opened(file, tmp_path / "cache")
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(BundleError, match="wheels/"):
        bundle.opened(file, tmp_path / "cache")


def test_many_may_open_it_at_once(file: Path, tmp_path: Path) -> None:
    for number in range(5):
        start = threading.Barrier(4)

        def open_it(_: int, start: threading.Barrier = start, cache: Path = tmp_path / str(number)) -> Path:
            start.wait()
            return bundle.opened(file, cache)

        with ThreadPoolExecutor(4) as pool:
            [folder] = set(pool.map(open_it, range(4)))
        assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing half unpacked is left"


BAD_NAMES = {
    "/etc/passwd": "absolute", "C:/x.json": "absolute", "\\x": "absolute", "../x": "leaves", "adapter/../x.json": "leaves",
    "adapter\\..\\x.json": "leaves", "other/x.json": "no such part", "x.json": "no such part", "adapter/deep/x.json": "no such part",
    "adapter/": "no such part", "adapter/.hidden": "no such part", "./recipe.lock.yaml": "no such part", MANIFEST: "no such part",
    "adapter/a\nb.json": "not every system", "adapter/\ud800.json": "not every system", f"base/{'é' * 200}": "not every system",
    "base/vocab.pkl": "executed", "base/tokenizer.py": "executed", "base/MODEL.BIN": "executed", "base/x.whl": "executed",
    "wheels/setup.sh": "executed",
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_manifest_that_names_what_may_not_be_a_part_is_refused(tmp_path: Path, name: str) -> None:
    assert BAD_NAMES[name] in (name_fault(name) or "")
    file = forged(tmp_path / "some.bundle", [name])
    with pytest.raises(BundleError) as caught:
        bundle.opened(file, tmp_path / "cache")
    assert caught.value.message.startswith(f"{name}: ")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("names", [["adapter/x", "adapter/x"], ["adapter/X", "adapter/x"], ["base/e\u0301", "base/\u00e9"]])
def test_a_manifest_that_names_one_file_twice_is_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(BundleError, match=r"it stands there twice|is the same file where case does not matter"):
        bundle.opened(forged(tmp_path / "some.bundle", names), tmp_path / "cache")


def forged(file: Path, names: list[str]) -> Path:
    """A bundle that is right in all but its names."""
    import json

    parts = [{"name": name, "size": 0, "sha256": hashlib.sha256(b"").hexdigest()} for name in names]
    manifest = Manifest((), {}, json.dumps({"format": 1, "parts": parts}).encode())
    file.write_bytes(manifest.head + layout.END)
    return file


@pytest.mark.parametrize(
    ("encoded", "said"),
    [
        (b"{}", "no manifest"), (b"[]", "no manifest"), (b"\xff", "no manifest"), (b"[" * 100_000, "no manifest"),
        (b'{"format": 2, "parts": []}', "format 2 is not known here"),
        (b'{"format": 1, "parts": [{"name": "base/x", "size": -1, "sha256": ""}]}', "size or hash is none"),
        (b'{"format": 1, "parts": [{"name": "base/x", "size": true, "sha256": ""}]}', "size or hash is none"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, encoded: bytes, said: str) -> None:
    (tmp_path / "some.bundle").write_bytes(Manifest((), {}, encoded).head + layout.END)
    with pytest.raises(BundleError, match=said):
        bundle.opened(tmp_path / "some.bundle", tmp_path / "cache")


def test_the_manifest_lists_name_size_and_hash_of_every_part() -> None:
    import json

    manifest = make([Part("base/b", 2, "0" * 64), Part("base/a", 1, "1" * 64)], {"name": "floods"})
    document = json.loads(manifest.encoded)
    assert document["name"] == "floods"
    assert document["parts"] == [{"name": "base/a", "size": 1, "sha256": "1" * 64}, {"name": "base/b", "size": 2, "sha256": "0" * 64}]
