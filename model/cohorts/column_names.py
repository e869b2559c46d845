"""What the names of columns say: of a time after the prediction, of a patient, of a score that is computed."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

#: A word for a patient in the name of a column, and what else such a name holds where it tells patients apart.
PATIENT = re.compile(r"(patient|pazient|pacient)(en|e|s)?|subject|person|mrn|pid|pat|nhs|ssn|pseudonym")
PATIENT_ID = re.compile(
    r"((patient|pazient|pacient)(en|e)?|subject|person|pat)(id|nr|no|nummer|key)|mrn\d?|(unique)?pid|ssn|nhc|pseudonym"
)
#: A word for a sample in the name of its id, and what such a name begins or ends with.
SAMPLE = r"visit|stay|encounter|admission|hadm|sample|record|case|image|icustay|episod\w*|fall|sejour|ricovero|opname"
SAMPLE_ID = re.compile(rf"({SAMPLE})(id|nr|no|nummer|num|key)?|\w*(visit|stay|encounter|admission)id")
ID = re.compile(r"u?u?id\d?|i?ds|nr|nbr|num|number|nummer|numero|no|key|code|hash|identifier|sk")

#: What names say that is known only afterwards, how their parts begin then, and words beside which they do not say it:
#: a vaginal discharge, the marital status, an admission diagnosis. In English, German, Dutch, French, Spanish, Italian
#: and Portuguese.
PREDICTION, DEATH, STAY, DISCHARGE = (
    "another model's or person's prediction",
    "death or survival",
    "the length of the stay",
    "the discharge",
)
_BEFORE = r"admit\w*|admission|adm|aufnahme|ingreso|entree|history|hx|family|prior|previous|past|pre"
LATE: tuple[tuple[str, re.Pattern[str], re.Pattern[str]], ...] = tuple(
    (what, re.compile(pattern), re.compile(but))
    for what, pattern, but in (
        (
            PREDICTION,
            r"\w*predict(?!or)|pred$|prob$|probabilit|yhat|logits?$|propensity|(risk|model)scores?$|"
            r"prognos|vorhersage",
            r"fev\d?|fvc|dlco|vo2\w*|pef|tlc|percent",
        ),
        (
            DEATH,
            r"\w*death|(hosp|is|was)?dead$|(?!stu|reme|embo)\w*died$|dies$|dod$|deceas|\w*expired?(flag)?$|\w*mortal|"
            r"surviv|surv\d|alive|(vital|life)status|autops|exitus|verst(a|o)rben|gestorben|todes|sterb|uberleb|deces$|"
            r"deced|fallec|muert|defunc|supervivencia|decess|mort[oe]?$|tod$|obito|overled|sterfte",
            rf"space|{_BEFORE}",
        ),
        (
            STAY,
            r"\w*(icu|hosp|hospital|unit)los$|s?los$|los\d|\w*lengthofstay|icustay$|stay(hours|days|length)|"
            r"(time|hours|days)(in|at)?hosp(ital)?$|(\w*ventilator|vent|icu|hospital)freedays|verweildauer|liegedauer|"
            r"aufenthaltsdauer|duree(de)?sejour|(dias)?(de)?estancia|degenza|ligduur|opnameduur",
            _BEFORE,
        ),
        ("a readmission", r"\w*readm|rehosp|wiederaufnahme|reingreso|heropname", "prior|previous|history"),
        (
            DISCHARGE,
            r"\w*disch|hospice|dispo(sition)?$|(icu|hosp|unit)?(out|end|exit)(time|date|offset)$|entlass|ontslag|"
            r"sortie|dimission|dimess|(fecha|motivo|tipo|destino|estado|data)(de|da)?alta",
            rf"vaginal|wound|urethral|nipple|nasal|ear|{_BEFORE}",
        ),
        (
            "a state, perhaps that at the end",
            r"status$",
            r"marital|smok\w+|insurance|code|employment|educ\w*|immun\w+|vaccin\w+|volume|performance|functional|mental|"
            rf"nutrition\w*|pregnan\w+|asa|ecog|hiv|{_BEFORE}",
        ),
        ("an outcome", r"outcome|target|label|groundtruth|esito$|endpoint", r"inr|temp\w*|map"),
        ("codes that are written at the discharge", r"drg|icd\d*(cm)?$|icd(9|10)?codes?$", _BEFORE),
        ("a diagnosis, mostly coded after the discharge", r"dx$|diag(nos\w+)?\d*$", _BEFORE),
        ("the bill", r"costs?$|charges|bill(s|ed|ing)?$|payment|reimburs", "-"),
        ("a time after the prediction", r"next$|future|followup|tomorrow", "-"),
        ("a split", r"split$|fold$|trainset|testset", "-"),
    )
)
#: What names say of the end that somebody may want to predict.
OUTCOMES = (DEATH, STAY, "a readmission", "an outcome")
#: Names of scores that are computed from measurements and, in part, fitted to an outcome.
SCORES = re.compile(
    r"saps|q?sofa|apache|aps|sps|oasis|lods|mods|meld|n?ews2?|mews|pews|charlson|elixhauser|sirs|pim\d|prism|timi|"
    r"grace|wells|curb|score"
)


@lru_cache(maxsize=100_000)
def late(name: str) -> str:
    """What a column's name says that is known only afterwards, e.g. "the discharge"; empty for other names."""
    parts = words(name)
    # A name may spell it over several parts: length_of_stay, DischTime.
    candidates = [*parts, *("".join(parts[at:]) for at in range(len(parts)))]
    for what, pattern, but in LATE:
        if any(map(pattern.match, candidates)) and not any(map(but.fullmatch, parts)):
            return what
    return ""


def words(name: str) -> list[str]:
    """The words of a name, lower case and without accents: `HospitalExpireFlag_2` is hospital, expire, flag, 2."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode()
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", plain)
    return [part.lower() for part in re.split(r"[^A-Za-z0-9]+", spaced) if part] or [""]


def timed(name: str) -> bool:
    """Whether a column has the name of how long something lasted until its end, such as the length of the stay."""
    hours = any(re.fullmatch(r"\w*offset|(los)?(time|min|minutes|h|hours|days?)", part) for part in words(name))
    return late(name) == STAY or (late(name) == DISCHARGE and hours)


def scored(name: str) -> bool:
    """Whether a column has the name of a severity score, such as SOFA; a pain score is none."""
    return any(SCORES.fullmatch(part) and part != "score" for part in words(name))


def named_patient(column: str) -> bool:
    """Whether a column has the name of a patient id: `person key` and `MRN` have it, `patient_weight` has not."""
    parts = words(column)
    if any(PATIENT_ID.fullmatch(part) for part in parts):
        return True
    return any(PATIENT.fullmatch(part) for part in parts) and bool(
        PATIENT.fullmatch(parts[-1]) or ID.fullmatch(parts[-1])
    )


def named_sample(column: str) -> bool:
    """Whether a column has the name of a sample id: `StayNo`, `id_episodio` and `hadm` have it, `stay_type` has not."""
    parts = words(column)
    if SAMPLE_ID.fullmatch(parts[-1]):
        return len(parts) == 1 or parts[-1] not in ("fall", "record", "image") or parts[0] == "id"
    return len(parts) > 1 and bool(ID.fullmatch(parts[-1]) and SAMPLE_ID.fullmatch(parts[-2]))


def named_id(column: str) -> bool:
    """Whether a column has the name of an id, of whatever."""
    return named_patient(column) or named_sample(column) or words(column)[-1] in ("id", "uid", "uuid")
