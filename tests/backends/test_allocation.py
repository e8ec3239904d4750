"""How much memory a process may have: the machine's, or what its container was given."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mlx_distill.backends.allocation import keep_freed_pages, memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def limits(folder: Path, *texts: str) -> tuple[Path, ...]:
    """A file that is not there, and files of these contents."""
    files = [folder / f"limit{i}" for i in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return (folder / "missing", *files)


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ((), MACHINE),
        (("max\n",), MACHINE),
        (("104857600\n",), 100 << 20),
        (("max\n", "104857600\n"), 100 << 20),
        (("209715200\n", "104857600\n"), 100 << 20),
        (("9223372036854771712\n",), MACHINE),
        (("",), MACHINE),
    ],
)
def test_a_container_has_what_it_was_given_where_that_is_less(tmp_path: Path, texts: tuple[str, ...], wanted: int) -> None:
    assert memory(limits(tmp_path, *texts)) == wanted


def test_a_folder_in_the_place_of_a_limit_is_none(tmp_path: Path) -> None:
    assert memory((tmp_path,)) == MACHINE


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_pages_are_kept_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert keep_freed_pages() == ("CS_GNU_LIBC_VERSION" in os.confstr_names)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_pages()
