"""Stays of a MEDS folder as tables, filter by filter: what the labels of `stay_labels.py` hang on.

The names of codes and columns are those of the MIMIC-IV converter (HOSPITAL_ADMISSION//, ICU_ADMISSION// and so on,
with hadm_id and icustay_id). Stays are joined by their ids, because times do not join them: in MIMIC an ICU stay may
begin minutes before the admission that it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from model.sources.events.shards import STATIC, Events
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput

#: Microseconds of an hour and of a day, the unit of the times in `Events`.
HOUR = 3_600_000_000
DAY = 24 * HOUR
_YEAR = 365.25 * DAY

#: Discharges that mean a death: MIMIC-IV's word and MIMIC-III's.
DIED = ("HOSPITAL_DISCHARGE//DIED", "HOSPITAL_DISCHARGE//DEAD/EXPIRED")

#: How diagnoses begin in the events, by vocabulary: MIMIC-IV's code, then MIMIC-III's.
DIAGNOSES = {
    "icd9": ("DIAGNOSIS//ICD//9//", "DIAGNOSIS//ICD9CM//"),
    "icd10": ("DIAGNOSIS//ICD//10//",),
}

#: What may be asked of a stay: name in a labels file -> condition on a row of the table `stays`.
FILTERS: Mapping[str, str] = {
    "one unit": "first_unit = last_unit",
    "one stay an admission": "stays_of_admission = 1",
    "adults": f"entered - born >= {18 * _YEAR}",
    "48 hours": f"left_at - entered >= {48 * HOUR}",
    "left alive": "NOT (died AND died_at <= left_at)",
}

_ADMISSIONS = f"""
CREATE OR REPLACE TEMP TABLE admissions AS
WITH person AS (
    SELECT subject, min(e.moment) FILTER (WHERE code = 'MEDS_BIRTH') AS born,
        min(e.moment) FILTER (WHERE code = 'MEDS_DEATH') AS death
    FROM events e WHERE code IN ('MEDS_BIRTH', 'MEDS_DEATH') AND e.moment <> {STATIC} GROUP BY subject
), stay AS (
    SELECT subject, hadm_id, min(e.moment) FILTER (WHERE starts_with(code, 'HOSPITAL_ADMISSION//')) AS admitted,
        max(e.moment) FILTER (WHERE starts_with(code, 'HOSPITAL_DISCHARGE//')) AS discharged,
        bool_or(code IN {DIED}) AS dead
    FROM events e
    WHERE (starts_with(code, 'HOSPITAL_ADMISSION//') OR starts_with(code, 'HOSPITAL_DISCHARGE//'))
        AND hadm_id IS NOT NULL AND e.moment <> {STATIC}
    GROUP BY subject, hadm_id
)
SELECT s.subject, s.hadm_id, s.admitted, s.discharged, p.born,
    s.dead OR coalesce(p.death BETWEEN s.admitted AND s.discharged, false) AS died,
    CASE WHEN p.death BETWEEN s.admitted AND s.discharged THEN p.death ELSE s.discharged END AS died_at
