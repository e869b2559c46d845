"""The problem classes of tasks, and the metrics that a task of each may be searched by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["binary", "multiclass", "multilabel", "regression", "clustering"]

KINDS: tuple[Kind, ...] = get_args(Kind)

#: Metrics a task of each problem class may be searched by, the default first; higher is better (M3H paper, section 3.2;
#: FlexCare paper, section 5.1.2; `model/scoring/metrics.py` says what each is).
ALLOWED: Mapping[Kind, tuple[str, ...]] = {
    "binary": ("auroc", "auprc"),
    "multiclass": ("macro_auroc", "macro_f1", "micro_f1"),
    "multilabel": ("macro_auroc", "micro_auroc"),
    "regression": ("r2",),
    "clustering": ("silhouette",),
}

#: Default metric of each problem class.
METRICS: Mapping[Kind, str] = {kind: names[0] for kind, names in ALLOWED.items()}

#: What people call the metrics.
METRIC_WORDS: Mapping[str, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "macro_auroc": "macro AUROC",
    "micro_auroc": "micro AUROC",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "r2": "R²",
    "silhouette": "silhouette",
}
