"""The files HAIM-MIMIC-MM is made from, opened and checked: embedding table, key file, tables of MIMIC-IV."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from tim_search.types import BadInput

#: Told now and then: what is being done, rows done, rows in all (None where not known yet).
Tell: TypeAlias = Callable[[str, int, int | None], None]

KEYS = "haim_mimiciv_key_ids.csv"


@dataclass(frozen=True)
class Source:
    """One of the 11 sources of the embedding table: columns PREFIX_0 ... PREFIX_(width-1) of one of 4 modalities."""

    prefix: str
    width: int
    modality: str
    content: str


SOURCES: tuple[Source, ...] = (
    Source("de", 6, "tabular", "age, gender, ethnicity, marital status, language, insurance"),
    Source("ts_ce", 99, "time_series", "chart events: 9 signals x 11 statistics"),
    Source("ts_le", 242, "time_series", "laboratory events: 22 signals x 11 statistics"),
    Source("ts_pe", 110, "time_series", "procedure events: 10 signals x 11 statistics"),
    Source("vd", 1024, "vision", "dense features of the image"),
    Source("vp", 18, "vision", "findings predicted from the image"),
    Source("vmd", 1024, "vision", "dense features of the images so far"),
    Source("vmp", 18, "vision", "findings predicted from the images so far"),
    Source("n_ecg", 768, "language", "electrocardiogram notes"),
    Source("n_ech", 768, "language", "echocardiogram notes"),
    Source("n_rad", 768, "language", "radiology notes"),
)

#: The 8 thoracic pathologies of the M3H paper, section 4.2: a class each, where it alone is positive.
PATHOLOGIES = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Lung Opacity",
    "Pneumonia",
    "Pneumothorax",
)

_OUTCOMES = ("img_length_of_stay", "death_status", *PATHOLOGIES)

_BLOCK = 1 << 24  # bytes of text a piece; a row takes about 60,000
#: The key file must give rows the discharge location of their admission; recording errors are far fewer than this.
_AGREEMENT = 0.95


def header(embeddings: Path) -> list[str]:
    """Column names of the embedding table."""
    if not embeddings.is_file():
        raise BadInput(
            f"{embeddings}: expected HAIM's embedding table (cxr_ic_fusion_1103.csv of PhysioNet's haim-multimodal), "
            "there is no such file. Name its path with --embeddings."
        )
    try:
        return list(_csv(embeddings, None).schema.names)
    except pa.ArrowInvalid as error:
        raise BadInput(f"{embeddings}: cannot be read as CSV: {error}. Download it again.") from error


def _csv(path: Path, columns: Mapping[str, pa.DataType] | None) -> pacsv.CSVStreamingReader:
    """The table in pieces, with these columns only."""
    convert = pacsv.ConvertOptions()
    if columns is not None:
        convert = pacsv.ConvertOptions(
            include_columns=list(columns), column_types=dict(columns), strings_can_be_null=True
        )
    return pacsv.open_csv(path, read_options=pacsv.ReadOptions(block_size=_BLOCK), convert_options=convert)


def pieces(path: Path, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
    """Pieces of the table; BadInput where a value or a row cannot be read."""
    try:
        yield from _csv(path, columns)
    except pa.ArrowInvalid as error:
        first = str(error).splitlines()[0]
        raise BadInput(f"{path}: a row cannot be read: {first} Download it again, or mend that row.") from error


@contextmanager
def readable(path: Path, columns: str) -> Iterator[None]:
    """Whatever fails while a CSV file is read becomes BadInput."""
    try:
        yield
    except (ValueError, OSError, EOFError, zlib.error) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{path}: expected a CSV file with the columns {columns}: {first}. Download it again."
        ) from error


def sources_of(embeddings: Path, header: Sequence[str]) -> tuple[Source, ...]:
    """The sources the table has, each with all of its columns."""
    names = set(header)
    lacking = [name for name in ("haim_id", "img_id", *_OUTCOMES) if name not in names]
    problems = [f"lacks the columns {', '.join(lacking)}"] if lacking else []
    complete = []
    for source in SOURCES:
        there = sum(name in names for name in columns_of(source))
        if there == source.width:
            complete.append(source)
        elif there:
            problems.append(f"has {there} of the {source.width} columns {source.prefix}_0, {source.prefix}_1, ...")
        if f"{source.prefix}_{source.width}" in names:
            problems.append(f"has a column {source.prefix}_{source.width}, one more than HAIM's {source.width}")
    if not complete and not problems:
        problems = ["has none of HAIM's 11 sources (de_0, vd_0, n_ecg_0, ...)"]
    if problems:
        raise BadInput(
            f"{embeddings}: expected HAIM's embedding table; it " + "; it ".join(problems) + ". Use the table of "
            "haim-multimodal 1.0.1. For another table, `tim-search cohort init` describes a cohort of your own."
        )
    return tuple(complete)


def columns_of(source: Source) -> list[str]:
    """Names of the columns of a source."""
    return [f"{source.prefix}_{index}" for index in range(source.width)]


def key_file_of(embeddings: Path, keys: Path | None, mimic: Path | None) -> Path:
    """The key file: as named, else beside the embeddings or in the MIMIC-IV folder; raises BadInput."""
    places = [keys] if keys else [folder / KEYS for folder in (embeddings.parent, mimic) if folder is not None]
    for place in places:
        if place.is_file():
            return place
    looked = " and ".join(str(place) for place in places)
    raise BadInput(
        f"keys: expected HAIM's key file, looked for {looked}. A haim_id is a stay, and a patient may have several: "
        "without the key file a patient could be on both sides of the split. It is in the haim-multimodal release; "
        "name it with --keys."
    )


def mimic_file(mimic: Path, name: str) -> Path | None:
    """A table of MIMIC-IV, in whichever version's folder and compressed or not."""
    for folder in ("hosp", "core", "."):
        for ending in (".csv.gz", ".csv"):
            path = mimic / folder / f"{name}{ending}"
            if path.is_file():
                return path
    return None


