"""Where a ledger's files lie: a folder on a disk, or a prefix in object storage, behind one small contract.

The contract is what an append-only ledger needs and no more: list a table, read a file, put a file whole or not at all,
remove files, and say who writes. Neither kind of place offers anything that the other lacks, so that nothing above
depends on where the files are. docs/ledger.md says what is guaranteed in each.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import random
import re
import secrets
import socket
import threading
import time
import urllib.parse
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from tim_search.gates.files import make_folder, move_durably, put_durably, sync, write_advice
from tim_search.types import BadInput

_STALE = 3600.0  # seconds after which a file written aside was left by a process that died
_RENEWED = 10.0  # seconds between two signs of life of the writer of an object store
_EXPIRED = 60.0  # seconds without a sign of life after which a writer is taken for dead
_ATTEMPTS = 8  # tries of one request to an object store, over about half a minute
_OPTIONS = ("endpoint_override", "scheme", "region")


File: TypeAlias = io.BufferedReader | io.BytesIO


class LedgerWarning(UserWarning):
    """Something about a ledger that its user should know and that stops nothing: a file that was not used, a wait."""


class Held(Exception):
    """Another driver writes here; the message says which."""


class Storage(Protocol):
    """A place for immutable files, each named `table/name` or `name`.

    Every method but `writer` raises OSError when the place cannot be used, FileNotFoundError for a file that is gone.

    Attributes:
        place: what people call it: an absolute path or a URL, without secrets.
        abreast: how many files it pays to read at a time.
    """

    place: str
    abreast: int

    def names(self, table: str) -> list[str]:
        """Sorted names of a table's files; files that are being written are none of them."""
        ...

    def sizes(self, table: str) -> dict[str, int]:
        """Bytes of every file that `names` gives, but for those that have gone meanwhile."""
        ...

    def read(self, key: str) -> AbstractContextManager[tuple[File, Any]]:
        """(the file, a mark). Two readings with one mark that is not None gave the same bytes."""
        ...

    def put(self, key: str, content: Any) -> None:
        """Write a file (bytes or a buffer): on return it is there whole and durable; if this fails, it is not there."""
        ...

    def remove(self, keys: Iterable[str]) -> None:
        """Remove files; those that are gone already are no error."""
        ...

    def move(self, key: str, target: str) -> None:
        """Give a file another name, in place of what has that name."""
        ...

    def leftovers(self, table: str) -> list[str]:
        """Keys of what writers that died have left half-written."""
        ...

    def writer(self) -> AbstractContextManager[None]:
        """Be the only driver that writes here; raises Held when there is another."""
        ...

    def advice(self, error: OSError) -> str:
        """What to do about an error, as the beginning of a sentence."""
        ...


def at(place: str | Path) -> Storage:
    """The storage at a folder, or at a URL (see `ObjectStore`); touches nothing. Raises BadInput for other URLs."""
    return ObjectStore(_address(str(place))) if is_url(place) else LocalFolder(Path(place).absolute())


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL; everything else is a path."""
    return "://" in str(place)


def below(folder: str | Path, place: str) -> str | Path:
    """A place as it was written down in a folder: relative paths start there, URLs and absolute paths stay."""
    return place if is_url(place) else Path(folder) / place


def check(place: str) -> None:
    """Raise BadInput for a URL that is no place for a ledger; does not connect."""
    _address(place)


# -------------------------------------------------------------------- a folder


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
        found = {}
        for name in self.names(table):
            with contextlib.suppress(FileNotFoundError):
                found[name] = (self.path / table / name).stat().st_size
        return found

    @contextlib.contextmanager
    def read(self, key: str) -> Iterator[tuple[File, Any]]:
        with open(self.path / key, "rb") as file:
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
        found = []
        for path in sorted((self.path / table).glob(".*.tmp*")):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _STALE:
                    found.append(f"{table}/{path.name}")
        return found

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """A lock of the operating system on `writer.lock`, which lets go of it when the process ends, however."""
        make_folder(self.path)
        with open(self.path / "writer.lock", "a+", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise Held(_named(handle.read())) from None
            try:
                handle.truncate(0)
                handle.write(json.dumps(_myself()))
                handle.flush()
                yield
            finally:
                handle.truncate(0)

    def advice(self, error: OSError) -> str:
        other = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
        return write_advice(error, "Mend that") + (" (`ledger:` in the search file)" if other else "")


# -------------------------------------------------------------------- object storage


@dataclass(frozen=True)
class _Address:
    """What an s3:// URL says: `root` is bucket/prefix; the options are of pyarrow's S3FileSystem."""

    root: str
    options: Mapping[str, str]


