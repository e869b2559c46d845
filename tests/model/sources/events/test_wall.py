"""Time is a wall: nothing after a prediction touches an input, in any bit."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from model.sources.events import building
from tests.support import meds_folders

SUBJECTS = 24
FRAME = meds_folders.events(SUBJECTS, seed=3)
LABELS = meds_folders.labels(FRAME)
#: The last prediction of each subject: what is later may be anything.
WALL = LABELS.groupby("subject_id")["prediction_time"].max()
CODES = ["CHART//211//bpm", "LAB//50912//mg/dL", "DIAGNOSIS//ICD9CM//4280", "NOTE//Nursing", "MEDS_DEATH", "NEW//code"]

later_event = st.tuples(
    st.integers(1, SUBJECTS), st.integers(1, 10**12), st.sampled_from(CODES), st.floats(-1e6, 1e6, width=32)
)


def inputs(frame: pd.DataFrame, labels: pd.DataFrame, shards: int = 1) -> dict[str, bytes]:
    """Every file of inputs that is made of events, as bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        meds_folders.write(root / "data", frame, shards)
        meds_folders.write_labels(root / "tasks" / "stays_on.parquet", labels)
        text = "modalities:\n  patient: {kind: static}\n  codes: {kind: vector, windows: [24h, stay, all]}\n"
        text += "  series: {kind: sequence}\n  notes: {kind: text, codes: {regex: ^NOTE//}}\n"
        (root / "features.yaml").write_text(text)
        building.build(root / "data", root / "tasks", root / "out", features_file=root / "features.yaml")
        files = [*(root / "out" / "modalities").iterdir(), root / "out" / "cohort.yaml"]
        content = {path.name: path.read_bytes() for path in files}
        # Written piece by piece: shards that are read together come in another order.
        notes = pq.read_table(root / "out" / "references" / "notes.parquet").sort_by("sample_id")
        return content | {"notes": str(notes.to_pylist()).encode()}


@cache
def plain() -> dict[str, bytes]:
    return inputs(FRAME, LABELS)


def changed(events: list[tuple[int, int, str, float]], share: float) -> pd.DataFrame:
    """The events with a share of the later ones gone, the others' values turned over, and new later ones."""
    known = FRAME["time"].isna() | (FRAME["time"] <= FRAME["subject_id"].map(WALL))
    later = FRAME[~known].sample(frac=share, random_state=0)
    later["numeric_value"] = -later["numeric_value"]
    rows = [
        (subject, WALL[subject] + timedelta(microseconds=after), code, value, "a later text " * 20)
        for subject, after, code, value in events
    ]
    return pd.concat([FRAME[known], later, pd.DataFrame(rows, columns=meds_folders.COLUMNS)]).sort_values(
        ["subject_id", "time"], na_position="first", kind="stable"
    )


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(events=st.lists(later_event, max_size=30), share=st.floats(0, 1))
def test_later_events_touch_no_bit(events: list[tuple[int, int, str, float]], share: float) -> None:
    assert inputs(changed(events, share), LABELS) == plain()


def test_shards_and_their_order_touch_no_bit() -> None:
    """Rows in any order, and a subject in several shards."""
    assert inputs(FRAME.sample(frac=1, random_state=1), LABELS, shards=2) == plain()


def test_an_earlier_event_does() -> None:
    """The test above can fail: one value two hours before the last prediction changes the inputs."""
    row = (1, WALL[1] - timedelta(hours=2), "CHART//211//bpm", 300.0, None)
    frame = pd.concat([FRAME, pd.DataFrame([row], columns=meds_folders.COLUMNS)])
    now = inputs(frame, LABELS)
    assert {name for name, content in plain().items() if now[name] != content} == {"codes.npy", "series.npy"}


def test_a_sample_sees_nothing_of_the_subjects_next_stay() -> None:
    """Each sample by itself: the first stay's inputs stay as they are when the second stay's events are gone."""
    first = LABELS.groupby("subject_id")["prediction_time"].min()
    kept_rows = FRAME["time"].isna() | (FRAME["time"] <= FRAME["subject_id"].map(first))
    firsts = LABELS[LABELS["prediction_time"] == LABELS["subject_id"].map(first)]
    everything, alone = matrix(FRAME, LABELS), matrix(FRAME[kept_rows], firsts)
    shared = [column for column in alone.columns if column in everything.columns]
    assert len(shared) > 20
    pd.testing.assert_frame_equal(alone[shared], everything.loc[alone.index, shared])


def matrix(frame: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """The vector of the default description, a row a sample."""
    from model.sources.opening import inspect_cohort

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        meds_folders.write(root / "data", frame)
        meds_folders.write_labels(root / "tasks" / "stays_on.parquet", labels)
        building.build(root / "data", root / "tasks", root / "out")
        cohort, findings = inspect_cohort(root / "out")
        assert cohort is not None, findings
        modality = cohort.modalities["codes"]
        return pd.DataFrame(np.array(modality.values), list(cohort.sample_ids), list(modality.columns))
