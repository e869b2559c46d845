"""The embedded cohort: SUPPORT2, 9,105 seriously ill hospitalised adults, prepared from its raw table.

The moment of prediction is study day 3. Whoever was discharged or dead by then has no prediction to make and leaves
the cohort; a column is an input only if it was known by then. `COLUMNS` says for every raw column what became of it
and why; docs/cohorts.md prints that table. Origin, citation and licence are in files/support2/PROVENANCE.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.cohorts.cohort import Cohort, Modality, make_cohort
from model.sources.raw_columns import Column, modalities_of
from tim_search.types import Task

NAME = "support2"

#: Predictions are made at the end of this study day.
PREDICTION_DAY = 3

_DISEASES = (
    "ARF/MOSF w/Sepsis", "CHF", "COPD", "Cirrhosis", "Colon Cancer", "Coma", "Lung Cancer", "MOSF w/Malig",
)  # fmt: skip
_DAY3 = "measured on study day 3"

#: Every column of the raw table.
COLUMNS: Mapping[str, Column] = {
    "patient_id": Column("id", why="one row a patient"),
    "age": Column("input", "demographics", "known at entry"),
    "sex": Column("input", "demographics", "known at entry", ("female", "male")),
    "race": Column("input", "demographics", "known at entry", ("asian", "black", "hispanic", "other", "white")),
    "edu": Column("input", "demographics", "years of education, by interview; whether answered predicts nothing"),
    "income": Column(
        "input",
        "demographics",
        "by interview; whether answered predicts nothing",
        ("under $11k", "$11-$25k", "$25-$50k", ">$50k"),
    ),
    "meanbp": Column("input", "physiology", f"mean arterial pressure, {_DAY3}"),
    "hrt": Column("input", "physiology", f"heart rate, {_DAY3}"),
    "resp": Column("input", "physiology", f"respiration rate, {_DAY3}"),
    "temp": Column("input", "physiology", f"temperature, {_DAY3}"),
    "scoma": Column("input", "physiology", f"coma score from the Glasgow scale, {_DAY3}"),
    "pafi": Column("input", "physiology", f"PaO2 / FiO2, {_DAY3}"),
    "ph": Column("input", "physiology", f"arterial pH, {_DAY3}"),
    "wblc": Column("input", "physiology", f"white blood cells, {_DAY3}"),
    "alb": Column("input", "physiology", f"albumin, {_DAY3}"),
    "bili": Column("input", "physiology", f"bilirubin, {_DAY3}"),
    "crea": Column("input", "physiology", f"creatinine, {_DAY3}"),
    "sod": Column("input", "physiology", f"sodium, {_DAY3}"),
    "glucose": Column("input", "physiology", f"glucose, {_DAY3}"),
    "bun": Column("input", "physiology", f"blood urea nitrogen, {_DAY3}"),
    "urine": Column("input", "physiology", f"urine output, {_DAY3}"),
    "dzgroup": Column("input", "history", "disease that qualified for the study, known at entry", _DISEASES),
    "ca": Column("input", "history", "cancer, known at entry", ("no", "yes", "metastatic")),
    "num_co": Column("input", "history", "number of comorbidities, known at entry"),
    "diabetes": Column("input", "history", "known at entry"),
    "dementia": Column("input", "history", "known at entry"),
    "hday": Column("input", "history", "day of the hospital stay on which the patient entered the study"),
    "adls": Column(
        "input", "history", "limitations in daily living, asked of a surrogate about day 3; goes into `adl`, see below"
    ),
    "adlp": Column("input", "history", "the same asked of the patient; goes into `adl` where no surrogate answered"),
    "prg2m": Column("input", "prognosis", "a physician's estimate of 2-month survival, about day 3"),
    "prg6m": Column("input", "prognosis", "a physician's estimate of 6-month survival, about day 3"),
    "hospdead": Column("target", why="death in hospital: hospdead, surv_group"),
    "death": Column("target", why="death at any time: with d_time dead_60d, dead_180d, surv_group"),
    "d_time": Column("target", why="days of follow-up, 344 or more for all who lived"),
    "slos": Column("target", why="days from study entry to discharge: slos_log, and who leaves by day 3"),
    "dnr": Column("target", why="dnr_later"),
    "dnrday": Column("target", why="day of the order (of discharge, without one): dnr_later"),
    "sfdm2": Column("target", why="function after 2 months: disability; its death class is not a class"),
    "dzclass": Column("target", why="dzclass; dzgroup is its finer form"),
    "charges": Column("target", why="hospital charges: charges_log"),
    "totcst": Column("target", why="hospital costs: totcst_log; zero means not known"),
    "avtisst": Column("target", why="mean intensity of care (TISS) over days 3 to 25: avtisst"),
    "totmcst": Column("unused", why="micro-costs, an outcome; a third are missing and some are negative"),
    "adlsc": Column("unused", why="limitations imputed by a model from other columns"),
    "aps": Column("unused", why="APACHE III score, computed from the inputs with weights fitted to mortality"),
    "sps": Column("unused", why="SUPPORT physiology score, computed by a model of the outcome"),
    "surv2m": Column("unused", why="survival predicted by the SUPPORT model, which was fitted on these patients"),
    "surv6m": Column("unused", why="as surv2m"),
}

#: Inputs made here from raw columns of the same modality, and the raw columns that go in by no other way.
MADE = {"adl": ("adls", "adlp")}

_DEATH = ("hospdead", "dead_60d", "dead_180d", "surv_group")
_RESOURCES = ("slos_log", "charges_log", "totcst_log")

TASKS: tuple[Task, ...] = (
    Task("hospdead", "binary", department="Critical care"),
    Task("dead_60d", "binary", department="Palliative care"),
    Task("dead_180d", "binary", department="Palliative care"),
    Task("dnr_later", "binary", department="Palliative care"),
    Task("disability", "binary", department="Rehabilitation"),
    Task("surv_group", "multiclass", 3, department="Palliative care"),
    Task("dzclass", "multiclass", 4, department="Internal medicine", excludes=("dzgroup", "ca", "scoma")),
    Task("slos_log", "regression", department="Hospital administration"),
    Task("charges_log", "regression", department="Hospital administration"),
    Task("totcst_log", "regression", department="Hospital administration"),
    Task("avtisst", "regression", department="Critical care"),
    Task("phenotype", "clustering", 15, department="Internal medicine"),
)

CLASSES: Mapping[str, tuple[str, ...]] = {
    "surv_group": ("died in hospital", "died by day 180", "alive on day 180"),
    "dzclass": ("ARF/MOSF", "COPD/CHF/Cirrhosis", "Cancer", "Coma"),
}

#: Nested or near-identical targets: a gain between them is one outcome read twice.
OVERLAPS: tuple[tuple[str, str], ...] = tuple(
    (a, b) for group in (_DEATH, _RESOURCES) for a in group for b in group if a < b
)


def raw() -> pd.DataFrame:
    """The table as it is shipped: 9,105 rows, one a patient, 48 columns."""
    with (files("model") / "sources" / "files" / "support2" / "support2.parquet").open("rb") as stream:
        return pd.read_parquet(stream)


@lru_cache(maxsize=1)
def load() -> Cohort:
    """The prepared cohort: 4 modalities, 12 tasks of four kinds, a stored split (seed 0).

    `info["counts"]` tells how many patients are left after each filter, and how many carry each task's label.
    """
    table = raw()
    counts = {"raw table": len(table)}
    stayed = table[table["slos"] > PREDICTION_DAY]
    counts[f"still in hospital after study day {PREDICTION_DAY}"] = len(stayed)
    table = stayed[~((stayed["death"] == 1) & (stayed["d_time"] <= PREDICTION_DAY))]
    counts[f"alive after study day {PREDICTION_DAY}"] = len(table)
    table = table.reset_index(drop=True)
    labels = _labels(table)
    counts |= {f"labelled for {name}": int((~np.isnan(label)).sum()) for name, label in labels.items()}
    return make_cohort(
        NAME,
        table["patient_id"].to_numpy(),
        table["patient_id"].to_numpy(),
        _modalities(table),
        TASKS,
        labels,
        classes=CLASSES,
        # Fixed here, whatever tasks a search chooses: the commonest reasons for the hardest outcomes are spread evenly.
        strata=(table["dzgroup"] + ", " + table["hospdead"].map({0: "left alive", 1: "died"})).tolist(),
        overlaps=OVERLAPS,
        info=_info(counts),
    )


def _modalities(table: pd.DataFrame) -> list[Modality]:
    consumed = {source for sources in MADE.values() for source in sources}
    inputs = {name: c for name, c in COLUMNS.items() if c.role == "input" and name not in consumed}
    # A column that is made here comes last in its modality.
    inputs |= {name: Column("input", COLUMNS[sources[0]].modality) for name, sources in MADE.items()}
    return modalities_of(table.assign(adl=_limitations(table)), inputs)


def _limitations(table: pd.DataFrame) -> NDArray[np.float64]:
    """Limitations in daily living (0 to 7) as a surrogate told, else as the patient told, else 0.

    Who was interviewed was decided in the days around day 3: of those who died in hospital 92 % have no answer of
    their own, of the others 52 %, and surrogates of patients who left within days were often not reached. Whether an
    answer exists thus tells of the time after the prediction. So the two answers are one column, and no answer is
    written as the commonest answer, from which neither a value nor an indicator can tell it.
    """
    return table["adls"].fillna(table["adlp"]).fillna(0.0).to_numpy(np.float64)


def _labels(table: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """float64 (n,) labels of each task with labels; NaN = no label."""
    died = table["death"] == 1
    dead_60 = died & (table["d_time"] <= 60)
    dead_180 = died & (table["d_time"] <= 180)
    in_hospital = table["hospdead"] == 1

    # Only patients without an order by day 3 can get a later one; an order's absence is dated by the discharge.
    without = (table["dnr"] == "no dnr") | ((table["dnr"] == "dnr after sadm") & (table["dnrday"] > PREDICTION_DAY))
    later = (table["dnr"] == "dnr after sadm").astype(float).where(without)

    # "<2 mo. follow-up" is death within two months, not a state of function: those patients have no label.
    levels = {"no(M2 and SIP pres)": 0.0, "adl>=4 (>=5 if sur)": 1.0, "SIP>=30": 1.0, "Coma or Intub": 1.0}
    disability = table["sfdm2"].map(levels).where(~dead_60).astype(float)

    group = pd.Series(np.where(in_hospital, 0.0, np.where(dead_180, 1.0, 2.0)))
    disease = table["dzclass"].map({level: float(code) for code, level in enumerate(CLASSES["dzclass"])})

    labels: dict[str, Any] = {
        "hospdead": in_hospital.astype(float),
        "dead_60d": dead_60.astype(float),
        "dead_180d": dead_180.astype(float),
        "dnr_later": later,
        "disability": disability,
        "surv_group": group,
        "dzclass": disease,
        "slos_log": _log(table["slos"]),
        "charges_log": _log(table["charges"]),
        "totcst_log": _log(table["totcst"]),
        "avtisst": table["avtisst"],
    }
    return {name: np.asarray(label, np.float64) for name, label in labels.items()}


def _log(values: pd.Series[Any]) -> pd.Series[Any]:
    """Natural logarithm; amounts of zero (no bill on record) have none."""
    return values.where(values > 0).astype(float).map(np.log, na_action="ignore")


def _info(counts: Mapping[str, int]) -> dict[str, Any]:
    return {
        "description": "Seriously ill hospitalised adults, 5 US centres, 1989-1994; prediction on study day 3",
        "citation": "Knaus et al., Ann Intern Med 1995;122:191-203",
        "licence": "CC BY 4.0 as listed by the UCI Machine Learning Repository, data set 880",
        "counts": dict(counts),
    }
