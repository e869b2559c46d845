"""Miniature files of MIMIC-IV: the names, columns, types and quirks of version 3.1, and patients that nobody is.

Columns as mimic.mit.edu documents them. Quirks that the real files have: hadm_id and storetime that are empty in
labevents, times without an hour in pharmacy, codes with leading zeros, a date of death beside a time of death, an ICU
stay that begins before its admission, one without an end, `___` for a removed text, quotes, commas and line breaks
within a text, and several rows an order in prescriptions.
"""

from __future__ import annotations

import csv
import gzip
import io
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

#: Columns by table, in the order of the files.
COLUMNS = {
    "hosp/admissions": "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,"
    "admission_location,discharge_location,insurance,language,marital_status,race,edregtime,edouttime,"
    "hospital_expire_flag",
    "hosp/patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "hosp/diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "hosp/procedures_icd": "subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version",
    "hosp/drgcodes": "subject_id,hadm_id,drg_type,drg_code,description,drg_severity,drg_mortality",
    "hosp/emar": "subject_id,hadm_id,emar_id,emar_seq,poe_id,pharmacy_id,enter_provider_id,charttime,medication,"
    "event_txt,scheduletime,storetime",
    "hosp/prescriptions": "subject_id,hadm_id,pharmacy_id,poe_id,poe_seq,order_provider_id,starttime,stoptime,"
    "drug_type,drug,formulary_drug_cd,gsn,ndc,prod_strength,form_rx,dose_val_rx,dose_unit_rx,form_val_disp,form_unit_disp,"
    "doses_per_24_hrs,route",
    "hosp/hcpcsevents": "subject_id,hadm_id,chartdate,hcpcs_cd,seq_num,short_description",
    "hosp/labevents": "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,"
    "valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,comments",
    "hosp/omr": "subject_id,chartdate,seq_num,result_name,result_value",
    "hosp/pharmacy": "subject_id,hadm_id,pharmacy_id,poe_id,starttime,stoptime,medication,proc_type,status,entertime,"
    "verifiedtime,route,frequency,disp_sched,infusion_type,sliding_scale,lockout_interval,basal_rate,one_hr_max,"
    "doses_per_24_hrs,duration,duration_interval,expiration_value,expiration_unit,expirationdate,dispensation,"
    "fill_quantity",
    "hosp/transfers": "subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime",
    "hosp/d_icd_diagnoses": "icd_code,icd_version,long_title",
    "hosp/d_icd_procedures": "icd_code,icd_version,long_title",
    "hosp/d_hcpcs": "code,category,long_description,short_description",
    "icu/icustays": "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
    "icu/chartevents": "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,valueuom,"
    "warning",
    "icu/inputevents": "subject_id,hadm_id,stay_id,caregiver_id,starttime,endtime,storetime,itemid,amount,amountuom,"
    "rate,rateuom,orderid,linkorderid,ordercategoryname,secondaryordercategoryname,ordercomponenttypedescription,"
    "ordercategorydescription,patientweight,totalamount,totalamountuom,isopenbag,continueinnextdept,statusdescription,"
    "originalamount,originalrate",
    "icu/outputevents": "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valueuom",
    "icu/procedureevents": "subject_id,hadm_id,stay_id,caregiver_id,starttime,endtime,storetime,itemid,value,valueuom,"
    "location,locationcategory,orderid,linkorderid,ordercategoryname,ordercategorydescription,patientweight,isopenbag,"
    "continueinnextdept,statusdescription,ORIGINALAMOUNT,ORIGINALRATE",
    "icu/d_items": "itemid,label,abbreviation,linksto,category,unitname,param_type,lownormalvalue,highnormalvalue",
}  # fmt: skip

#: Chart events: item, unit, mean, spread.
_CHARTS = ((220045, "bpm", 85, 12), (220179, "mmHg", 120, 15), (220210, "insp/min", 18, 4), (223761, "°F", 98.6, 1))
_LABS = ((50912, "mg/dL", 1.2, 0.4), (50931, "mg/dL", 130, 30), (50820, "units", 7.4, 0.05))
_UNITS = ("Medical Intensive Care Unit (MICU)", "Surgical Intensive Care Unit (SICU)")
_CODES = (("0389", 9), ("5849", 9), ("4019", 9), ("A419", 10), ("N179", 10), ("I10", 10), ("E1122", 10), ("I509", 10))


