"""The same start of every command that goes on with a search: names checked, its file resolved, its cohort opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tim_search import config
from tim_search.results import merge
from tim_search.results.opened import SearchResults
from tim_search.types import BadInput, near, some

#: Seeds of a command: each is at least one training, and every training is a row of a table.
MOST_SEEDS = 1000


def reopen(
    results: SearchResults,
    *,
    consequence: str,
    allow_code: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> config.ResolvedSearch:
    """The search of a folder, ready to train what belongs to it.

    Args:
        results: the folder, as `open_search` reads it.
        consequence: what follows where the cohort or the settings have changed since.
        allow_code: whether a network of one's own may be imported.
        note: takes a line before the cohort is read.

    Raises:
        BadInput: its file cannot be used, or cohort or settings are no longer those of the search.
    """
    note(f"Reading the cohort {results.manifest.cohort}")
    file = config.load(results.folder / "search.yaml", allow_code=allow_code)
    search = config.resolve(file, results.folder, allow_code=allow_code)
    if search.context != results.manifest.context:
        differ = "; ".join(
            merge.differences(results.manifest.context, search.context, results.control, search.design.get("control"))
        )
        raise BadInput(
            f"{results.folder} holds the search {results.manifest.name!r} with another context: {differ} differ. "
            f"The cohort {search.cohort.name} or the training settings are no longer those of the search, so "
            f"{consequence}. Bring the cohort back, or search again."
        )
    return search


def check_tasks(option: str, names: Sequence[str] | None, results: SearchResults) -> list[str]:
    """The tasks of a search without its control.

    Raises BadInput where `names` is an empty list, or one of them is no such task; None asks for nothing.
    """
    tasks = [name for name in results.tasks if name != results.control]
    if names is not None and not names:
        raise BadInput(
            f"{option}: expected names of tasks, got none. Is a variable unset? Leave {option} out, or name some of: "
            f"{some(tasks, 20)}."
        )
    if unknown := [name for name in names or () if name not in tasks]:
        raise BadInput(
            f"{option}: expected tasks of the search, got {some([name or repr(name) for name in unknown])}."
            f"{near(unknown[0], tasks)} Its tasks are: {some(tasks, 20)}."
        )
    return tasks


def check_named(**options: str | None) -> None:
    """Raise BadInput where an option is given and names nothing, as `--register "$NAME"` with an unset variable."""
    for option, value in options.items():
        if value is not None and not value.strip():
            raise BadInput(f"--{option.replace('_', '-')}: expected a name, got an empty one. Is a variable unset?")


def check_seeds(seeds: int, usual: int) -> None:
    """Raise BadInput for a number of seeds that no training can have."""
    if not 1 <= seeds <= MOST_SEEDS:
        raise BadInput(f"--seeds: expected a whole number from 1 to {MOST_SEEDS}, got {seeds}. The default is {usual}.")
