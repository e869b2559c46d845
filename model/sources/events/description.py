"""What to make of events: modalities, windows and statistics, from a short YAML file or from defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from model.cohorts.folder_reader import LONGEST_NAME
from model.sources.series import STATISTICS
from tim_search.gates.forms import conform
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, near, some

#: Numbers that describe the values of a code in a window; `haim` stands for the eleven of HAIM.
STATISTIC_NAMES = ("count", "last", "mean", "min", "max", "slope", *(f"haim_{name}" for name in STATISTICS))
#: How the values of an hour become one.
HOWS = ("last", "mean", "sum")
HOUR = 3_600_000_000  # microseconds

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_WINDOW = re.compile(r"([1-9][0-9]{0,5})(h|d)")

#: A window: hours before the prediction, "stay" (since the last admission) or "all".
Window: TypeAlias = int | str


@dataclass(frozen=True)
class Codes:
    """Which codes are meant: those listed, and those in which one of the patterns occurs."""

    exact: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Channel:
    """One signal of a sequence.

    Attributes:
        codes: that measure it.
        scale: by exact code (factor, offset): value x factor + offset is in the channel's unit.
        low, high: the plausible values, in the channel's unit; others are not measured. None: learnt.
        how: one of `HOWS`.
        levels: level -> the texts or numbers that mean it; empty: the channel is a number.
        unit: for people.
    """

    codes: Codes
    scale: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    how: str = "last"
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unit: str = ""


@dataclass(frozen=True)
class Vector:
    """Statistics by code and window. `share`, `most`: the codes of that share of the training subjects, at most so
    many, the commonest first. `coded_later`: also codes that are stamped at the discharge.
    """

    name: str
    codes: Codes = Codes(patterns=("",))
    windows: tuple[Window, ...] = (24, "stay")
    statistics: tuple[str, ...] = STATISTIC_NAMES[:6]
    share: float = 0.1
    most: int = 300
    coded_later: bool = False


@dataclass(frozen=True)
class Sequence:
    """Hours before the prediction. Without channels the `most` numeric codes that most training subjects have then.
    `carry`: a value stands for the following hours, too, until the next one.
    """

    name: str
    hours: int = 48
    channels: Mapping[str, Channel] = field(default_factory=dict)
    most: int = 20
    carry: bool = True


@dataclass(frozen=True)
class Static:
    """What holds of a subject: age, codes without a time, and the latest level of codes that begin with a prefix."""

    name: str
    age: bool = True
    prefixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reference:
    """Texts or paths of images to embed later: the latest `most` in the window; `column` has them."""

    name: str
    codes: Codes
    column: str
    window: Window = "all"
    most: int = 8


@dataclass(frozen=True)
class Description:
    """What to make of events.

    Attributes:
        modalities: in the order of the cohort.
        admission, discharge: events that begin and end a hospital stay.
        at_prediction: whether events at the prediction time itself are inputs, as MEDS has it.
    """

    modalities: tuple[Vector | Sequence | Static | Reference, ...] = (
        Static("patient"),
        Vector("codes"),
        Sequence("series"),
    )
    admission: Codes = Codes(patterns=("^HOSPITAL_ADMISSION",))
    discharge: Codes = Codes(patterns=("^HOSPITAL_DISCHARGE",))
    at_prediction: bool = True


_CODES = "a code, {regex: ...}, {any: [...]}, or a list of those"
_TOP = {
    "modalities?": {str: dict},
    "admission?": (str, dict, list),
    "discharge?": (str, dict, list),
    "at_prediction?": bool,
}
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "vector": {
        "kind": str, "codes?": (str, dict, list), "windows?": [str], "statistics?": [str], "share?": float,
        "most?": int, "coded_later?": bool,
    },
    "sequence": {"kind": str, "hours?": int, "channels?": {str: dict}, "most?": int, "carry?": bool},
    "static": {"kind": str, "age?": bool, "prefixes?": [str]},
    "text": {"kind": str, "codes": (str, dict, list), "window?": str, "most?": int},
    "image": {"kind": str, "codes": (str, dict, list), "column": str, "window?": str, "most?": int},
}  # fmt: skip
_CHANNEL: Mapping[str, Any] = {
    "codes": (str, dict, list), "low?": float, "high?": float, "how?": str, "levels?": (list, dict), "unit?": str,
    "source?": str,
}  # fmt: skip


def read_description(path: Path | None) -> Description:
    """The description in a file; the defaults where there is none.

    Raises:
        BadInput: it is no YAML, has unknown keys, or values that cannot be.
    """
    if path is None:
        return Description()
    try:
        return _description(yaml_of(path) or {})
    except ValueError as error:
        problem = str(error).removeprefix("it: ")
        stop = "" if problem.endswith("?") else "."
        raise BadInput(f"{for_terminal(path)}: {problem}{stop} docs/events.md lists the keys.") from error


def yaml_of(path: Path) -> Any:
    """The value of a YAML file; BadInput where it is none or cannot be read."""
    from tim_search.gates import yaml

    try:
        return yaml.read(path, aliases=True)[0]
    except (yaml.NotYaml, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{for_terminal(path)}: expected YAML: {for_terminal(error)}. Mend it.") from error


def _description(content: Any) -> Description:
    _check(content, _TOP, "")
    plain = Description()
    modalities = tuple(_modality(str(name), entry) for name, entry in content.get("modalities", {}).items())
    if "modalities" in content and not any(not isinstance(it, Reference) for it in modalities):
        raise ValueError("modalities: expected at least one of the kinds vector, sequence and static")
    return Description(
        modalities or plain.modalities,
        _codes(content["admission"], "admission")[0] if "admission" in content else plain.admission,
        _codes(content["discharge"], "discharge")[0] if "discharge" in content else plain.discharge,
        content.get("at_prediction", True),
    )


def _check(value: Any, form: Mapping[str, Any], place: str) -> None:
    """Raise ValueError unless a value has these keys, of these types, and no others."""
    conform(value, dict(form), place)
    names = [key.removesuffix("?") for key in form]
    for key in value:
        if key not in names:
            hint = near(str(key), names)
            raise ValueError(f"{place}.{key}: is not a known key.{hint} Allowed: {', '.join(names)}".removeprefix("."))


def _modality(name: str, entry: Mapping[str, Any]) -> Vector | Sequence | Static | Reference:
    place = f"modalities.{name}"
    if not _NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise ValueError(f"{for_terminal(place)}: expected a name of letters, digits, _ and -, at most {LONGEST_NAME}")
    kind = str(entry.get("kind"))
    if kind not in _KINDS:
        raise ValueError(f"{place}.kind: expected one of {', '.join(_KINDS)}, got {kind[:80]}")
    _check(entry, _KINDS[kind], place)
    fields = {key: value for key, value in entry.items() if key != "kind"}
    for key, least in (("most", 1), ("hours", 1)):
        if fields.get(key, least) < least:
            raise ValueError(f"{place}.{key}: expected {least} or more, got {fields[key]}")
    if "codes" in fields:
        fields["codes"] = _codes(fields["codes"], f"{place}.codes")[0]
    if "window" in fields:
        fields["window"] = _window(fields["window"], f"{place}.window")
    if kind == "static":
        return Static(name, fields.get("age", True), tuple(fields.get("prefixes", ())))
    if kind == "sequence":
        channels = fields.pop("channels", {})
        return Sequence(
            name, channels={it: _channel(channels[it], f"{place}.channels.{it}") for it in channels}, **fields
        )
    if kind != "vector":
        return Reference(name, fields.pop("codes"), fields.pop("column", "text"), **fields)
    if not 0 <= fields.get("share", 0) <= 1:
        raise ValueError(f"{place}.share: expected a share from 0 to 1, got {fields['share']}")
    if "windows" in fields:
        fields["windows"] = tuple(_window(it, f"{place}.windows") for it in dict.fromkeys(fields["windows"]))
    if "statistics" in fields:
        fields["statistics"] = _statistics(fields["statistics"], f"{place}.statistics")
    if not fields.get("windows", True) or not fields.get("statistics", True):
        raise ValueError(f"{place}: expected at least one window and one statistic")
    return Vector(name, **fields)


def _statistics(given: list[str], place: str) -> tuple[str, ...]:
    names: list[str] = []
    for name in given:
        if name != "haim" and name not in STATISTIC_NAMES:
            allowed = ("haim", *STATISTIC_NAMES)
            raise ValueError(f"{place}: expected names of {some(allowed, 7)}, got {name[:80]}.{near(name, allowed)}")
        names += [it for it in STATISTIC_NAMES if it.startswith("haim_")] if name == "haim" else [name]
    return tuple(dict.fromkeys(names))


def _window(text: str, place: str) -> Window:
    if text in ("stay", "all"):
        return text
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise ValueError(f"{place}: expected hours (24h), days (7d), stay or all, got {text[:80]}")
    return int(match[1]) * (24 if match[2] == "d" else 1)


def _channel(entry: Mapping[str, Any], place: str) -> Channel:
    _check(entry, _CHANNEL, place)
    codes, scale = _codes(entry["codes"], f"{place}.codes")
    how, low, high = entry.get("how", "last"), entry.get("low"), entry.get("high")
    if how not in HOWS:
        raise ValueError(f"{place}.how: expected one of {', '.join(HOWS)}, got {how[:80]}")
    if low is not None and high is not None and low >= high:
        raise ValueError(f"{place}: expected low below high, got {low} and {high}")
    given = entry.get("levels", {})
    levels = {level: [level] for level in given} if isinstance(given, list) else given
    if any(not isinstance(values, list) or not values for values in levels.values()):
        raise ValueError(f"{place}.levels: expected a list of levels, or by level a list of values")
    if levels and (how != "last" or low is not None or high is not None):
        raise ValueError(f"{place}: a channel with levels has no low, high or how")
    texts = {str(level): tuple(str(value) for value in values) for level, values in levels.items()}
    return Channel(codes, scale, low, high, how, texts, entry.get("unit", ""))


def _codes(given: Any, place: str) -> tuple[Codes, dict[str, tuple[float, float]]]:
    """The codes that are meant, and the scale of those that have one."""
    exact: list[str] = []
    patterns: list[str] = []
    scale: dict[str, tuple[float, float]] = {}
    for item in given if isinstance(given, list) else [given]:
        keys = set(item) if isinstance(item, dict) else set()
        if isinstance(item, str):
            exact.append(item)
        elif keys == {"regex"} and isinstance(item["regex"], str):
            patterns.append(_pattern(item["regex"], place))
        elif keys == {"any"} and isinstance(item["any"], list) and all(isinstance(code, str) for code in item["any"]):
            exact += item["any"]
        elif "code" in keys and keys <= {"code", "factor", "offset"}:
            conform(item, {"code": str, "factor?": float, "offset?": float}, place)
            exact.append(item["code"])
            scale[item["code"]] = float(item.get("factor", 1)), float(item.get("offset", 0))
        else:
            raise ValueError(f"{place}: expected {_CODES}, got {str(item)[:80]}")
    if not exact and not patterns:
        raise ValueError(f"{place}: expected {_CODES}, got an empty list")
    return Codes(tuple(dict.fromkeys(exact)), tuple(patterns)), scale


def _pattern(text: str, place: str) -> str:
    """A regular expression that DuckDB takes: RE2, which needs time linear in the text whatever the pattern is."""
    import duckdb

    try:
        duckdb.execute("SELECT regexp_matches('', ?)", [text])
    except duckdb.Error as error:
        raise ValueError(
            f"{place}: {text[:80]} is no regular expression ({str(error).splitlines()[0][:120]})"
        ) from error
    return text
