"""The files of a deployed model: model.json and parameters.npz. Reading them runs no code and believes nothing.

A model folder may come from anybody. Each value is checked for its type and against the others, arrays are no larger
than their file, and what is wrong is told as BadInput.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from model.cohorts.values import Rule
from model.data.preprocess import Preprocessor, Transform
from model.networks import registry as networks
from model.networks.settings import from_plain
from model.trained.parts import SEVERAL, Exported, Inputs, Member
from tim_search.gates.files import MOST_TEXT, open_regular, replacing, write_durably
from tim_search.gates.texts import for_terminal
from tim_search.types import ALLOWED, BadInput, Task

#: Format 1 knew vectors and had no multilabel task. Format 3 has rules by which cells are read; it is written where
#: there are any.
FORMAT, WITH_RULES, READS = 2, 3, (1, 2, 3)

#: Numbers of one row of a modality; the images of HAIM have 150,528.
_MOST_NUMBERS = 1 << 24

_WORDS = {str: "a text", list: "a list", dict: "an object", int: "a whole number"}

#: Whatever reading or using damaged or invented files may raise.
_DAMAGE = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, ArithmeticError, RuntimeError, AssertionError,
    EOFError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


def write(folder: Path, fields: Mapping[str, Any]) -> None:
    """Write a model into a folder, which is made.

    Args:
        fields: of `model.trained.deployed.DeployedModel`.

    Raises:
        BadInput: the folder cannot be written.
    """
    transforms = fields["preprocessor"].transforms
    plain = {
        "format": WITH_RULES if fields["table"].rules else FORMAT,
        "source": fields["source"],
        "tasks": [asdict(task) for task in fields["tasks"].values()],
        "classes": fields["classes"],
        "scales": fields["scales"],
        "network": fields["network"],
        "settings": json.loads(fields["settings"].text),
        "inputs": [
            {**asdict(modality), "transform": _plain_transform(transforms[modality.name])}
            for modality in fields["inputs"]
        ],
        "members": [list(member.tasks) for member in fields["members"]],
        "about": fields["about"],
    }
    if fields["table"] != Exported():
        rules = {column: rule.plain() for column, rule in fields["table"].rules.items()}
        plain["table"] = {"rules": rules, "unused": list(fields["table"].unused)}
    arrays: dict[str, Any] = {}
    for number, member in enumerate(fields["members"]):
        arrays |= {f"{number}.values.{name}": value.cpu().numpy() for name, value in member.values.items()}
        arrays |= {f"{number}.centres.{name}": value for name, value in member.centres.items()}
    write_durably(folder / "model.json", json.dumps(plain, indent=1, ensure_ascii=False).encode())
    with replacing(folder / "parameters.npz") as aside:
        np.savez(aside, **arrays)


def read(folder: Path, *, allow_code: bool = False) -> dict[str, Any]:
    """The fields of `model.trained.deployed.DeployedModel`, as `write` wrote them.

    Args:
        allow_code: whether a network of one's own may be imported.

    Raises:
        BadInput: there is no model, one of another format, or one that is damaged.
    """
    with damage_told(folder):
        try:
            with open_regular(folder / "model.json", MOST_TEXT) as file:
                plain = _object(json.loads(file.read().decode()), "model.json")
            if plain["format"] not in READS:
                raise BadInput(_other_format(folder, plain))
            arrays = _arrays(folder / "parameters.npz")
        except OSError as error:
            raise BadInput(
                f"{for_terminal(folder)}: cannot be read as a model ({error.strerror or error}). Name a folder that "
                "`tim-search train` wrote, or a model's URI in MLflow."
            ) from error
        tasks = {task.name: task for task in map(_task, _list(plain["tasks"], "tasks"))}
        inputs = tuple(_inputs(_object(value, "inputs")) for value in _list(plain["inputs"], "inputs"))
        network = _text(plain["network"], "network")
        settings = networks.settings_of(network, allow_code=allow_code)
        held = plain["members"] if plain["format"] > 1 else [sorted(tasks)] * _whole(plain["members"], "members")
        fields = {
            "source": _text(plain["source"], "source"),
            "tasks": tasks,
            "classes": {
                name: _texts(labels, f"classes.{name}") for name, labels in _object(plain["classes"], "classes").items()
            },
            "scales": {name: _scale(pair, name) for name, pair in _object(plain["scales"], "scales").items()},
            "network": network,
            "settings": from_plain(settings, _object(plain["settings"], "settings")),
            "inputs": inputs,
            "preprocessor": Preprocessor({
                modality.name: _transform(_object(value["transform"], "transform"), modality)
                for modality, value in zip(inputs, plain["inputs"], strict=True)
            }),
            "members": tuple(
                _member(number, _texts(names, "members"), tasks, arrays)
                for number, names in enumerate(_list(held, "members"))
            ),
            "about": _object(plain["about"], "about"),
            "machine": networks.find(network, allow_code=allow_code),
            "table": _exported(_object(plain.get("table", {}), "table")),
        }  # fmt: skip
        _check_together(fields)
        return fields


@contextmanager
def damage_told(folder: Path) -> Iterator[None]:
    """Within it, whatever damaged files cause becomes BadInput that names the folder."""
    try:
        yield
    except BadInput:
        raise
    except RecursionError as error:
        raise BadInput(f"{for_terminal(folder)}: is not a whole model (it nests too deep). Fetch it again.") from error
    except _DAMAGE as error:
        problem = for_terminal(str(error).partition("\n")[0], most=300)
        raise BadInput(
            f"{for_terminal(folder)}: is not a whole model ({type(error).__name__}: {problem}). Fetch or train it "
            "again."
        ) from error


def _other_format(folder: Path, plain: Mapping[str, Any]) -> str:
    about = plain.get("about")
    versions = about.get("versions") if isinstance(about, dict) else None
    writer = versions.get("tim-search", "unknown") if isinstance(versions, dict) else "unknown"
    return for_terminal(
        f"{folder}: expected a model of format {READS[0]} to {READS[-1]}, got format {str(plain['format'])[:20]}. "
        f"Use the version of tim-search that wrote it ({writer})."
    )


# Arrays ---------------------------------------------------------------------------------------------------------------


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The finite arrays of an .npz file as numpy.savez writes it; never more bytes than the file has."""
    arrays: dict[str, NDArray[Any]] = {}
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        size = os.fstat(file.fileno()).st_size
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("parameters.npz: expected arrays as numpy.savez writes them, got compressed ones")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("parameters.npz: it promises more than it holds")
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            array = _array(archive.read(entry), name)  # a checksum tells damage
            if name in arrays:
                raise ValueError(f"parameters.npz: {name} stands twice")
            if not np.isfinite(array).all():
                raise ValueError(f"parameters.npz: {name} holds numbers that are not finite")
            arrays[name] = array
    return arrays


