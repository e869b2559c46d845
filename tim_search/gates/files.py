"""Files: the one way to write them (whole, durable, or not at all) and the one way to open those that came from others.

Writing goes aside, to the disk, and then under its name, so that neither a reader nor a loss of power ever meets half a
file. Opening refuses what is no regular file before it is read: a pipe would wait for ever, a device never ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

#: Bytes of the largest text file that is read whole (JSON, YAML): ours are far smaller, also of very large searches.
MOST_TEXT = 512 * 2**20

_NAME_BYTES = 255  # of one name, on every common file system
_PATH_BYTES = 4096  # of a path, on Linux

_WRITE_ADVICE = {
    errno.ENOSPC: "The disk is full: free some space",
    errno.EDQUOT: "Your quota is used up: free some space",
    errno.EFBIG: "The file size limit is reached: raise it (ulimit -f)",
    errno.EROFS: "The disk is read-only: name a folder that can be written",
    errno.EACCES: "Permission is denied: name a folder you may use",
    errno.EPERM: "Permission is denied: name a folder you may use",
    errno.ENOTDIR: "A file stands where a folder is expected: name a folder",
    errno.EEXIST: "A file stands where a folder is expected: name a folder",
    errno.EISDIR: "A folder stands where a file is expected: name a file",
    errno.ENAMETOOLONG: "The name is too long: choose a shorter one",
}


class Taken(BadInput):
    """Something stands where a new folder is to be."""


# -------------------------------------------------------------------- writing


def write_durably(path: str | Path, content: bytes, fix: str = "") -> Path:
    """Write a file so that it is there whole or not at all, also after a loss of power; returns its path.

    Folders above it are made as needed.

    Args:
        fix: what to do where it cannot be written, as a sentence; by default advice on the cause.

    Raises:
        BadInput: it cannot be written (disk full, read-only, no permission); what stood there before still does.
    """
    path = checked_path(path)
    with explained(path, fix):
        make_folder(path.parent)
        put_durably(path, content)
    return path


def put_durably(path: Path, content: Any) -> None:
    """`write_durably` for callers that know what an OSError means to them; the folder must be there."""
    with _aside(path) as aside, open(aside, "wb") as file:
        file.write(content)


@contextlib.contextmanager
def replacing(path: str | Path, fix: str = "") -> Iterator[Path]:
    """`write_durably` for what another library writes: yields a path beside `path` to write to.

    When the block ends the file is made durable and takes its place; after an error it is removed. The path ends as
    `path` does, for libraries that go by that. Raises BadInput as `write_durably` does, also for the block's OSErrors.
    """
    path = checked_path(path)
    with explained(path, fix):
        make_folder(path.parent)
        with _aside(path) as aside:
            yield aside


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Yield a free path beside `path`, whose file is then brought to the disk and renamed; removed after an error."""
    # Short, so that every name that fits a file system still does here.
    aside = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix if len(path.suffix) < 16 else ''}")
    try:
        yield aside
        sync(aside)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextlib.contextmanager
