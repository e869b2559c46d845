"""What the training subjects had before their predictions: codes, ranges of values, and codes that look back in time.

Only events that a sample may see are counted. So neither a test subject nor anything after a prediction has a say in
which inputs there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from model.sources.events.description import HOUR, Codes, Description, Sequence
from model.sources.events.samples import Samples
from model.sources.events.shards import STATIC, Events, Int64s
from model.sources.haim_tables import Tell
from model.sources.sql import literal

#: Microseconds of a day.
DAY = 24 * HOUR
#: What MEDS itself names: never an input by its code (age is one).
BIRTH, DEATH = "MEDS_BIRTH", "MEDS_DEATH"
#: Codes that are given after the discharge by their nature, whenever they are stamped.
CODED_LATER = "^(DIAGNOSIS|DRG)(//|$)"

#: SQL of the moment from which on an event is known: what is stamped with a day may have happened at its end. `days` is
#: true where the code is stamped so.
SHIFTED = f"CASE WHEN {{days}} AND moment > {STATIC} AND moment % {DAY} = 0 THEN moment + {DAY - 1} ELSE moment END"

# A code is stamped at the discharge, or by the day, where nearly all of its events are.
_AT_DISCHARGE, _BY_DAY, _FEWEST = 0.9, 0.95, 10
# Ranges are learnt from so many training subjects; a value is no measurement that lies further out than the quartiles
# are apart, so many times.
_RANGE_SUBJECTS, _FAR = 2000, 100.0


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Counts over the training subjects.

    Attributes:
        subjects: how many there are.
        codes: a row a code, its index: events, subjects, static (subjects with it and without a time), recent (subjects
            with a number in the hours of the longest sequence), numeric (share of events with a number), later
            (whether it is stamped at the discharge), by_day (whether it is stamped with a day and no time), low and
            high (values beyond are no measurements), text (mean characters of a text).
    """

    subjects: int
    codes: pd.DataFrame

    def matching(self, codes: Codes, engine: Any) -> pd.DataFrame:
        """The rows of the codes that are meant, the commonest first."""
        return self.codes[matching(codes, self.codes.index, engine)]


def matching(codes: Codes, names: pd.Index[str], engine: Any) -> NDArray[np.bool_]:
    """bool (n,): which of these codes are meant."""
    chosen = np.asarray(names.isin(codes.exact))
    if codes.patterns:
        table = pa.table({"code": pa.array(names, pa.string()), "row": np.arange(len(names))})
        engine.register("listed_codes", table)
        rows = engine.sql(f"SELECT row FROM listed_codes WHERE {meant(codes)}").to_arrow_table()
        chosen[rows["row"].to_numpy()] = True
    return chosen


def meant(codes: Codes) -> str:
    """SQL that is true of a column `code` where the code is meant."""
    parts = [f"code IN ({', '.join(literal(code) for code in codes.exact)})"] if codes.exact else []
    parts += [f"regexp_matches(code, {literal(pattern)})" for pattern in codes.patterns]
    return f"({' OR '.join(parts)})"


def survey(events: Events, samples: Samples, last: Int64s, description: Description, tell: Tell) -> Vocabulary:
    """The vocabulary of the training samples.

    Args:
        last: int64 (n,), the last moment whose events a sample may see.
    """
    training = ~samples.split.test
    subjects, first = np.unique(samples.subjects[training], return_index=True)
    # Samples ascend by time within a subject.
    wall = np.maximum.reduceat(last[training], first)
    hours = max((it.hours for it in description.modalities if isinstance(it, Sequence)), default=0)
    ranked = np.zeros(len(subjects), bool)
    ranked[np.argsort(pd.util.hash_array(subjects), kind="stable")[:_RANGE_SUBJECTS]] = True
    walls = {"subject": subjects, "wall": wall, "recent": wall - hours * HOUR, "ranked": ranked}
    events.engine.register("walls", pa.table(walls))
    counts: list[pd.DataFrame] = []
    ranges: list[pd.DataFrame] = []
    done = 0
    for piece in events.pieces(subjects):
        done += len(piece)
        tell("counting codes of training subjects", done, len(subjects))
        counts.append(events.ask(_COUNTS.format(discharge=meant(description.discharge))).to_pandas())
        ranges.append(events.ask(_RANGES).to_pandas())
    return Vocabulary(len(subjects), _described(pd.concat(counts), pd.concat(ranges), description, events.engine))


_SEEN = "seen AS (SELECT e.*, w.recent, w.ranked FROM events e JOIN walls w USING (subject) WHERE e.moment <= w.wall)"
_COUNTS = (
    f"WITH {_SEEN}, ends AS (SELECT DISTINCT subject, moment, true AS ending FROM seen "
    f"WHERE {{discharge}} AND moment > {STATIC}) "
    "SELECT code, count(*) AS events, "
    f"count(DISTINCT subject) FILTER (moment > {STATIC}) AS subjects, "
    f"count(DISTINCT subject) FILTER (moment = {STATIC}) AS static, "
    "count(DISTINCT subject) FILTER (value IS NOT NULL AND moment > recent) AS recent, "
    "count(value) AS numbers, "
    f"count(*) FILTER (moment > {STATIC} AND moment % {DAY} = 0) AS midnight, "
    "count(ending) AS ending, count(text) AS texts, coalesce(sum(length(text)), 0)::BIGINT AS characters "
    "FROM seen LEFT JOIN ends USING (subject, moment) GROUP BY code"
)
_RANGES = (
    f"WITH {_SEEN} SELECT code, min(value) AS least, max(value) AS most FROM seen "
    "WHERE ranked AND value IS NOT NULL GROUP BY subject, code"
)


def _described(counts: pd.DataFrame, ranges: pd.DataFrame, description: Description, engine: Any) -> pd.DataFrame:
    """The counts of all pieces as `Vocabulary.codes`."""
    codes = counts.groupby("code").sum().astype(np.int64)
    codes["numeric"] = codes["numbers"] / codes["events"]
    codes["text"] = codes["characters"] / codes["texts"].clip(lower=1)
    by_nature = matching(Codes(patterns=(CODED_LATER,)), codes.index, engine)
    ends = matching(description.discharge, codes.index, engine)
    stamped = (codes["ending"] >= _AT_DISCHARGE * codes["events"]) & (codes["events"] >= _FEWEST)
    codes["later"] = (stamped | by_nature) & ~ends
    codes["by_day"] = (codes["midnight"] >= _BY_DAY * codes["events"]) & (codes["events"] >= _FEWEST)
    quartiles = ranges.groupby("code").agg(low=("least", _low), high=("most", _high))
    codes = codes.join(quartiles)
    width = codes["high"] - codes["low"]
    bounded = width > 0
    codes["low"] = (codes["low"] - _FAR * width).where(bounded, -np.inf)
    codes["high"] = (codes["high"] + _FAR * width).where(bounded, np.inf)
    order = np.lexsort((codes.index.to_numpy(str), -codes["subjects"].to_numpy()))
    return codes.iloc[order]


def _low(values: pd.Series) -> float:
    return float(np.quantile(values, 0.25))


def _high(values: pd.Series) -> float:
    return float(np.quantile(values, 0.75))