def file_sizes(embeddings: Path, key_file: Path, mimic: Path | None) -> dict[str, int]:
    """Bytes of each file that is read."""
    paths = [embeddings, key_file]
    paths += [p for name in ("diagnoses_icd", "admissions") if mimic and (p := mimic_file(mimic, name))]
    return {path.name: path.stat().st_size for path in paths}


def read_rows(embeddings: Path, key_file: Path, tell: Tell) -> tuple[pd.DataFrame, list[dict[str, Any]], str]:
    """Every row of the table without its features, with its keys and whether it is kept; and what each filter left."""
    kinds: dict[str, pa.DataType] = dict.fromkeys(("haim_id", *_OUTCOMES), pa.float64()) | {"img_id": pa.string()}
    kinds |= {"discharge_location": pa.string()} if "discharge_location" in header(embeddings) else {}
    parts = []
    done = 0
    for batch in pieces(embeddings, kinds):
        parts.append(batch.to_pandas())
        done += batch.num_rows
        tell("reading ids and outcomes", done, None)
    if not done:
        raise BadInput(f"{embeddings}: expected rows, it has none. Download it again.")
    table = pd.concat(parts, ignore_index=True)
    if table["haim_id"].isna().any() or table["img_id"].isna().any():
        raise BadInput(f"{embeddings}: some rows have no haim_id or no img_id. Download it again.")
    keys, note = _keys(key_file, int(table["haim_id"].max()))
    table = table.merge(keys, how="left", on="haim_id", validate="many_to_one")
    steps = [step("rows of the embedding table", table)]
    with_patient = table["subject_id"].notna()
    steps.append(step("with a patient in the key file", table[with_patient]))
    # An image belongs to every ICU stay of its admission, and HAIM has a row for each: one of them is enough.
    repeated = table[with_patient]["img_id"].duplicated()
    chosen = with_patient & ~table.index.isin(repeated.index[repeated])
    steps.append(step("one row an image (it comes again with each ICU stay of an admission)", table[chosen]))
    if not chosen.any():
        raise BadInput(
            f"{key_file}: expected the stays of {embeddings.name}, but no haim_id of the table is in it. Use the key "
            "file of the same HAIM release."
        )
    return table.assign(kept=chosen), steps, note


