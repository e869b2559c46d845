"""Labels of chest images from the reports of MIMIC-CXR-JPG: two tables beside hosp/ and icu/.

The findings are CheXpert's (Irvin et al., AAAI 2019): 1 positive, 0 negative, -1 uncertain, empty where the report does
not mention it. What is not mentioned counts as negative here, what is uncertain has no label.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from model.sources.events.mimic_raw import columns_to_parquet
from model.sources.events.stay_labels import StayTask

#: What tells a file about chest images from others, and its version.
KEY, FORMAT = "chest_labels", 1

_FINDINGS, _IMAGES = "mimic-cxr-2.0.0-chexpert", "mimic-cxr-2.0.0-metadata"
_KEYS = {"subject_id": "BIGINT", "study_id": "BIGINT"}
_OF_IMAGES = {"ViewPosition": "VARCHAR", "StudyDate": "VARCHAR", "StudyTime": "VARCHAR"}


def tables(mimic: Path) -> tuple[Path, Path] | None:
    """The tables of findings and of images in a folder of MIMIC-IV, or in cxr/ in it; None where either is missing."""
    for folder in (mimic, mimic / "cxr"):
        for ending in (".csv.gz", ".csv"):
            findings, images = (folder / f"{name}{ending}" for name in (_FINDINGS, _IMAGES))
            if findings.is_file() and images.is_file():
                return findings, images
    return None


def extract(name: str, spec: Mapping[str, Any], mimic: Path, scratch: Path) -> StayTask:
    """The labels of a task of chest images, one a study, at the time of its last image.

    Args:
        name: of the task.
        spec: views (list of ViewPosition; all without it), findings (list of columns), label: `each` (multilabel) or
            `the only one` (multiclass: studies with exactly one positive finding), paper.
        mimic: a folder with the tables.
        scratch: an empty folder.

    Raises:
        BadInput: a table cannot be read or lacks columns.
    """
    paths = tables(mimic)
    assert paths is not None, "the caller has looked"
    findings = [str(it) for it in spec["findings"]]
    columns_to_parquet(paths[0], scratch / "findings.parquet", _KEYS | dict.fromkeys(findings, "DOUBLE"))
    columns_to_parquet(paths[1], scratch / "images.parquet", _KEYS | _OF_IMAGES)
    images = pq.read_table(scratch / "images.parquet").to_pandas()
    rows = _studies(images[images["ViewPosition"].isin(spec["views"])] if "views" in spec else images)
    rows = rows.merge(pq.read_table(scratch / "findings.parquet").to_pandas(), on=list(_KEYS))
    rows = rows.sort_values(["subject_id", "moment", "study_id"])
    rows = rows.drop_duplicates(["subject_id", "moment"], keep="last", ignore_index=True)
    rows = rows.rename(columns={"subject_id": "subject"})
    counts = {"studies with findings and such an image, its time known": len(rows)}
    flags = rows[findings]
    flags = flags.set_axis([f"label_{number}" for number in range(len(findings))], axis=1)
    head, paper = rows[["subject", "moment"]], spec.get("paper", {})
    if spec["label"] == "each":
        entry = {"kind": "multilabel", "classes": findings}
        whole = pd.concat([head, flags.fillna(0).mask(flags == -1)], axis=1)
        return StayTask(name, whole, entry, counts | {"samples": len(whole)}, paper)
    positive = (flags == 1).to_numpy()
    alone = positive.sum(axis=1) == 1
    label = pd.Series([findings[index] for index in positive[alone].argmax(axis=1)], dtype="str")
    whole = head[alone].reset_index(drop=True).assign(label=label)
    return StayTask(name, whole, {"kind": "multiclass"}, counts | {"samples": len(whole)}, paper)


def _studies(images: pd.DataFrame) -> pd.DataFrame:
    """subject_id, study_id and the moment of the last image that has one of each study, in microseconds since 1970."""
    # StudyTime is a number without leading zeros: 4523.0 means 00:45:23.
    clock = images["StudyTime"].str.partition(".")[0].str.zfill(6)
    time = pd.to_datetime(images["StudyDate"] + clock, format="%Y%m%d%H%M%S", errors="coerce")
    timed = time.notna()
    moment = time[timed].astype("datetime64[us]").astype("int64")
    return images.loc[timed, list(_KEYS)].assign(moment=moment).groupby(list(_KEYS)).max().reset_index()
