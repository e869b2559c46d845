"""A ledger's files in a folder on a POSIX file system whose rename is atomic: a local disk, or a shared one as NFS."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tim_search.gates.files import make_folder, move_durably, open_regular, put_durably, sync, write_advice
from tim_search.ledger.drivers import in_words, this_driver
from tim_search.ledger.place import File, Held

_STALE = 3600.0  # seconds after which a file written aside was left by a process that died


class LocalFolder:
    """Files in a folder on a POSIX file system whose rename is atomic: a local disk, or a shared one such as NFS."""

    abreast = 1

    def __init__(self, path: Path) -> None:
        self.path = path
        self.place = str(path)

    def names(self, table: str) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.path / table) if not name.startswith("."))
        except FileNotFoundError:
            return []

    def sizes(self, table: str) -> dict[str, int]:
        sizes = {}
        for name in self.names(table):
            with contextlib.suppress(FileNotFoundError):
                sizes[name] = (self.path / table / name).stat().st_size
        return sizes

    @contextlib.contextmanager
    def read(self, key: str) -> Iterator[tuple[File, Any]]:
        with open_regular(self.path / key) as file:
            status = os.fstat(file.fileno())
            yield file, (key, status.st_ino, status.st_size, status.st_mtime_ns)

    def put(self, key: str, content: Any) -> None:
        path = self.path / key
        make_folder(path.parent)
        put_durably(path, content)

    def remove(self, keys: Iterable[str]) -> None:
        folders = set()
        for key in keys:
            path = self.path / key
            path.unlink(missing_ok=True)
            folders.add(path.parent)
        for folder in folders:
            sync(folder)

    def move(self, key: str, target: str) -> None:
        move_durably(self.path / key, self.path / target)

    def leftovers(self, table: str) -> list[str]:
        keys = []
        for path in sorted((self.path / table).glob(".*.tmp*")):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE:
                    keys.append(f"{table}/{path.name}")
        return keys

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """A lock of the operating system on `writer.lock`, which lets go of it when the process ends, however."""
        make_folder(self.path)
        # A ledger that was received may hold a link here: what it leads to is not to be emptied.
        lock = os.open(self.path / "writer.lock", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with os.fdopen(lock, "a+", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise Held(in_words(handle.read())) from None
            try:
                handle.truncate(0)
                handle.write(json.dumps(this_driver()))
                handle.flush()
                yield
            finally:
                handle.truncate(0)

    def advice(self, error: OSError) -> str:
        other = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
        return write_advice(error, "Mend that") + (" (`ledger:` in the search file)" if other else "")
