"""What the names of columns say: of a time after the prediction, of a patient, of a score that is computed."""

from __future__ import annotations

import re

#: Words of the name of a column that tells patients apart.
PATIENT = ("patient", "subject", "person", "mrn", "pid", "pat")
#: The last word of a sample id's name, and of an id's.
SAMPLE = ("visit", "stay", "encounter", "admission", "hadm", "sample", "record", "case", "image")
IDS = ("id", "icustayid", *(f"{word}id" for word in (*SAMPLE, *PATIENT)))

#: How the names of columns that are known only afterwards begin, by parts of the name, and what they say.
LATE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"disch|hospice", "the discharge"),
        (
            r"death|\w*dead$|\w*died$|dies$|dod$|deceas|expired?(flag)?$|mortal|surviv|surv\d|autops",
            "death or survival",
        ),
        (r"(s|icu|hosp|hospital)?los$|los\d|lengthofstay|icustay$|stayhours|staydays", "the length of the stay"),
        (r"readm", "a readmission"),
        (r"outcome|target|label|groundtruth", "an outcome"),
        (r"drg|icd\d*$|icdcode", "codes that are written at the discharge"),
        (r"costs?$|charges|bill(s|ed|ing)?$|payment|reimburs", "the bill"),
        (r"next$|future|followup|tomorrow", "a time after the prediction"),
        (r"split$|fold$|trainset|testset", "a split"),
    )
)
#: Names of scores that are computed from measurements and, in part, fitted to an outcome.
SCORES = re.compile(
    r"saps|q?sofa|apache|aps|sps|oasis|lods|mods|meld|n?ews2?|mews|pews|charlson|elixhauser|sirs|pim\d|prism|timi|"
    r"grace|wells|curb|score"
)


def late(name: str) -> str:
    """What a column's name says that is known only afterwards, e.g. "the discharge"; empty for other names."""
    parts = words(name)
    # A name may spell it over several parts: length_of_stay, DischTime.
    candidates = [*parts, *("".join(parts[at:]) for at in range(len(parts)))]
    return next((what for pattern, what in LATE for part in candidates if pattern.match(part)), "")


def words(name: str) -> list[str]:
    """The words of a name, lower case: `HospitalExpireFlag_2` is hospital, expire, flag, 2."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [part.lower() for part in re.split(r"[^A-Za-z0-9]+", spaced) if part] or [""]


def named_patient(column: str) -> bool:
    """Whether a column has the name of a patient id."""
    return any(word in PATIENT or word in ("patientid", "subjectid", "personid") for word in words(column))


def named_id(column: str) -> bool:
    """Whether a column has the name of an id."""
    return named_patient(column) or words(column)[-1] in (*SAMPLE, *IDS)
