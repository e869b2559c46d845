"""Entry point for `ray job submit`: run one search on the cluster that the job was submitted to.

    ray job submit --address http://localhost:8265 --working-dir . -- \\
        python -m jobs.search jobs/twelve-pairs.yaml --out /home/ray/results/twelve-pairs

`-m` makes the packages of the submitted folder the ones that run. A job works in an unpacked copy of that folder which
nobody keeps, so `--out` must be an absolute path.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tim_search.cli import main


def arguments() -> argparse.Namespace:
    """Read and check the command line; ends the process with status 2 when it cannot be used."""
    parser = argparse.ArgumentParser(description="Run one search on the Ray cluster this job was submitted to.")
    parser.add_argument("search", help="the search file, relative to the submitted folder")
    parser.add_argument("--out", required=True, type=Path, help="absolute folder for everything the search writes")
    parser.add_argument("--address", default="auto", help="Ray address; the default is the job's own cluster")
    given = parser.parse_args()
    if not given.out.is_absolute():
        parser.error(
            f"--out: expected an absolute path, got {given.out}. A job works in a temporary copy of the submitted "
            f"folder, so what it writes there is lost. Use a path such as /home/ray/results/{given.out.name}."
        )
    return given


if __name__ == "__main__":
    given = arguments()
    main(["run", given.search, "--out", str(given.out), "--address", given.address])