def _address(url: str) -> _Address:
    parts = urllib.parse.urlsplit(url)
    options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    expected = (
        "expected a folder, or s3://bucket/prefix, with ?endpoint_override=host:port&scheme=http (or AWS_ENDPOINT_URL "
        "in the environment) for a store that is not Amazon's"
    )
    if "@" in parts.netloc:
        raise BadInput(
            "ledger: a URL with a user or a key in it would be written into the search's files. Leave it out; "
            "credentials come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), ~/.aws or the "
            "machine's role."
        )
    if parts.scheme != "s3" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]+", parts.netloc) or parts.fragment:
        raise BadInput(f"ledger: {expected}; got {url}. Correct it.")
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise BadInput(f"ledger: {expected}; got the option {', '.join(unknown)} in {url}. Use {', '.join(_OPTIONS)}.")
    if options.get("scheme", "https") not in ("http", "https"):
        raise BadInput(f"ledger: expected scheme=http or scheme=https, got {options['scheme']} in {url}. Correct it.")
    segments = [part for part in urllib.parse.unquote(parts.path).split("/") if part]
    if any(part in (".", "..") for part in segments):
        raise BadInput(f"ledger: {expected}, without . and .. in it; got {url}. Name the prefix itself.")
    return _Address("/".join([parts.netloc, *segments]), options)


