"""Keys met so far, each with a number: exact, whatever their number, in the same memory.

They lie in a temporary file (SQLite's, unlinked as soon as it is made, so that no kill leaves it behind), of which CACHE bytes are in
memory. It takes a key's bytes and some 20 more on the disk. It knows nothing of what keys and numbers mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlx_distill.errors import DoesNotFit

if TYPE_CHECKING:
    from sqlite3 import Connection

CACHE = 2 << 20
"""Bytes in memory, of each."""
SETTINGS = (f"cache_size = -{CACHE >> 10}", "temp_store = FILE", "journal_mode = OFF", "synchronous = OFF")


class Seen:
    """Raises DoesNotFit where the disk of temporary files is full."""

    def __init__(self) -> None:
        self._open: Connection | None = None

    def get(self, key: str) -> int | None:
        """The key's number; None where it was never put."""
        if self._open is None:
            return None
        with _room():
            found = self._open.execute("SELECT number FROM seen WHERE key = ?", (_bytes(key),)).fetchone()
        return None if found is None else int(found[0])

    def put(self, key: str, number: int = 0) -> None:
        """0 <= number < 2 ** 63. It replaces the number before."""
        with _room():
            self._file().execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (_bytes(key), number))

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __del__(self) -> None:
        if self._open is not None:
            self._open.close()

    def _file(self) -> Connection:
        """Made with the first key: who puts nothing needs no disk."""
        if self._open is None:
            from sqlite3 import connect

            self._open = connect("", isolation_level=None, check_same_thread=False)
            for setting in SETTINGS:
                self._open.execute(f"PRAGMA {setting}")
            self._open.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID")
            self._open.execute("BEGIN")  # of one transaction that never ends, nothing is written before it must
        return self._open


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


@contextmanager
def _room() -> Iterator[None]:
    from sqlite3 import OperationalError

    try:
        yield
    except OperationalError as error:
        hint = "the ids of a job's rows lie there; make room, or let TMPDIR name another folder"
        raise DoesNotFit(f"the folder of temporary files takes no more: {error}", hint=hint) from error
