"""The search file: read and checked (`load`, `check`), made ready to run (`resolve`), written in full (`dump`)."""

from __future__ import annotations

from tim_search.config.files import dump, load, made, read
from tim_search.config.resolved import ResolvedSearch
from tim_search.config.resolving import check, resolve, study, tracking_uri
from tim_search.config.sections import SearchFile
from tim_search.config.workers import confirming, cost, room_here, telling, training

__all__ = [
    "ResolvedSearch",
    "SearchFile",
    "check",
    "confirming",
    "cost",
    "dump",
    "load",
    "made",
    "read",
    "resolve",
    "room_here",
    "study",
    "telling",
    "tracking_uri",
    "training",
]