def _keys(key_file: Path, largest: int) -> tuple[pd.DataFrame, str]:
    """haim_id, subject_id, hadm_id (float64) of the key file, and how a row's haim_id was found."""
    with readable(key_file, "subject_id, hadm_id and stay_id"):
        keys = pd.read_csv(key_file)
    keys.columns = [str(name).strip().lower() for name in keys.columns]
    lacking = {"subject_id", "hadm_id"} - set(keys.columns)
    if lacking:
        raise BadInput(
            f"{key_file}: expected the columns subject_id, hadm_id, stay_id; it lacks {', '.join(sorted(lacking))}. "
            f"Use HAIM's {KEYS}."
        )
    named = next((name for name in ("haim_id", "haim_id_pickle") if name in keys), None)
    if named:
        keys["haim_id"] = keys[named]
        note = f"haim_id is the column {named} of the key file"
    else:
        # HAIM numbers its patient files by the row of this table.
        keys["haim_id"] = np.arange(len(keys))
        note = "haim_id is the row number of the key file, from 0"
        if largest >= len(keys):
            raise BadInput(
                f"{key_file}: its {len(keys)} rows are numbered 0 to {len(keys) - 1}, but the embeddings have the "
                f"haim_id {largest}. Use the key file of the same HAIM release."
            )
    keys = keys[["haim_id", "subject_id", "hadm_id"]].apply(pd.to_numeric, errors="coerce").astype(np.float64).dropna()
    twice = keys.drop_duplicates()["haim_id"].duplicated()
    if twice.any():
        raise BadInput(f"{key_file}: {int(twice.sum())} haim_ids stand for two stays. Use HAIM's {KEYS}.")
    return keys.drop_duplicates("haim_id"), note


def admissions_fit(frame: pd.DataFrame, mimic: Path | None, key_file: Path) -> str:
    """Whether the keys lead to the right admissions; raises BadInput where they clearly do not."""
    path = mimic_file(mimic, "admissions") if mimic else None
    if path is None or "discharge_location" not in frame:
        return "not compared: no admissions table"
    with readable(path, "hadm_id and discharge_location"):
        admissions = pd.read_csv(path, usecols=["hadm_id", "discharge_location"]).drop_duplicates("hadm_id")
    joined = frame[["hadm_id", "discharge_location"]].merge(admissions, on="hadm_id", suffixes=("", "_mimic"))
    both = joined.dropna()
    same = float((both["discharge_location"] == both["discharge_location_mimic"]).mean()) if len(both) else 0.0
    if not len(both) or same < _AGREEMENT:
        share = f"only {same:.0%} have that of their admission" if len(both) else "no row's admission is there"
        raise BadInput(
            f"{key_file}: the keys do not lead to the right admissions of {path}: of {len(frame)} rows with a "
            f"discharge location {share}. Use the key file of the same HAIM release and the MIMIC-IV it was made from."
        )
    return f"{same:.1%} of {len(both)} rows have the discharge location of their admission"


def step(what: str, rows: pd.DataFrame) -> dict[str, Any]:
    """What a filter left: rows, and whose they are."""
    return {"what": what, "rows": len(rows), **people(rows)}


def people(rows: pd.DataFrame) -> dict[str, int]:
    """How many stays, admissions and patients some rows are of."""
    return {
        "haim_ids": int(rows["haim_id"].nunique()),
        "admissions": int(rows["hadm_id"].nunique()),
        "patients": int(rows["subject_id"].nunique()),
    }
