"""The second built-in cohort: diabetes-130, 101,766 hospital stays of 71,518 patients, prepared from its raw table.

Two clocks. What is done in a stay (`care`, `medication`) is complete only at its end: it may predict what comes after
the stay, and every task of the stay itself excludes it. What an outcome is made from is never an input. `COLUMNS` says
for every raw column what became of it and why; docs/cohorts.md prints that table. Origin, citation and licence are in
files/diabetes130/PROVENANCE.md. `python -m model.sources.diabetes130 ZIP OUT` repeats the shipped table from the public
archive.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.cohorts.cohort import Cohort, make_cohort
from model.sources.raw_columns import Column, modalities_of
from tim_search.gates.files import open_regular, replacing
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, Task

NAME = "diabetes130"

#: SHA-256 of diabetic_data.csv as the UCI Machine Learning Repository distributes it.
CSV_SHA256 = "0689e7ec031237dc63031b938805c48377748761a3b26acab621567afa24df97"

_GROUPS = (
    "circulatory", "respiratory", "digestive", "diabetes", "injury", "musculoskeletal", "genitourinary", "neoplasms",
)  # fmt: skip
#: ICD-9 chapters, last code first number by number; symptoms of an organ (785 to 788) count as that organ's.
_CHAPTERS: tuple[tuple[int, str], ...] = (
    (139, "infections"), (239, "neoplasms"), (249, "endocrine"), (250, "diabetes"), (279, "endocrine"), (289, "blood"),
    (319, "mental"), (389, "nervous"), (459, "circulatory"), (519, "respiratory"), (579, "digestive"),
    (629, "genitourinary"), (679, "pregnancy"), (709, "skin"), (739, "musculoskeletal"), (779, "congenital"),
    (784, "symptoms"), (785, "circulatory"), (786, "respiratory"), (787, "digestive"), (788, "genitourinary"),
    (799, "symptoms"), (999, "injury"),
)  # fmt: skip
_DIAGNOSES = tuple(dict.fromkeys([*_GROUPS, *(name for _, name in _CHAPTERS), "external cause", "supplementary"]))

_AGES = tuple(f"[{age}-{age + 10})" for age in range(0, 100, 10))
_TYPES = {1: "emergency", 2: "urgent", 3: "elective", 4: "other", 7: "other"}
_SOURCES = {
    **dict.fromkeys((1, 2, 3), "referral"),
    **dict.fromkeys((4, 10, 22, 25), "another hospital"),
    5: "nursing facility",
    **dict.fromkeys((6, 18, 19, 26), "another facility"),
    7: "emergency room",
    **dict.fromkeys((8, 11, 12, 13, 14, 23, 24), "other"),
}
#: Levels of 500 stays and more; the rarer ones are "other".
_PAYERS = ("BC", "CM", "CP", "DM", "HM", "MC", "MD", "OG", "PO", "SP", "UN", "other")
_SPECIALTIES = (
    "Cardiology", "Emergency/Trauma", "Family/GeneralPractice", "Gastroenterology", "InternalMedicine", "Nephrology",
    "ObstetricsandGynecology", "Orthopedics", "Orthopedics-Reconstructive", "Psychiatry", "Pulmonology", "Radiologist",
    "Surgery-Cardiovascular/Thoracic", "Surgery-General", "Surgery-Vascular", "Urology", "other",
)  # fmt: skip
_DEAD, _HOSPICE = (11, 19, 20, 21), (13, 14)
_FACILITY = (2, 3, 4, 5, 15, 22, 23, 24, 27, 28, 29, 30)

#: Tablets given in 100 stays or more, and in fewer.
_TABLETS = (
    "metformin", "repaglinide", "nateglinide", "glimepiride", "glipizide", "glyburide", "pioglitazone",
    "rosiglitazone", "acarbose", "glyburide-metformin",
)  # fmt: skip
_RARE_TABLETS = (
    "chlorpropamide", "acetohexamide", "tolbutamide", "miglitol", "troglitazone", "tolazamide", "examide",
    "citoglipton", "glipizide-metformin", "glimepiride-pioglitazone", "metformin-rosiglitazone",
    "metformin-pioglitazone",
)  # fmt: skip
_GIVEN = "given in the stay or not; whether its dose changed is left out"

#: Every column of the raw table.
COLUMNS: Mapping[str, Column] = {
    "encounter_id": Column("id", why="one row a stay"),
    "patient_nbr": Column("id", why="the patient: the stays of one are on one side of the split"),
    "race": Column(
        "input", "demographics", "known at admission", ("AfricanAmerican", "Asian", "Caucasian", "Hispanic", "Other")
    ),
    "gender": Column("input", "demographics", "known at admission", ("Female", "Male")),
    "age": Column("input", "demographics", "known at admission; a decade, taken as its middle"),
    "admission_type_id": Column(
        "input", "admission", "known at admission", ("emergency", "urgent", "elective", "other")
    ),
    "admission_source_id": Column(
        "input",
        "admission",
        "where the patient came from, in six groups",
        ("referral", "emergency room", "another hospital", "nursing facility", "another facility", "other"),
    ),
    "payer_code": Column("input", "admission", "known at admission; 40 % are missing", _PAYERS),
    "medical_specialty": Column("input", "admission", "of the admitting physician; 49 % are missing", _SPECIALTIES),
    "number_outpatient": Column("input", "history", "visits in the year before the stay"),
    "number_emergency": Column("input", "history", "emergency visits in the year before"),
    "number_inpatient": Column("input", "history", "hospital stays in the year before"),
    "diag_1": Column("input", "diagnoses", "primary diagnosis as an ICD-9 chapter; also diagnosis_group", _DIAGNOSES),
    "diag_2": Column("input", "diagnoses", "second diagnosis, as an ICD-9 chapter", _DIAGNOSES),
    "diag_3": Column("input", "diagnoses", "third diagnosis, as an ICD-9 chapter", _DIAGNOSES),
    "number_diagnoses": Column("input", "diagnoses", "number of diagnoses coded"),
    "num_lab_procedures": Column("input", "care", "laboratory tests in the stay"),
    "num_procedures": Column("input", "care", "other procedures in the stay"),
    "max_glu_serum": Column(
        "input", "care", "glucose in serum; None: not measured, a level of its own", ("None", "Norm", ">200", ">300")
    ),
    **{name: Column("input", "medication", _GIVEN) for name in _TABLETS},
    "insulin": Column("target", why="insulin_changed, regimen; whether it was given is the input `on_insulin`"),
    **{name: Column("unused", why="given in fewer than 100 stays; goes into regimen") for name in _RARE_TABLETS},
    "time_in_hospital": Column("target", why="days: los_log"),
    "num_medications": Column("target", why="different drugs in the stay: medications_log"),
    "A1Cresult": Column("target", why="a1c_tested; where it was measured a1c_over_8"),
    "discharge_disposition_id": Column("target", why="died_or_hospice, discharge_to, and who can be readmitted"),
    "readmitted": Column("target", why="readmit_30d, readmit_any"),
    "change": Column(
        "unused", why="whether any diabetes drug changed: the answer to insulin_changed where insulin did"
    ),
    "diabetesMed": Column("unused", why="whether any diabetes drug was given: computed from the columns of drugs"),
    "weight": Column("unused", why="97 % are missing"),
}

#: Inputs made here from a raw column that enters in no other way.
MADE: Mapping[str, Column] = {"on_insulin": Column("input", "medication", "insulin was given in the stay")}

#: What a stay brings with it, complete only at its end.
_OF_THE_STAY = ("care.*", "medication.*")

TASKS: tuple[Task, ...] = (
    Task("readmit_30d", "binary", department="Hospital administration"),
    Task("readmit_any", "binary", department="Hospital administration"),
    Task("died_or_hospice", "binary", department="Palliative care", excludes=_OF_THE_STAY),
    Task("discharge_to", "multiclass", 3, department="Rehabilitation", excludes=_OF_THE_STAY),
    Task("los_log", "regression", department="Hospital administration", excludes=_OF_THE_STAY),
    Task("medications_log", "regression", department="Pharmacy", excludes=_OF_THE_STAY),
    Task("a1c_tested", "binary", department="Endocrinology", excludes=_OF_THE_STAY),
    Task("a1c_over_8", "binary", department="Endocrinology", excludes=_OF_THE_STAY),
    Task("insulin_changed", "binary", department="Endocrinology", excludes=_OF_THE_STAY),
    Task("regimen", "multiclass", 4, department="Endocrinology", excludes=_OF_THE_STAY),
    Task(
        "diagnosis_group", "multiclass", 9, department="Internal medicine", excludes=(*_OF_THE_STAY, "diagnoses.*")
    ),
)  # fmt: skip

CLASSES: Mapping[str, tuple[str, ...]] = {
    "discharge_to": ("home", "home with health care", "another facility"),
    "regimen": ("no diabetes drug", "tablets", "insulin", "insulin and tablets"),
    "diagnosis_group": (*_GROUPS, "other"),
}

#: A readmission within 30 days is a readmission.
OVERLAPS: tuple[tuple[str, str], ...] = (("readmit_30d", "readmit_any"),)


def raw() -> pd.DataFrame:
    """The table as it is shipped: 101,766 rows, one a stay, 50 columns, "?" where a value is missing."""
    with (files("model") / "sources" / "files" / NAME / f"{NAME}.parquet").open("rb") as stream:
        return pd.read_parquet(stream)


@lru_cache(maxsize=1)
def load() -> Cohort:
    """The prepared cohort: 6 modalities, 11 tasks of three kinds, a stored split of the patients (seed 0).

    `info["counts"]` tells how many stays and patients there are, and how many stays carry each task's label.
    """
    table = raw()
    labels = _labels(table)
    counts = {"raw table": len(table), "patients": table["patient_nbr"].nunique()}
    counts |= {f"labelled for {name}": int((~np.isnan(label)).sum()) for name, label in labels.items()}
    inputs = {name: column for name, column in COLUMNS.items() if column.role == "input"} | dict(MADE)
    ended = np.where(labels["died_or_hospice"] == 1, "died or hospice", table["readmitted"].to_numpy(object))
    return make_cohort(
        NAME,
        table["encounter_id"].to_numpy(),
        table["patient_nbr"].to_numpy(),
        modalities_of(_inputs(table), inputs),
        TASKS,
        labels,
        classes=CLASSES,
        strata=ended.tolist(),
        overlaps=OVERLAPS,
        info={
            "description": "Hospital stays of patients with diabetes, 130 US hospitals, 1999-2008",
            "citation": "Strack et al., BioMed Research International 2014, article 781670",
            "licence": "CC BY 4.0 as listed by the UCI Machine Learning Repository, data set 296",
            "counts": counts,
        },
    )


def _inputs(table: pd.DataFrame) -> pd.DataFrame:
    """The raw table with its inputs as numbers and listed levels; None where a value is missing."""
    inputs = table.assign(
        age=table["age"].map({decade: 10.0 * place + 5 for place, decade in enumerate(_AGES)}),
        gender=table["gender"].replace("Unknown/Invalid", "?"),
        admission_type_id=table["admission_type_id"].map(_TYPES),
        admission_source_id=table["admission_source_id"].map(_SOURCES),
        payer_code=_rarer_as_other(table["payer_code"], _PAYERS),
        medical_specialty=_rarer_as_other(table["medical_specialty"], _SPECIALTIES),
        on_insulin=_given(table["insulin"]),
        **{name: _chapters(table[name]) for name in ("diag_1", "diag_2", "diag_3")},
        **{name: _given(table[name]) for name in _TABLETS},
    )
    return inputs.replace("?", None)


def _rarer_as_other(column: pd.Series[str], levels: tuple[str, ...]) -> pd.Series[str]:
    return column.where(column.isin([*levels, "?"]), "other")


def _given(column: pd.Series[str]) -> pd.Series[float]:
    return (column != "No").astype(float)


def _chapters(codes: pd.Series[str]) -> pd.Series[str]:
    return codes.map({code: _chapter(code) for code in codes.unique()})


def _chapter(code: str) -> str:
    """The ICD-9 chapter of a code, such as "diabetes" of 250.83; "?" stays."""
    if code[0] in "EV?":
        return {"E": "external cause", "V": "supplementary", "?": "?"}[code[0]]
    return next(name for last, name in _CHAPTERS if int(code.partition(".")[0]) <= last)


def _labels(table: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """float64 (n,) labels of each task; NaN = no label."""
    place = table["discharge_disposition_id"]
    ended = place.isin([*_DEAD, *_HOSPICE])
    known_end = ~place.isin([18, 25, 26])  # not recorded
    # Who died cannot come back, and who went to a hospice is not meant to: no label, not "no".
    back = table["readmitted"].where(~ended)
    goes_to = pd.Series(np.nan, table.index)
    for code, places in enumerate(((1, 8), (6,), _FACILITY)):  # 8: home with a provider of infusions
        goes_to[place.isin(places)] = code
    insulin = table["insulin"]
    tablets = (table[[*_TABLETS, *_RARE_TABLETS]] != "No").any(axis=1)
    a1c = table["A1Cresult"]
    group = _chapters(table["diag_1"]).replace("?", None)
    group_code = {name: float(_GROUPS.index(name) if name in _GROUPS else len(_GROUPS)) for name in _DIAGNOSES}
    labels: dict[str, Any] = {
        "readmit_30d": (back == "<30").where(back.notna()),
        "readmit_any": (back != "NO").where(back.notna()),
        "died_or_hospice": ended.where(known_end),
        "discharge_to": goes_to,
        "los_log": np.log(table["time_in_hospital"]),
        "medications_log": np.log(table["num_medications"]),
        "a1c_tested": a1c != "None",
        "a1c_over_8": (a1c == ">8").where(a1c != "None"),
        "insulin_changed": insulin.isin(["Up", "Down"]).where(insulin != "No"),
        "regimen": tablets + 2 * (insulin != "No"),
        "diagnosis_group": group.map(group_code),
    }
    return {name: np.asarray(label, np.float64) for name, label in labels.items()}


def raw_of(csv: Any) -> pd.DataFrame:
    """The raw table of diabetic_data.csv, open for reading: no value changed, stays in the order of their ids."""
    table = pd.read_csv(csv, dtype=str, keep_default_na=False)
    for name in map(str, table):
        # A diagnosis is a code, also where all that is seen of it are digits.
        if not name.startswith("diag_") and table[name].str.fullmatch(r"\d+").all():
            table[name] = table[name].astype(np.int32)
    return table.sort_values("encounter_id", ignore_index=True)


def write_raw(archive: str | Path, out: str | Path) -> None:
    """Write the table that is shipped from the public archive, dataset_diabetes.zip.

    Raises:
        BadInput: the archive does not hold diabetic_data.csv as the repository distributes it.
    """
    with open_regular(archive) as stream, zipfile.ZipFile(stream) as members:
        names = [name for name in members.namelist() if name.endswith("diabetic_data.csv")]
        content = members.read(names[0]) if names else b""
    given = hashlib.sha256(content).hexdigest()
    if given != CSV_SHA256:
        raise BadInput(
            f"{archive}: expected diabetic_data.csv with SHA-256 {CSV_SHA256}, "
            f"{'got ' + given if names else 'found no such file'}. "
            "Take dataset_diabetes.zip of the UCI Machine Learning Repository, data set 296."
        )
    table = raw_of(io.BytesIO(content))
    ids = ["encounter_id", "patient_nbr"]
    with replacing(out) as aside:
        table.to_parquet(
            aside,
            index=False,
            compression="zstd",
            compression_level=22,
            use_dictionary=[name for name in table if name not in ids],
            column_encoding=dict.fromkeys(ids, "DELTA_BINARY_PACKED"),
        )


def _command(arguments: Sequence[str] | None = None) -> None:
    """Write the table that is shipped; ends the process with exit code 2 where it cannot."""
    parser = argparse.ArgumentParser("python -m model.sources.diabetes130", description=_command.__doc__)
    parser.add_argument("archive", help="the public archive, dataset_diabetes.zip")
    parser.add_argument("out", help="where the table goes, OUT.parquet")
    given = parser.parse_args(arguments)
    try:
        write_raw(given.archive, given.out)
    except (BadInput, OSError, zipfile.BadZipFile) as error:
        parser.error(for_terminal(str(error)))


if __name__ == "__main__":
    _command()
