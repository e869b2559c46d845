"""What tests of several packages share: trainers that pretend, small cohorts, reference networks, places."""

from __future__ import annotations

from pathlib import Path

#: The repository.
ROOT = Path(__file__).resolve().parent.parent.parent
