"""Ray, started on this machine or reached at an address."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import site
import socket
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import ray
import ray.job_config

from tim_search.executors import last_words
from tim_search.executors.contract import describe
from tim_search.types import BadInput

_REACH = 5.0  # seconds an address has to answer
_CLUSTER = "ENABLE_RAY_CLUSTER"  # Ray's name of its switch for clusters of several machines
_ABORTED = (
    "tim-search: the process that ran this ended without a word: it was killed, ran out of memory, or Ray ended it "
    "because its cluster restarted. What came back is in the ledger. Run the same command again to go on from there."
)


def connect(address: str) -> None:
    """Start Ray here or attach to a running cluster; raises BadInput where that cannot be."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    # It tells at every start that the cluster is protected by a token, as it should be.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    main = threading.current_thread() is threading.main_thread()
    previous = signal.getsignal(signal.SIGTERM) if main else None
    quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            if address == "local":
                # Named, because a plain init would attach to a cluster somebody else runs on this machine.
                _guard_token()
                with _on_loopback():
                    ray.init(address="local", include_dashboard=False, job_config=_job_config(), **quiet)
            else:
                _check_reachable(address)
                # At ray:// another process is the driver, and its folder is not this one.
                of_job = {} if address.startswith("ray://") else {"job_config": _job_config()}
                ray.init(address=address, **of_job, **quiet)
        last_words.leave(_ABORTED)
    except BadInput:
        raise
    except (Exception, SystemExit) as error:
        raise BadInput(_refusal(address, describe(error))) from error
    finally:
        # Ray installs a handler of its own; a search that runs has one that loses nothing.
        if callable(previous):
            signal.signal(signal.SIGTERM, previous)


def _refusal(address: str, problem: str) -> str:
    """Why Ray cannot be used, and what to do."""
    if address == "local":
        return (
            f"Ray did not start on this machine: {problem} Expected a free processor, some memory and room in the "
            "temporary folder. Run it again when the machine is less busy, or without Ray, by `--address serial` (in a "
            "search file `resources: {address: serial}`)."
        )
    return (
        f"Ray at {address} cannot be used: {problem} Expected a running Ray cluster, of the same Ray and Python "
        "version as here and, where it asks for a token, with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN set. Leave the "
        "address out (and RAY_ADDRESS unset) to run on this machine alone."
    )


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Ray, as an executor would have it, for several of them in turn; ended here only where it was started here."""
    if ray.is_initialized():
        yield
        return
    connect(address or os.environ.get("RAY_ADDRESS") or "local")
    try:
        yield
    finally:
        ray.shutdown()


class _Folders(list[str]):
    """Folders that Ray puts first on its workers' path; those that Ray would add by itself stay out."""

    def extend(self, folders: Iterable[str]) -> None:
        """Ray adds the driver's current folder and its script's: a `torch.py` in there would run in every worker."""


def _job_config() -> ray.job_config.JobConfig:
    """What workers are told of this process: where the product lies, unless it is installed, and nothing more."""
    config = ray.job_config.JobConfig()
    root = Path(__file__).resolve().parents[2]
    installed = {Path(place).resolve() for place in (*site.getsitepackages(), site.getusersitepackages())}
    config._py_driver_sys_path = _Folders([] if root in installed else [str(root)])
    return config


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """While Ray starts here, let all its processes listen on the loopback interface alone.

    An address of 127.0.0.1 for the node is not enough: Ray replaces it by one that others reach. The switch is the one
    by which Ray keeps to itself on desktops, and its processes read it from the environment.
    """
    from ray._private import ray_constants

    usual, switch = getattr(ray_constants, _CLUSTER, True), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    before = os.environ.get(switch)
    setattr(ray_constants, _CLUSTER, False)
    os.environ[switch] = "0"
    try:
        yield
    finally:
        setattr(ray_constants, _CLUSTER, usual)
        os.environ.pop(switch)
        if before is not None:
            os.environ[switch] = before


def _guard_token() -> None:
    """Make the token that Ray on this machine asks for, readable for its owner alone; Ray would let everybody read it.

    Nothing is made where the environment names a token or does without.
    """
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    if named or os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return
    path = Path.home() / ".ray" / "auth_token"
    with contextlib.suppress(OSError):  # Ray says what it cannot do without
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError), open(path, "x", opener=_for_owner) as file:
            file.write(secrets.token_hex(32))
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _check_reachable(address: str) -> None:
    """Raise BadInput unless something that speaks gRPC answers at `host:port`; Ray itself would try for minutes."""
    if address == "auto":
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise BadInput(
            f"address: expected host:port of a Ray cluster's head (usually port 6379), ray://host:port, or auto; got "
            f"{address}. Correct it, or leave it out (and RAY_ADDRESS unset) to run on this machine alone."
        )
    try:
        with socket.create_connection((host, port), timeout=_REACH) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "1":
                return
            # A gRPC server answers an HTTP/2 opening with a frame of type 4, its settings.
            connection.settimeout(_REACH)
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            answered = connection.recv(9)[3:4] == b"\x04"
            reason = "what listens there is not a Ray cluster"
    except OSError as error:
        answered, reason = False, describe(error)
    if not answered:
        raise BadInput(
            f"address: no Ray cluster answers at {address} ({reason}). Start it (ray start --head) or correct the "
            "address; leave it out (and RAY_ADDRESS unset) to run on this machine alone."
        )