class _Tables:
    """Rows by table, as they are made."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {table: [] for table in COLUMNS}

    def add(self, table: str, **values: Any) -> None:
        self.rows[table].append({key: _cell(value) for key, value in values.items()})


def _cell(value: Any) -> Any:
    return value.strftime("%Y-%m-%d %H:%M:%S") if isinstance(value, datetime) else value


def write_mimic(folder: Path, patients: int = 60, seed: int = 0) -> Path:
    """The folder, with hosp/ and icu/ of so many patients; equal arguments give equal patients."""
    dice = np.random.default_rng(seed)
    tables = _Tables()
    for number in range(patients):
        _patient(tables, 10_000_000 + number, number, dice)
    for code, of in _CODES:
        tables.add("hosp/d_icd_diagnoses", icd_code=code, icd_version=of, long_title=f"Title of {code}, long")
    tables.add("hosp/d_icd_procedures", icd_code="0066", icd_version=9, long_title="A procedure")
    tables.add("hosp/d_hcpcs", code="G0378", category="", long_description="", short_description="Observation per hour")
    for item, unit, *_ in _CHARTS:
        tables.add("icu/d_items", itemid=item, label=f"Item {item}", linksto="chartevents", unitname=unit)
    for table, rows in tables.rows.items():
        path = folder / f"{table}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS[table].split(","), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    return folder


def _patient(tables: _Tables, subject: int, number: int, dice: np.random.Generator) -> None:
    start = datetime(2150, 1, 1) + timedelta(days=int(dice.integers(0, 3000)), hours=int(dice.integers(0, 24)))
    dies = bool(dice.random() < 0.3)
    stays = 1 + int(dice.integers(0, 2))
    end = start
    for stay in range(stays):
        start = end + timedelta(days=int(dice.integers(3, 60))) if stay else start
        end = start + timedelta(hours=float(dice.uniform(80, 260)))
        _admission(tables, subject, number * 10 + stay, start, end, dies and stay == stays - 1, dice)
    dod = (
        end.strftime("%Y-%m-%d") if dies else (end + timedelta(days=20)).strftime("%Y-%m-%d") if number % 9 == 0 else ""
    )
    tables.add(
        "hosp/patients", subject_id=subject, gender="FM"[number % 2], anchor_age=18 + number % 70, anchor_year=2150,
        anchor_year_group="2011 - 2013", dod=dod,
    )  # fmt: skip
    tables.add("hosp/omr", subject_id=subject, chartdate="2150-01-02", seq_num=1, result_name="Blood Pressure",
               result_value="120/80")  # fmt: skip


def _admission(
    tables: _Tables, subject: int, number: int, start: datetime, end: datetime, dies: bool, dice: np.random.Generator
) -> None:
    admission, stay = 20_000_000 + number, 30_000_000 + number
    ids = {"subject_id": subject, "hadm_id": admission}
    tables.add(
        "hosp/admissions", **ids, admittime=start, dischtime=end, deathtime=end - timedelta(minutes=7) if dies else "",
        admission_type="EW EMER.", admission_location="EMERGENCY ROOM" if number % 3 else "",
        discharge_location="DIED" if dies else "HOME", insurance="Medicare" if number % 4 else "",
        language="English", marital_status="" if number % 5 == 0 else "MARRIED", race="WHITE",
        edregtime=start - timedelta(hours=3) if number % 2 else "", edouttime=start if number % 2 else "",
        hospital_expire_flag=int(dies),
    )  # fmt: skip
    entered = start - timedelta(minutes=2)
    left = end - timedelta(hours=12) if not dies else end + timedelta(minutes=3)
    unit = _UNITS[number % 2]
    tables.add(
        "icu/icustays", **ids, stay_id=stay, first_careunit=unit, last_careunit=_UNITS[0] if number % 7 == 0 else unit,
        intime=entered, outtime="" if number == 30 else left, los="",
    )  # fmt: skip
    tables.add("hosp/transfers", **ids, transfer_id=number, eventtype="admit", careunit=unit, intime=start, outtime=end)
    tables.add("hosp/transfers", **ids, transfer_id=number + 1, eventtype="discharge", careunit="", intime=end)
    for rank, index in enumerate(dice.choice(len(_CODES), 3, replace=False).tolist()):
        code, of = _CODES[index]
        tables.add("hosp/diagnoses_icd", **ids, seq_num=rank + 1, icd_code=code, icd_version=of)
    tables.add("hosp/procedures_icd", **ids, seq_num=1, chartdate=start.strftime("%Y-%m-%d"), icd_code="0066",
               icd_version=9)  # fmt: skip
    tables.add("hosp/drgcodes", **ids, drg_type="HCFA", drg_code=(3, 64, 871)[number % 3], description="SEPSIS W MCC")
    tables.add("hosp/drgcodes", **ids, drg_type="APR", drg_code=720, description="Sepsis", drg_severity=4,
               drg_mortality=3)  # fmt: skip
    tables.add("hosp/hcpcsevents", **ids, chartdate=start.strftime("%Y-%m-%d"), hcpcs_cd="G0378", seq_num=1,
               short_description="Observation per hour")  # fmt: skip
    _medication(tables, ids, subject, number, start)
    _measurements(tables, ids, stay, number, entered, left, dice)


def _medication(tables: _Tables, ids: dict[str, int], subject: int, number: int, start: datetime) -> None:
    order = 40_000_000 + number
    for kind, ndc in (("MAIN", "00338004904" if number % 2 else "0338-117"), ("BASE", "0")):
        tables.add("hosp/prescriptions", **ids, pharmacy_id=order, drug_type=kind, drug="Vancomycin", ndc=ndc)
    tables.add(
        "hosp/pharmacy", **ids, pharmacy_id=order, poe_id=f"{subject}-{number}", stoptime="",
        starttime=start.strftime("%Y-%m-%d") if number % 2 else start, medication='Vancomycin "IV", 1g',
        proc_type="Unit Dose", entertime=start, route="IV", frequency="Q12H", doses_per_24_hrs=2,
    )  # fmt: skip
    tables.add(
        "hosp/emar", **ids, emar_id=f"{subject}-{number}", emar_seq=number, poe_id="", pharmacy_id=order,
        charttime=start, medication="Vancomycin" if number % 3 else "", event_txt="Administered", storetime=start,
    )  # fmt: skip


def _measurements(
    tables: _Tables, ids: dict[str, int], stay: int, number: int, entered: datetime, left: datetime,
    dice: np.random.Generator,
) -> None:  # fmt: skip
    hours = range(0, int((left - entered).total_seconds() // 3600), 6)
    for hour in hours:
        at = entered + timedelta(hours=hour, minutes=5)
        for item, unit, mean, spread in _CHARTS:
            value = round(float(dice.normal(mean, spread)), 1)
            tables.add("icu/chartevents", **ids, stay_id=stay, caregiver_id=7, charttime=at, storetime=at, itemid=item,
                       value=value, valuenum=value, valueuom=unit, warning=0)  # fmt: skip
        tables.add("icu/chartevents", **ids, stay_id=stay, charttime=at, itemid=220739, value="Spontaneously",
                   valuenum=4)  # fmt: skip
        tables.add("icu/outputevents", **ids, stay_id=stay, charttime=at, storetime=at, itemid=226559, value=120,
                   valueuom="mL")  # fmt: skip
    for index, (item, unit, mean, spread) in enumerate(_LABS):
        at = entered + timedelta(hours=4)
        value = round(float(dice.normal(mean, spread)), 2)
        tables.add(
            "hosp/labevents", labevent_id=number * 10 + index, subject_id=ids["subject_id"],
            hadm_id=ids["hadm_id"] if index else "", specimen_id=number, itemid=item, charttime=at,
            storetime="" if index == 2 and number % 4 == 0 else at + timedelta(hours=1),
            value="___" if index == 1 and number % 6 == 0 else value, valuenum=value, valueuom=unit,
            priority=("STAT", "ROUTINE", "")[index], comments='Said "high",\nso repeated',
        )  # fmt: skip
    tables.add("icu/inputevents", **ids, stay_id=stay, starttime=entered, endtime=left, itemid=225158, amount=500,
               amountuom="ml", rate=50.5, rateuom="mL/hour", orderid=number, linkorderid=number,
               ordercategorydescription="Continuous Med", patientweight=80.5, statusdescription="Running")  # fmt: skip
    tables.add("icu/procedureevents", **ids, stay_id=stay, starttime=entered, endtime=left, itemid=225792, value=1000,
               valueuom="min", orderid=number, linkorderid=number, patientweight=80.5)  # fmt: skip


def write_chest(folder: Path, studies: list[tuple[int, int, str, str, str, dict[str, str]]]) -> None:
    """Write cxr/ into a folder of MIMIC-IV: of each study subject, study, view, day, clock and the findings."""
    names = [
        "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture",
        "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax",
        "Support Devices",
    ]  # fmt: skip
    findings = [f"subject_id,study_id,{','.join(names)}"]
    images = [
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
    ]
    for subject, study, view, day, clock, found in studies:
        findings.append(f"{subject},{study},{','.join(found.get(name, '') for name in names)}")
        images.append(f'{study}-a,{subject},{study},"CHEST (PORTABLE AP), ONE",{view},3056,2544,{day},{clock},,,Erect')
    (folder / "cxr").mkdir(parents=True, exist_ok=True)
    for name, rows in (("chexpert", findings), ("metadata", images)):
        path = folder / "cxr" / f"mimic-cxr-2.0.0-{name}.csv.gz"
        path.write_bytes(gzip.compress("\n".join([*rows, ""]).encode(), mtime=0))