class ObjectStore:
    """Files as objects below s3://bucket/prefix: Amazon's S3, or what speaks its protocol (MinIO, Ceph, R2).

    A file is one PUT, which is there whole or not at all, and a listing shows what was put before it began; S3 and its
    likes promise both. Credentials come from where the AWS tools find them; of the address, what the URL leaves open
    comes from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and AWS_REGION.
    """

    abreast = 16

    def __init__(self, address: _Address) -> None:
        self._root = address.root
        self._options = dict(address.options)
        query = urllib.parse.urlencode(self._options, safe=":/")
        self.place = f"s3://{address.root}" + (f"?{query}" if query else "")

    @cached_property
    def _fs(self) -> Any:
        from pyarrow import fs

        options: dict[str, Any] = dict(self._options)
        endpoint = options.pop("endpoint_override", None) or os.environ.get("AWS_ENDPOINT_URL_S3")
        endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:
            scheme, separator, host = endpoint.rstrip("/").partition("://")
            options["endpoint_override"] = host if separator else endpoint
            if separator:
                options.setdefault("scheme", scheme)
        if "region" not in options:
            named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            # Amazon's answer to a request for a bucket of another region is an error; others know no regions.
            options["region"] = named or ("us-east-1" if endpoint else _region(self._root.split("/")[0]))
        return fs.S3FileSystem(
            **options,
            background_writes=False,
            allow_delayed_open=True,  # one PUT, instead of the three requests of an upload in parts
            connect_timeout=5,
            request_timeout=20,  # the default gives up on a server that is busy for three seconds
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        )

    def _infos(self, table: str) -> list[Any]:
        from pyarrow import fs

        selector = fs.FileSelector(f"{self._root}/{table}", allow_not_found=True)
        return [info for info in self._fs.get_file_info(selector) if info.type == fs.FileType.File]

    def names(self, table: str) -> list[str]:
        return sorted(self.sizes(table))

    def sizes(self, table: str) -> dict[str, int]:
        return {info.base_name: info.size for info in self._infos(table) if not info.base_name.startswith(".")}

    @contextlib.contextmanager
    def read(self, key: str) -> Iterator[tuple[File, Any]]:
        # In one go: a Parquet reader's many small requests cost more than the columns they spare.
        try:
            with self._fs.open_input_file(f"{self._root}/{key}") as file:
                content = file.read()
        except OSError as error:
            # It was there when it was opened and was removed before it was read.
            if re.search(r"NO_SUCH_KEY|RESOURCE_NOT_FOUND", str(error)):
                raise FileNotFoundError(errno.ENOENT, "no such object", f"{self._root}/{key}") from error
            raise
        yield io.BytesIO(content), None

    def put(self, key: str, content: Any) -> None:
        with self._fs.open_output_stream(f"{self._root}/{key}") as stream:
            stream.write(content)

    def remove(self, keys: Iterable[str]) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self._fs.delete_file(f"{self._root}/{key}")

    def move(self, key: str, target: str) -> None:
        with self.read(key) as (file, _):
            self.put(target, file.read())
        self.remove([key])

    def leftovers(self, table: str) -> list[str]:
        return []

    @contextlib.contextmanager
    def writer(self) -> Iterator[None]:
        """A lease object, renewed every 10 seconds. Object storage has no lock, so it is advisory.

        Put, then list: of two drivers that start at once at least one sees the other. Times are the server's own. A
        lease that is not renewed within 60 seconds was left by a driver that died, and so was one of a process that
        this machine no longer has; until then the second driver waits to see.
        """
        lease = f"{secrets.token_hex(8)}.json"
        key = f"writers/{lease}"
        content = json.dumps(_myself()).encode()
        seen: dict[str, datetime] = {}
        told = False
        while True:
            self.put(key, content)
            try:
                infos = {info.base_name: info for info in self._infos("writers")}
                now = infos[lease].mtime if lease in infos else datetime.now(UTC)
                others = {name: info.mtime for name, info in infos.items() if name != lease}
                fresh = [name for name, mtime in others.items() if _age(mtime, now) < _EXPIRED]
                alive = {name: holder for name in fresh if (holder := self._holder(name)) and not _died(holder)}
                self.remove(f"writers/{name}" for name in others if name not in alive)
                if not alive:
                    break
                renewed = [name for name in alive if name in seen and others[name] != seen[name]]
                if renewed:
                    raise Held(_named(alive[renewed[0]]))
            except BaseException:
                self.remove([key])
                raise
            self.remove([key])
            if not told:
                told = True
                holder = next(iter(alive.values()))
                warnings.warn(
                    f"{self.place} was last written by {_named(holder)}. Waiting for up to {_EXPIRED:.0f} seconds to "
                    "see whether it still runs.",
                    LedgerWarning,
                    stacklevel=4,
                )
            seen |= {name: others[name] for name in alive if name not in seen}
            time.sleep(random.uniform(0.5, 1.0))
        ended = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(key, content, ended), daemon=True)
        renewal.start()
        try:
            yield
        finally:
            ended.set()
            renewal.join(timeout=5)
            with contextlib.suppress(OSError):
                self.remove([key])

    def _renew(self, key: str, content: bytes, ended: threading.Event) -> None:
        while not ended.wait(_RENEWED):
            # The next one may succeed; what cannot be written at all is told by the next commit.
            with contextlib.suppress(OSError):
                self.put(key, content)

    def _holder(self, name: str) -> str | None:
        try:
            with self.read(f"writers/{name}") as (file, _):
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return None

    def advice(self, error: OSError) -> str:
        text = str(error)
        for sign, advice in {
            "NO_SUCH_BUCKET": "There is no such bucket: make it, or correct the URL",
            "NETWORK_CONNECTION": "The store cannot be reached: see to the network and to endpoint_override",
            "ACCESS_DENIED": "Access is denied: see to the credentials and to what they may do",
            "INVALID_ACCESS_KEY_ID": "The key is not known there: see to AWS_ACCESS_KEY_ID",
            "SIGNATURE_DOES_NOT_MATCH": "The secret does not fit the key: see to AWS_SECRET_ACCESS_KEY",
        }.items():
            if sign in text:
                return advice
        return "See to the URL, the network and the credentials"


def _region(bucket: str) -> str:
    from pyarrow import fs

    try:
        return str(fs.resolve_s3_region(bucket))
    except OSError:
        return "us-east-1"  # the first request will tell what is wrong


def _age(then: datetime, now: datetime) -> float:
    return (now - then).total_seconds()


# -------------------------------------------------------------------- who writes


def _myself() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat("T", "seconds"),
        "machine": _machine(),
    }


@cache
def _machine() -> str:
    """Tells machines of one name apart, and a machine from itself before it was started again."""
    try:
        return f"{socket.gethostname()} {Path('/proc/sys/kernel/random/boot_id').read_text().strip()}"
    except OSError:
        return ""


def _named(holder: str) -> str:
    try:
        found = json.loads(holder)
        return f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, TypeError, KeyError):  # it has just taken the lock and not yet written its name
        return "another process"


def _died(holder: str) -> bool:
    """Whether the process that is named ran on this machine and runs no more."""
    try:
        found = json.loads(holder)
        if not _machine() or found["machine"] != _machine():
            return False
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (ValueError, TypeError, KeyError, OSError):
        return False
    return False
