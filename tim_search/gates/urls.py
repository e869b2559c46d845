"""URLs: their secrets are taken out before anything is written or shown, and who may be sent credentials is decided."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass

from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

_HIDDEN = "***"
_START = re.compile(r"(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]*://")
#: Parts of names of query values that are no one else's business, compared without case, `-` and `_`.
_SENSITIVE = re.compile(r"token|secret|passw|pwd|key|sig|credential|auth|session|jwt|^pat$|^sas$|^user(name)?$")
_VALUE = re.compile(r"(?P<name>[^?&;#=\s]+)=(?P<value>[^&;#\s\"'<>)\]}]*)")
_WHOLE_VALUE = re.compile(r"(?P<name>[^?&;#=]+)=(?P<value>[^&#]*)")
#: What follows # and has no name; what begins with / is a place in the pages of MLflow.
_FRAGMENT = re.compile(r"#(?!/)[^\s=&;\"'<>)\]}]+(?![^\s&;\"'<>)\]}])")
_WHOLE_FRAGMENT = re.compile(r"#(?!/)[^=&;]+(?![^&;])")
_WITHOUT_HOST = re.compile(r"(sqlite|file)(\+\w+)?:///", re.IGNORECASE)


# -------------------------------------------------------------------- redaction


def redacted(text: str) -> str:
    """A text without the secrets of the URLs in it: users and passwords go, sensitive values and fragments become ***.

    Sensitive are values of a query, of a fragment and of parameters of a path (`;token=`) by their names, and fragments
    without a name.

    A password may hold `/`, `@` and blanks: all that may belong to one goes, also where that takes the host with it.
    Paths (sqlite:////home/me@work/mlflow.db) keep their @. For a value that is one URL see `redacted_url`.
    """
    return "\n".join(_redacted_line(line) for line in text.split("\n"))


def redacted_url(url: str) -> str:
    """One URL without its secrets: as `redacted`, but a sensitive value goes up to the next `&`, with blanks."""
    return _redacted_line(url.replace("\n", " "), _WHOLE_VALUE, _WHOLE_FRAGMENT)


def holds_secret(url: str) -> bool:
    """Whether a URL, or a host as in `user:password@host`, holds what `redacted_url` takes out."""
    if not _START.match(url):
        return "@" in url and not url.startswith(("/", "."))
    return redacted_url(url) != url


def _redacted_line(line: str, value: re.Pattern[str] = _VALUE, fragment: re.Pattern[str] = _FRAGMENT) -> str:
    starts = list(_START.finditer(line))
    if not starts:
        return line
    parts = [line[: starts[0].start()]]
    for start, end in zip(starts, [*(start.start() for start in starts[1:]), len(line)], strict=True):
        rest = line[start.end() : end]
        has_host = not _WITHOUT_HOST.match(line, start.start())
        rest = _without_userinfo(rest) if has_host else rest
        mark = min((at for sign in "?#;" if (at := rest.find(sign)) >= 0), default=len(rest))
        after = value.sub(_without_secret, rest[mark:])
        parts.append(start[0] + rest[:mark] + (fragment.sub(f"#{_HIDDEN}", after) if has_host else after))
    return "".join(parts)


def _without_userinfo(rest: str) -> str:
    """What follows `://`, without user and password; *** stands for what may be a part of them and of the address.

    A blank before the last @ may belong to a password, or the @ to the words after the URL: it is taken for a password
    where a colon, as between a user and a password, stands before it.
    """
    end = rest.rfind("@")
    if end >= 0 and re.search(r"\s", rest[:end]) and ":" not in rest[:end]:
        end = re.split(r"\s", rest, maxsplit=1)[0].rfind("@")
    clear = not re.search(r"[\s/?#]", rest[: max(end, 0)])
    return rest[end + 1 :] if clear else f"{_HIDDEN}@{rest[end + 1 :]}"


def _without_secret(match: re.Match[str]) -> str:
    name = re.sub(r"[-_.]", "", urllib.parse.unquote(match["name"]).lower())
    if _SENSITIVE.search(name) and match["value"]:
        return f"{match['name']}={_HIDDEN}"
    value, sign, others = match["value"].partition(";")
    return f"{match['name']}={value}{sign}{_WHOLE_VALUE.sub(_without_secret, others)}"


# -------------------------------------------------------------------- to whom credentials may go


@dataclass(frozen=True)
class Recipient:
    """Who is talked to: `host` with its port, lower case, and the `scheme` that the way there is protected by."""

    scheme: str
    host: str

    @classmethod
    def of(cls, url: str, scheme: str = "https") -> Recipient:
        """The recipient a URL names; `scheme` is that of a host without one. Raises BadInput where it names no host."""
        text = url if "://" in url else f"{scheme}://{url}"
        try:
            parts = urllib.parse.urlsplit(text)
            host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        except ValueError:
            host = ""
        if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%\w+)?", host):
            raise BadInput(f"{for_terminal(redacted_url(url))}: expected http(s)://host:port. Correct it.")
        return cls(parts.scheme.lower(), f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}"


def check_recipient(url: str, trusted: str | None, *, place: str, credentials: str, fix: str) -> Recipient:
    """Whom credentials go to, decided before they go: a host that a file names gets them only if the user names it too.

    Args:
        url: what a file (a search file, a folder that was received) says to talk to.
        trusted: what the user says to talk to, in the environment or with an option of the command; None for nothing.
        place: where `url` was read, for the message.
        credentials: what would be sent, in words, such as "the AWS credentials".
        fix: which variable or option to set, with "{url}" in the place of the recipient, as a sentence.

    Raises:
        BadInput: `trusted` is not the same scheme, host and port.
    """
    recipient = Recipient.of(url)
    if trusted and Recipient.of(trusted) == recipient:
        return recipient
    other = f" {for_terminal(redacted_url(trusted))} is set instead." if trusted else ""
    raise BadInput(
        f"{for_terminal(place)}: names {recipient}, which would be sent {credentials}; a file alone does not decide "
        f"that.{other} {fix.format(url=recipient)}"
    )
