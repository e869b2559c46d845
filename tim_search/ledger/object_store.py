"""A ledger's files as objects below s3://bucket/prefix, and who gets to see the credentials they are read with."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import re
import secrets
import threading
import time
import urllib.parse
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from tim_search.gates.urls import check_recipient, redacted_url
from tim_search.ledger.drivers import has_died, in_words, this_driver
from tim_search.ledger.place import File, Held, LedgerWarning
from tim_search.types import BadInput

_RENEWED = 10.0  # seconds between two signs of life of the writer of an object store
_EXPIRED = 60.0  # seconds without a sign of life after which a writer is taken for dead
_ATTEMPTS = 8  # tries of one request to an object store, over about half a minute
_OPTIONS = ("endpoint_override", "scheme", "region")


@dataclass(frozen=True)
class Address:
    """What an s3:// URL says: `root` is bucket/prefix; the options are of pyarrow's S3FileSystem."""

    root: str
    options: Mapping[str, str]


def address_of(url: str) -> Address:
    """What an s3:// URL says; does not connect. Raises BadInput for URLs that are no place for a ledger."""
    expected = (
        "expected a folder, or s3://bucket/prefix, with ?endpoint_override=host:port&scheme=http (or AWS_ENDPOINT_URL "
        "in the environment) for a store that is not Amazon's"
    )
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:  # brackets that hold no address
        raise BadInput(f"ledger: {expected}; got {redacted_url(url)} ({error}). Correct it.") from error
    options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    if "@" in parts.netloc:
        raise BadInput(
            "ledger: a URL with a user or a key in it would be written into the search's files. Leave it out; "
            "credentials come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), ~/.aws or the "
            "machine's role."
        )
    if parts.scheme != "s3" or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]+", parts.netloc) or parts.fragment:
        raise BadInput(f"ledger: {expected}; got {redacted_url(url)}. Correct it.")
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise BadInput(f"ledger: {expected}; got the option {', '.join(unknown)}. Use {', '.join(_OPTIONS)}.")
    if options.get("scheme", "https") not in ("http", "https"):
        raise BadInput(f"ledger: expected scheme=http or scheme=https, got {options['scheme']!r}. Correct it.")
    if not re.fullmatch(r"[a-z0-9-]*", options.get("region", "")):  # it becomes a part of the host's name
        raise BadInput(f"ledger: expected a region such as eu-central-1, got {options['region']!r}. Correct it.")
    segments = [part for part in urllib.parse.unquote(parts.path).split("/") if part]
    if any(part in (".", "..") for part in segments):
        raise BadInput(f"ledger: {expected}, without . and .. in it; got {redacted_url(url)}. Name the prefix itself.")
    return Address("/".join([parts.netloc, *segments]), options)


def endpoint_in_environment() -> str | None:
    """The endpoint that the user's environment names; None for Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def check_endpoint(url: str, place: str) -> None:
    """Raise BadInput where a URL, read in the file `place`, would send credentials to a host that it names itself.

    It may name the endpoint that the environment names too; warns of whom credentials go to then.
    """
    options = address_of(url).options
    if "endpoint_override" not in options and options.get("scheme", "https") == "https":
        return
    trusted = endpoint_in_environment()
    host = options.get("endpoint_override") or (trusted or "s3.amazonaws.com").rpartition("://")[2]
    recipient = check_recipient(
        host if "://" in host else f"{options.get('scheme', 'https')}://{host}",
        trusted,
        place=place,
        credentials="the AWS credentials (key id, session token, signatures)",
        fix="Where you trust it, set AWS_ENDPOINT_URL={url} in the environment and run the same command again.",
    )
    warnings.warn(f"{redacted_url(url)} is read at {recipient}, as AWS_ENDPOINT_URL says.", LedgerWarning, stacklevel=3)


class ObjectStore:
    """Files as objects below s3://bucket/prefix: Amazon's S3, or what speaks its protocol (MinIO, Ceph, R2).

    A file is one PUT, which is there whole or not at all, and a listing shows what was put before it began; S3 and its
    likes promise both. Credentials come from where the AWS tools find them; of the address, what the URL leaves open
    comes from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL and AWS_REGION.
    """

    abreast = 16

    def __init__(self, address: Address) -> None:
        self._root = address.root
        self._options = dict(address.options)
        query = urllib.parse.urlencode(self._options, safe=":/")
        self.place = f"s3://{address.root}" + (f"?{query}" if query else "")

    @cached_property
    def _fs(self) -> Any:
        from pyarrow import fs

        options: dict[str, Any] = dict(self._options)
        endpoint = options.pop("endpoint_override", None) or endpoint_in_environment()
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
        content = json.dumps(this_driver()).encode()
        seen: dict[str, datetime] = {}
        announced = False
        while True:
            self.put(key, content)
            try:
                infos = {info.base_name: info for info in self._infos("writers")}
                now = infos[lease].mtime if lease in infos else datetime.now(UTC)
                others = {name: info.mtime for name, info in infos.items() if name != lease}
                fresh = [name for name, mtime in others.items() if _age(mtime, now) < _EXPIRED]
                alive = {name: holder for name in fresh if (holder := self._holder(name)) and not has_died(holder)}
                self.remove(f"writers/{name}" for name in others if name not in alive)
                if not alive:
                    break
                renewed = [name for name in alive if name in seen and others[name] != seen[name]]
                if renewed:
                    raise Held(in_words(alive[renewed[0]]))
            except BaseException:
                self.remove([key])
                raise
            self.remove([key])
            if not announced:
                announced = True
                holder = next(iter(alive.values()))
                warnings.warn(
                    f"{self.place} was last written by {in_words(holder)}. Waiting for up to {_EXPIRED:.0f} seconds to "
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