def new_folder(path: str | Path, fix: str = "") -> Iterator[Path]:
    """Yield an empty folder beside `path` to fill; when the block ends it is made durable and takes the name `path`.

    After an error it is removed, so that a folder is there whole or not under this name.

    Raises:
        Taken: something other than an empty folder stands at `path`; it is left as it is.
        BadInput: the folder cannot be written.
    """
    path = checked_path(path)
    with explained(path, fix):
        make_folder(path.parent)
        aside = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.new")
        try:
            aside.mkdir()
            yield aside
            for folder, _, names in os.walk(aside):
                for name in names:
                    sync(Path(folder, name))
                sync(Path(folder))
            take_name(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        sync(path.parent)


def take_name(aside: Path, path: Path) -> None:
    """Rename a folder to a name at which nothing but an empty folder may stand; raises Taken, or OSError."""
    problem = f"{for_terminal(path)}: expected a free name, something stands there already. Choose another one."
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise Taken(problem)
    try:
        os.rename(aside, path)  # takes the place of an empty folder, and of nothing else
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise Taken(problem) from error
        raise


def append_durably(path: str | Path, line: str, fix: str = "") -> None:
    """Append one line to a file; on return it survives a loss of power. Two processes at once write two lines.

    A last line that was cut short by a kill is ended first. Raises BadInput where it cannot be written.
    """
    path = checked_path(path)
    with explained(path, fix):
        new = not path.exists()
        with open(path, "ab+", buffering=0, opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "It is no file but a pipe or a device")
            fcntl.flock(file, fcntl.LOCK_EX)
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            torn = end > 0 and file.read(1) != b"\n"
            content = (("\n" if torn else "") + line + "\n").encode(errors="backslashreplace")
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        if new:
            sync(path.parent)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def move_durably(source: Path, target: Path) -> None:
    """Give a file another name, in place of what has that name; raises OSError."""
    make_folder(target.parent)
    os.replace(source, target)
    sync(target.parent)
    sync(source.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it so that they outlive a loss of power; raises OSError."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def sync(path: Path) -> None:
    """Bring a file to the disk, or the names in a folder: those that came, and that others went; raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def explained(path: str | Path, fix: str = "") -> Iterator[None]:
    """Within it, an OSError becomes BadInput that names `path`, the reason and what to do."""
    try:
        yield
    except OSError as error:
        raise BadInput(
            f"{for_terminal(path)} cannot be written: {error.strerror or error}. {fix or write_advice(error) + '.'}"
        ) from error


def write_advice(error: OSError, otherwise: str = "Name another place") -> str:
    """What to do about a file that could not be written, as the beginning of a sentence."""
    return _WRITE_ADVICE.get(error.errno or 0, otherwise)


# -------------------------------------------------------------------- opening what came from others


def open_regular(path: str | Path, most: int | None = None) -> io.BufferedReader:
    """A regular file, open for reading bytes; links are followed.

    Args:
        most: bytes it may have.

    Raises:
        BadInput: it is a pipe, a device, a socket, a folder or a link that leads nowhere; it is too large; or no file
            can have this name.
        FileNotFoundError: nothing has this name.
        OSError: it cannot be opened.
    """
    path = checked_path(path)
    shown = for_terminal(path)
    try:
        # Without waiting for the other end, should it be a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if path.is_symlink() and error.errno in (errno.ENOENT, errno.ELOOP):
            raise BadInput(f"{shown}: is a link that leads nowhere. Remove it, or bring the file back.") from error
        if error.errno == errno.ENXIO:
            raise BadInput(f"{shown}: expected a file, got a socket or a device. Remove it.") from error
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = "folder" if stat.S_ISDIR(status.st_mode) else "pipe" if stat.S_ISFIFO(status.st_mode) else "device"
            raise BadInput(f"{shown}: expected a file, got a {kind}. Name a file.")
        if most is not None and status.st_size > most:
            raise BadInput(f"{shown}: expected at most {most:,} bytes, got {status.st_size:,}. It is not read.")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def inside(folder: str | Path, name: str | Path, *, outside: str | None = None) -> Path:
    """The path of a file that something received names, which must lie in its folder, also after following links.

    Args:
        folder: what was received.
        name: as it is written there.
        outside: None allows it to lie elsewhere; otherwise what a user does to allow that, as a sentence.

    Raises:
        BadInput: the file lies outside and that is not allowed, or no file can have this name.
    """
    path = checked_path(Path(folder) / checked_path(name))
    if outside is not None:
        home = Path(os.path.realpath(folder))
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(home):
            raise BadInput(
                f"{for_terminal(folder)} names the file {for_terminal(name)}, which lies outside of it "
                f"({for_terminal(real)}). {outside}"
            )
    return path


def read_text(path: str | Path, what: str = "file", most: int = MOST_TEXT, fix: str = "") -> str:
    """The UTF-8 text of a regular file, without a byte order mark.

    Args:
        what: what is expected there, such as "search file".
        most: bytes it may have.
        fix: what to do where it cannot be read, as a sentence.

    Raises:
        BadInput: there is none, it cannot be read, is too large, or is no UTF-8.
    """
    shown = for_terminal(path)
    try:
        with open_regular(path, most) as file:
            return file.read().decode("utf-8-sig")
    except OSError as error:
        advice = fix or f"Name a {what} that you may read."
        raise BadInput(
            f"{shown}: expected a {what}, it cannot be read ({error.strerror or error}). {advice}"
        ) from error
    except UnicodeDecodeError as error:
        advice = fix or "Save it as UTF-8."
        raise BadInput(
            f"{shown}: expected a {what} in UTF-8, got other bytes at {error.start:,} of it. {advice}"
        ) from error


def checked_path(path: str | Path) -> Path:
    """The path, where a file can have it; raises BadInput for NUL, lone surrogates and names that are too long."""
    text = os.fspath(path)
    problem = ""
    try:
        content = os.fsencode(text)
    except UnicodeEncodeError:
        problem = "a character that no text may hold (a lone surrogate)"
    else:
        longest = max(map(len, content.split(b"/")), default=0)
        if b"\0" in content:
            problem = "a NUL character"
        elif longest > _NAME_BYTES:
            problem = f"a name of {longest:,} bytes, at most {_NAME_BYTES} are possible"
        elif len(content) > _PATH_BYTES:
            problem = f"{len(content):,} bytes, at most {_PATH_BYTES:,} are possible"
    if problem:
        raise BadInput(f"The path {for_terminal(text, most=80)} holds {problem}. Choose another name.")
    return Path(path)