def _array(content: bytes, name: str) -> NDArray[Any]:
    """The array of .npy bytes, whose shape is compared with their number before memory is asked for."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = header(stream)
    if dtype.kind != "f" or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"parameters.npz: {name} is no array of as many numbers as it says")
    array = np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape, order="F" if by_column else "C")
    return array.copy()  # that of a buffer cannot be written to


def _member(number: int, names: tuple[str, ...], tasks: Mapping[str, Task], arrays: Mapping[str, Any]) -> Member:
    def part(prefix: str) -> dict[str, NDArray[Any]]:
        return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

    values, centres = part(f"{number}.values."), part(f"{number}.centres.")
    if not values or not names or not set(names) <= set(tasks):
        raise ValueError(f"members: number {number} has no parameters, no tasks, or tasks that the model has not")
    for name in names:
        if tasks[name].kind == "clustering" and len(centres[name]) != tasks[name].n_outputs:
            raise ValueError(f"members: number {number} lacks clusters of {name}")
    return Member({name: torch.from_numpy(array) for name, array in values.items()}, centres, names)


# JSON -----------------------------------------------------------------------------------------------------------------


def _plain_transform(transform: Transform) -> dict[str, Any]:
    return {
        "kind": transform.kind,
        "columns": list(transform.columns),
        "numeric": transform.numeric.tolist(),
        "mean": transform.mean.tolist(),
        "scale": transform.scale.tolist(),
        "levels": [list(pair) for pair in transform.levels],
        "gaps": list(transform.gaps),
        "names": list(transform.names),
    }


def _transform(plain: Mapping[str, Any], modality: Inputs) -> Transform:
    """What a modality becomes; its positions are checked against the modality's columns."""
    place = f"inputs.{modality.name}.transform"
    width = modality.shape[0] if modality.kind == "image" else len(modality.columns)
    numeric, mean, scale = (_numbers(plain[name], f"{place}.{name}") for name in ("numeric", "mean", "scale"))
    levels = tuple(_whole_numbers(pair, f"{place}.levels") for pair in _list(plain["levels"], f"{place}.levels"))
    gaps = _whole_numbers(plain["gaps"], f"{place}.gaps")
    positions = [*_whole_numbers(plain["numeric"], f"{place}.numeric"), *gaps, *(pair[0] for pair in levels)]
    transform = Transform(
        _text(plain.get("kind", "vector"), f"{place}.kind"),
        _texts(plain["columns"], f"{place}.columns"),
        numeric.astype(np.int64),
        mean,
        scale,
        cast(tuple[tuple[int, int], ...], levels),
        gaps,
        _texts(plain["names"], f"{place}.names"),
    )
    outputs = len(numeric) + len(levels) + len(gaps)
    if (
        transform.kind != modality.kind
        or transform.columns != modality.columns
        or not len(numeric) == len(mean) == len(scale)
        or not (scale > 0).all()
        or any(len(pair) != 2 for pair in levels)
        or not all(0 <= position < width for position in positions)
        or len(transform.names) != outputs
        or (modality.kind != "vector" and transform.numeric.tolist() != list(range(width)))
    ):
        raise ValueError(f"{place}: it does not fit the columns of the modality")
    return transform