FROM stay s LEFT JOIN person p USING (subject)
"""

# A patient may move between units within one ICU stay; MIMIC gives the first and the last.
_STAYS = f"""
CREATE OR REPLACE TEMP TABLE stays AS
WITH icu AS (
    SELECT subject, icustay_id, any_value(hadm_id) AS hadm_id,
        min(e.moment) FILTER (WHERE starts_with(code, 'ICU_ADMISSION//')) AS entered,
        max(e.moment) FILTER (WHERE starts_with(code, 'ICU_DISCHARGE//')) AS left_at,
        any_value(substr(code, 16)) FILTER (WHERE starts_with(code, 'ICU_ADMISSION//')) AS first_unit,
        any_value(substr(code, 16)) FILTER (WHERE starts_with(code, 'ICU_DISCHARGE//')) AS last_unit
    FROM events e
    WHERE (starts_with(code, 'ICU_ADMISSION//') OR starts_with(code, 'ICU_DISCHARGE//'))
        AND icustay_id IS NOT NULL AND e.moment <> {STATIC}
    GROUP BY subject, icustay_id
)
SELECT i.*, a.admitted, a.discharged, a.born, a.died, a.died_at
FROM icu i LEFT JOIN admissions a USING (subject, hadm_id)
"""

#: Both kinds of rows: name in a labels file -> (SQL that makes the table `stays`, name of its first count).
OF: Mapping[str, tuple[str, str]] = {
    "icu stays": (_STAYS, "ICU stays"),
    "admissions": (
        "CREATE OR REPLACE TEMP TABLE stays AS SELECT *, admitted AS entered, discharged AS left_at FROM admissions",
        "admissions",
    ),
}


def check_columns(events: Events, what: str) -> None:
    """Raise BadInput unless the folder has the ids that join stays."""
    lacking = [name for name in ("hadm_id", "icustay_id") if name not in events.columns]
    if lacking:
        raise BadInput(
            f"{what}: expected events with the columns hadm_id and icustay_id, as the MIMIC-IV converter writes them; "
            f"{for_terminal(events.root)} lacks {' and '.join(lacking)}. Name tasks of ACES configs instead."
        )


def make_stays(engine: Any, of: str, filters: Sequence[str]) -> dict[str, int]:
    """Counts after each filter, of the subjects in the view `events`; the table `stays` holds what is left.

    Rows of `stays`: subject, hadm_id, entered, left_at, admitted, discharged, died_at (microseconds since 1970), died
    (in hospital), born; of ICU stays also icustay_id, first_unit, last_unit. The order of the filters is that of the
    authors' code: stays an admission are counted among those that the filters before have left.
    """
    engine.execute(_ADMISSIONS)
    sql, first = OF[of]
    engine.execute(sql)
    counts = {first: _count(engine)}
    engine.execute("DELETE FROM stays WHERE entered IS NULL OR left_at IS NULL OR discharged IS NULL")
    counts["with an end and an admission"] = _count(engine)
    for name in filters:
        if name == "one stay an admission":
            engine.execute(
                "CREATE OR REPLACE TEMP TABLE stays AS SELECT * FROM (SELECT *, count(*) OVER (PARTITION BY subject, "
                "hadm_id) AS stays_of_admission FROM stays)"
            )
        engine.execute(f"DELETE FROM stays WHERE coalesce(NOT ({FILTERS[name]}), true)")
        counts[name] = _count(engine)
    return counts


def _count(engine: Any) -> int:
    return int(engine.execute("SELECT count(*) FROM stays").fetchall()[0][0])


def make_groups(engine: Any, groups: Sequence[pa.Table]) -> None:
    """Make the table `groups_of_admission`: subject, hadm_id, numbers (list of the groups that it has a code of).

    Args:
        groups: codes of each group: begin (how a code begins), whole (whether that is the whole code).
    """
    number = pa.array([number for number, group in enumerate(groups) for _ in range(len(group))], pa.int64())
    engine.register("codes_of_groups", pa.concat_tables(list(groups)).append_column("number", number))
    # Few codes are different: each is compared with the groups once, however many patients have it.
    engine.execute(
        """
        CREATE OR REPLACE TEMP TABLE groups_of_admission AS
        WITH coded AS (
            SELECT DISTINCT subject, hadm_id, code FROM events SEMI JOIN samples USING (subject, hadm_id)
        ), grouped AS (
            SELECT DISTINCT c.code, g.number FROM (SELECT DISTINCT code FROM coded) c
            JOIN codes_of_groups g ON starts_with(c.code, g.begin) AND (NOT g.whole OR c.code = g.begin)
        )
        SELECT subject, hadm_id, list(DISTINCT number) AS numbers FROM coded JOIN grouped USING (code)
        GROUP BY subject, hadm_id
        """
    )
