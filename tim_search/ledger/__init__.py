"""The ledger: append-only Parquet files that hold every score, and the table of scores read from them."""

from __future__ import annotations

from tim_search.ledger.ledger import Ledger, LedgerError
from tim_search.ledger.storage import LedgerWarning

__all__ = [
    "Ledger",
    "LedgerError",
    "LedgerWarning",
]
