"""A search file as text: reading it, with everything that is wrong told at once, and writing it in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tim_search.config import network
from tim_search.config.sections import (
    AllBut,
    ExactDesign,
    GreedyDesign,
    ResourcesSection,
    SampledDesign,
    SearchFile,
    SizedDesign,
    StopSection,
    SurrogateDesign,
)
from tim_search.gates import reading, yaml
from tim_search.ledger import storage
from tim_search.tuning.space import TuningSection
from tim_search.types import BadInput, Finding


def load(path: str | Path, *, allow_code: bool = False) -> SearchFile:
    """Read a search file; raises BadInput with everything that is wrong in it.

    Only with `allow_code` may it name a network of one's own, whose module is then imported.
    """
    search, findings = read(path, allow_code=allow_code)
    if search is None:
        raise BadInput(refusal(path, findings))
    return search


def read(path: str | Path, *, allow_code: bool = False) -> tuple[SearchFile | None, list[Finding]]:
    """Read a search file without raising: the file (None when it cannot be used) and all findings."""
    path = Path(path)
    try:
        raw, lines = yaml.read(path)
    except UnicodeDecodeError:
        return None, [Finding(str(path), "expected UTF-8 text, got other bytes.", "Name a YAML file.")]
    except IsADirectoryError:
        return None, [Finding(str(path), "expected a search file (YAML), got a folder.", _about_folder(path))]
    except OSError as error:
        return None, [Finding(str(path), f"cannot be read: {error.strerror}.", "Name a search file.")]
    except BadInput as error:  # no regular file, or a very large one
        return None, [Finding(str(path), str(error).removeprefix(f"{path}: "), "")]
    except yaml.NotYaml as error:
        return None, [Finding(str(path), f"is not valid YAML: {error}.", "Mend that line.")]
    if not isinstance(raw, dict):
        given = "an empty file" if raw is None else reading.short(raw)
        fix = "A search file needs at least the line `cohort: support2`."
        if path.suffix in (".csv", ".parquet"):
            fix = f"A table becomes a cohort first: tim-search cohort init {path}"
        return None, [Finding(str(path), f"expected a mapping of settings, got {given}.", fix)]
    search, findings = _checked(raw, lines, allow_code)
    if search is None or findings:
        return None, findings
    search = absolute(search, path.resolve().parent)
    return (search if "name" in raw else _named_after(search, path)), []


def made(raw: Mapping[str, Any], place: str, *, allow_code: bool = False) -> SearchFile:
    """The search that these settings are, as a search file would have them; relative paths stay as they are.

    Raises BadInput with everything that is wrong in them, under the name `place`.
    """
    search, findings = _checked(raw, {}, allow_code)
    if search is None or findings:
        raise BadInput(refusal(place, findings))
    return search


def _checked(raw: Mapping[str, Any], lines: yaml.Lines, allow_code: bool) -> tuple[SearchFile | None, list[Finding]]:
    """The search of these settings, None where they are none, and everything that is wrong with them."""
    search, findings = None, []
    try:
        search = SearchFile.model_validate(raw)
    except ValidationError as error:
        inner = {"resources": ResourcesSection, "greedy": GreedyDesign, "sampled": SampledDesign, "stop": StopSection}
        inner |= {"surrogate": SurrogateDesign, "tuning": TuningSection, "tasks": AllBut}
        findings = reading.findings(error, SearchFile, lines, inner)
    if isinstance(training := raw.get("training", {}), dict):
        named = raw.get("network", SearchFile.model_fields["network"].get_default(call_default_factory=True))
        findings += network.settings(named, training, lines, allow_code)[1]
    if search is not None and not findings:
        findings = network.tuned_values(search, lines)[1]
    return search, findings


def _about_folder(path: Path) -> str:
    """What to name instead of a folder."""
    if (path / "search.yaml").is_file():
        return f"It holds a search; to go on with it: tim-search run {path / 'search.yaml'} --out {path}"
    if (path / "cohort.yaml").is_file():
        return f"It holds a cohort: write the line `cohort: {path}` into a file, and name that file."
    return "Name a search file; it needs at least the line `cohort: support2`."


def dump(search: SearchFile) -> str:
    """The search file as YAML with every setting spelled out; `load` reads it back to an equal value."""
    plain = search.model_dump(mode="json", exclude_none=True)
    match search.design:
        case ExactDesign():
            plain["design"] = "exact"
        case SizedDesign(k=k):
            plain["design"] = {"sized": k}
        case SampledDesign() | GreedyDesign() | SurrogateDesign():
            kind = plain["design"].pop("kind")
            plain["design"] = {kind: plain["design"]}
    return yaml.dump(plain)


def absolute(search: SearchFile, base: Path) -> SearchFile:
    """The same search with every path absolute; relative ones are taken from the folder `base`."""
    from model.sources.opening import BUILT_IN

    update: dict[str, Any] = {
        key: storage.below(base, value) for key in ("out", "ledger") if (value := getattr(search, key))
    }
    if search.cohort not in BUILT_IN:
        update["cohort"] = str((base / search.cohort).resolve())
    return search.model_copy(update=update)


def _named_after(search: SearchFile, path: Path) -> SearchFile:
    """The same search under the name of its file."""
    stem = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in path.stem)
    return search.model_copy(update={"name": stem.strip("-") or "search"})


def refusal(source: str | Path, findings: Sequence[Finding]) -> str:
    """The words for everything that is wrong with a search file."""
    if len(findings) == 1 and findings[0].place == str(source):
        return str(findings[0])
    return "\n".join([f"{source} cannot be used:", *(f"  {finding}" for finding in findings)])
