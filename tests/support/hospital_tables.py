"""Made-up tables in the styles of three hospitals, with leaks planted in them: by name, by value, by time, by ids.

Nobody's data. The rows stand as an export has them: by patient, or in no order at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class HospitalTable:
    """A table, and what is planted in it.

    Attributes:
        frame: one row a stay.
        sample_id, patient_id: the right ids.
        tasks: task -> (kind, column of its label).
        leaks: column -> what it is.
        sound: inputs that nothing is wrong with.
    """

    frame: pd.DataFrame
    sample_id: str
    patient_id: str
    tasks: dict[str, tuple[str, str]]
    leaks: dict[str, str]
    sound: tuple[str, ...]


@dataclass(frozen=True)
class _Stays:
    """What is true of the stays, float64 (n,) each."""

    dice: np.random.Generator
    person: np.ndarray
    labs: np.ndarray  # (n, 8)
    died: np.ndarray
    aki: np.ndarray
    days: np.ndarray
    chance: np.ndarray  # of death

    def __len__(self) -> int:
        return len(self.died)


def _stays(seed: int, n_persons: int = 900) -> _Stays:
    dice = np.random.default_rng(seed)
    person = np.repeat(np.arange(n_persons), dice.choice([1, 1, 1, 2, 3], n_persons))
    n = len(person)
    labs = dice.normal(size=(n, 8)) + 0.3 * dice.normal(size=n_persons)[person, None]
    chance = 1 / (1 + np.exp(1.4 - labs[:, :3] @ [1.0, -0.8, 0.6]))
    aki = dice.random(n) < 1 / (1 + np.exp(1.2 - labs[:, 3:5] @ [1.0, 0.8]))
    days = np.exp(1.2 + 0.3 * labs[:, 5] + 0.6 * dice.normal(size=n))
    return _Stays(dice, person, labs, (dice.random(n) < chance).astype(float), aki.astype(float), days, chance)


def warehouse(seed: int = 1) -> HospitalTable:
    """An intensive-care warehouse: names run together, lower case, several ids, rows by patient."""
    true = _stays(seed)
    n, dice = len(true), true.dice
    frame = pd.DataFrame({"patientunitstayid": 141_000 + 7 * np.arange(n)})
    frame["patienthealthsystemstayid"] = 128_000 + np.arange(n) - (np.arange(n) % 2)
    frame["uniquepid"] = [f"002-{key}" for key in true.person]
    frame["gender"] = dice.choice(["Male", "Female", ""], n, p=[0.5, 0.48, 0.02])
    frame["age"] = np.clip(dice.normal(64, 16, n), 18, 89).round()
    for k, name in enumerate(("heartrate", "sao2", "lactate", "bun", "creatinine", "wbc", "glucose", "albumin")):
        frame[name] = np.where(dice.random(n) < 0.15, np.nan, true.labs[:, k]).round(3)
    frame["admissionweight"] = dice.normal(80, 15, n).round(1)
    frame["dischargeweight"] = (frame["admissionweight"] - 0.3 * true.days).round(1)
    frame["unitdischargeoffset"] = (true.days * 1440).round()
    frame["hospitaldischargestatus"] = np.where(true.died == 1, "Expired", "Alive")
    frame["actualiculos"] = true.days.round(3)
    frame["predictedicumortality"] = np.clip(true.chance + dice.normal(0, 0.1, n), 0, 1).round(4)
    frame["apacheadmissiondx"] = dice.choice(["Sepsis", "CHF", "Trauma", "Overdose"], n)
    frame["nursingnotes"] = dice.poisson(4 * true.days) + 1.0  # counted over the whole stay
    frame["flag7"] = np.where(true.died == 1, 3, dice.choice([1, 7], n))  # relabelled: the middle code is death
    frame["aki"] = true.aki.astype(int)
    leaks = {
        "patienthealthsystemstayid": "id", "dischargeweight": "name", "unitdischargeoffset": "name",
        "predictedicumortality": "name", "nursingnotes": "time", "flag7": "copy",
    }  # fmt: skip
    tasks = {
        "death": ("binary", "hospitaldischargestatus"), "icu_los": ("regression", "actualiculos"),
        "aki": ("binary", "aki"),
    }  # fmt: skip
    sound = ("gender", "age", "heartrate", "sao2", "lactate", "bun", "creatinine", "wbc", "glucose", "albumin",
             "admissionweight", "apacheadmissiondx")  # fmt: skip
    return HospitalTable(frame, "patientunitstayid", "uniquepid", tasks, leaks, sound)


def german(seed: int = 2) -> HospitalTable:
    """An export of a German hospital information system: a case number a stay, patients who were given two numbers."""
    true = _stays(seed)
    n, dice = len(true), true.dice
    frame = pd.DataFrame({"lfd": np.arange(1, n + 1), "Fallnummer": 7_000_000 + dice.permutation(n)})
    second = (dice.random(len(true.person)) < 0.2) & (np.arange(n) > 0) & (true.person == np.roll(true.person, 1))
    frame["PatientenNr"] = [f"{key:06d}{'B' if again else ''}" for key, again in zip(true.person, second, strict=True)]
    born = pd.Timestamp("1930-01-01") + pd.to_timedelta(dice.integers(0, 25_000, 900), "D")
    frame["Geburtsdatum"] = born[true.person]
    frame["Geschlecht"] = dice.choice(["m", "w"], 900)[true.person]
    frame["Körpergröße"] = dice.normal(172, 9, 900).round()[true.person]
    for k, name in enumerate(("Puls", "Natrium", "Kalium", "CRP", "Kreatinin", "Hb", "Leukozyten", "Laktat")):
        frame[name] = np.where(dice.random(n) < 0.15, np.nan, true.labs[:, k]).round(3)
    frame["Aufnahmeart"] = dice.choice(["Notfall", "geplant"], n)
    frame["Entlassungsart"] = np.where(true.died == 1, "verstorben", dice.choice(["regulär", "verlegt"], n))
    frame["Verweildauer"] = true.days.round(2)
    frame["DRG"] = dice.choice(["A11", "B02", "E65", "F62"], n)
    frame["Risiko"] = np.clip(true.chance, 0.001, 0.999).round(4)  # another model's, by its values alone
    frame["Pflegestufe"] = np.digitize(true.days, [2, 4, 8])  # ranges of the stay
    frame["x17"] = -3.5 * true.days + 2  # scaled and turned
    frame["AKI"] = np.where(true.aki == 1, "ja", "nein")
    frame["Tod"] = true.died.astype(int)
    leaks = {"lfd": "id", "Entlassungsart": "name", "DRG": "name", "Risiko": "prediction", "Pflegestufe": "copy",
             "x17": "copy"}  # fmt: skip
    tasks = {"tod": ("binary", "Tod"), "aki": ("binary", "AKI"), "verweildauer": ("regression", "Verweildauer")}
    sound = ("Geschlecht", "Körpergröße", "Puls", "Natrium", "Kalium", "CRP", "Kreatinin", "Hb", "Leukozyten",
             "Laktat", "Aufnahmeart")  # fmt: skip
    return HospitalTable(frame, "Fallnummer", "PatientenNr", tasks, leaks, sound)


def spanish(seed: int = 3) -> HospitalTable:
    """A research extract in Spanish with prefixes, its rows shuffled, the destination as columns of 0 and 1."""
    true = _stays(seed)
    n, dice = len(true), true.dice
    frame = pd.DataFrame({"id_episodio": [f"E{key}" for key in 50_000 + np.arange(n)]})
    frame["nhc"] = 300_000 + 11 * true.person + dice.integers(0, 2, n)  # a record number, two for some persons
    frame["paciente_id"] = true.person + 10_000
    frame["adm_edad"] = np.clip(dice.normal(66, 14, n), 18, 100).round()
    frame["adm_sexo"] = dice.choice([1, 2], n)
    for k in range(8):
        frame[f"lab_{k}"] = np.where(dice.random(n) < 0.15, np.nan, true.labs[:, k]).round(3)
    home = (dice.random(n) < 0.7) & (true.died == 0)
    frame["dest_1"], frame["dest_2"], frame["dest_3"] = home * 1, ((true.died == 0) & ~home) * 1, true.died.astype(int)
    frame["fecha_alta"] = (20_000 + dice.integers(0, 900, n) + true.days).round()
    frame["exitus"] = true.died.astype(int)
    frame["estancia"] = true.days.round(2)
    frame["lab_peticiones"] = np.round(6 * true.days + dice.normal(0, 2, n))  # counted over the whole stay
    noisy = np.where(dice.random(n) < 0.005, 1 - true.aki, true.aki)
    frame["lab_cod"] = np.where(noisy == 1, 12.5, -4.0)  # the outcome in other numbers, a few of them wrong
    frame["aki"] = true.aki.astype(int)
    leaks = {"nhc": "id", "dest_3": "copy", "dest_1": "value", "fecha_alta": "name", "lab_peticiones": "time",
             "lab_cod": "copy"}  # fmt: skip
    tasks = {"exitus": ("binary", "exitus"), "aki": ("binary", "aki"), "estancia": ("regression", "estancia")}
    sound = ("adm_edad", "adm_sexo", *(f"lab_{k}" for k in range(8)))
    shuffled = frame.sample(frac=1, random_state=seed).reset_index(drop=True)
    return HospitalTable(shuffled, "id_episodio", "paciente_id", tasks, leaks, sound)


HOSPITALS = (warehouse, german, spanish)