def _exported(value: Mapping[str, Any]) -> Exported:
    """How tables are read; models of before there were rules have none."""
    rules = _object(value.get("rules", {}), "table.rules")
    return Exported(
        {column: Rule.of(_object(rule, f"table.rules.{column}")) for column, rule in rules.items()},
        _texts(value.get("unused", []), "table.unused"),
    )


def _inputs(plain: Mapping[str, Any]) -> Inputs:
    name = _text(plain["name"], "inputs.name")
    place = f"inputs.{name}"
    columns = _texts(plain["columns"], f"{place}.columns")
    levels = {
        column: _texts(names, f"{place}.levels.{column}")
        for column, names in _object(plain["levels"], f"{place}.levels").items()
    }
    shape = _whole_numbers(plain.get("shape", [len(columns)]), f"{place}.shape")
    kind = plain.get("kind", "vector")
    sizes = {"vector": (len(columns),), "sequence": (*shape[:1], len(columns)), "image": shape}
    if kind not in sizes or shape != sizes[kind] or len(shape) != {"vector": 1, "sequence": 2, "image": 3}[kind]:
        raise ValueError(f"{place}: expected a vector, a sequence or an image with its shape, got {kind!r} of {shape}")
    if min(shape) < 1 or math.prod(shape) > _MOST_NUMBERS:
        raise ValueError(f"{place}.shape: expected at most {_MOST_NUMBERS:,} numbers a row, got {shape}")
    if plain["dtype"] not in ("float32", "float64"):
        raise ValueError(f"{place}.dtype: expected float32 or float64, got {plain['dtype']!r}")
    if len(set(columns)) < len(columns) or not set(levels) <= set(columns) or not all(levels.values()):
        raise ValueError(f"{place}: its columns stand twice, or its levels are not those of its columns")
    examples = tuple(_list(plain["examples"], f"{place}.examples"))
    if len(examples) != (shape[0] if kind == "image" else len(columns)) or not all(
        value in levels[column] if column in levels else _is_number(value)
        for column, value in zip(columns or examples, examples, strict=True)
    ):
        raise ValueError(f"{place}.examples: expected one of each column, a number or a level")
    return Inputs(name, columns, levels, plain["dtype"], examples, kind, shape)


def _task(plain: Any) -> Task:
    fields = _object(plain, "tasks")
    task = Task(**{**fields, "excludes": _texts(fields["excludes"], "tasks.excludes")})
    texts = (task.name, task.kind, task.metric, task.department)
    if not all(isinstance(text, str) for text in texts) or task.metric not in ALLOWED[task.kind]:
        raise ValueError(f"tasks: {str(task.name)[:80]} is no task of a known kind and metric")
    if _whole(task.n_outputs, "tasks.n_outputs") < 1:
        raise ValueError(f"tasks: {task.name} has no output")
    return task


def _check_together(fields: Mapping[str, Any]) -> None:
    """Raise ValueError where the parts of a model do not fit each other."""
    tasks, classes, scales = fields["tasks"], fields["classes"], fields["scales"]
    names = [modality.name for modality in fields["inputs"]]
    if not names or len(set(names)) < len(names):
        raise ValueError("inputs: expected modalities of different names")
    if fields["source"] not in tasks or {name for member in fields["members"] for name in member.tasks} != set(tasks):
        raise ValueError("members: expected every task to be predicted by one of them, the source among them")
    for name, task in tasks.items():
        if task.kind in SEVERAL and len(classes.get(name, ())) != task.n_outputs:
            raise ValueError(f"classes: expected {task.n_outputs} of {name}, got {len(classes.get(name, ()))}")
        if task.kind == "regression" and name not in scales:
            raise ValueError(f"scales: {name} has none")


def _scale(value: Any, name: str) -> tuple[float, float]:
    mean, spread = _numbers(value, f"scales.{name}").tolist()
    return mean, spread


def _of(kind: type) -> Callable[[Any, str], Any]:
    """A check that a value is of one JSON type; it returns the value or raises ValueError."""

    def check(value: Any, place: str) -> Any:
        if type(value) is not kind:  # a bool is no whole number here
            raise ValueError(f"{place}: expected {_WORDS[kind]}, got {type(value).__name__}")
        return value

    return check


_text, _list, _object, _whole = map(_of, (str, list, dict, int))


def _texts(value: Any, place: str) -> tuple[str, ...]:
    return tuple(_text(item, place) for item in _list(value, place))


def _whole_numbers(value: Any, place: str) -> tuple[int, ...]:
    return tuple(_whole(item, place) for item in _list(value, place))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _numbers(value: Any, place: str) -> NDArray[np.float64]:
    """float64 (n,) of a list of finite numbers."""
    items: Sequence[Any] = _list(value, place)
    if not all(map(_is_number, items)):
        raise ValueError(f"{place}: expected finite numbers")
    return np.array(items, np.float64)
