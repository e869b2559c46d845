"""TIM Search: which clinical tasks to train together, and how sure one can be.

The names below are loaded on first use, so that `import tim_search` stays light: no torch, no Ray, no MLflow. Nothing
is imported here: `python -m tim_search` runs this with the current folder first on its path, until `__main__` runs.
"""

TYPE_CHECKING = False  # without the module typing: Ctrl-C while the package is loaded would be a traceback
if TYPE_CHECKING:
    from tim_search.app.deploy import train as train_model
    from tim_search.app.model_folder import load as load_model
    from tim_search.app.own_data import check as check
    from tim_search.app.own_data import cohort as cohort
    from tim_search.app.runner import run_search as run_search
    from tim_search.app.searching import Search as Search
    from tim_search.app.searching import search as search
    from tim_search.config import SearchFile as SearchFile
    from tim_search.config import load as load_search
    from tim_search.config import resolve as resolve_search
    from tim_search.ledger.ledger import Ledger as Ledger
    from tim_search.plans.greedy import Greedy as Greedy
    from tim_search.results.opened import open_search as open_search
    from tim_search.tim.scores import estimate as estimate
    from tim_search.tim.scores import from_ledger as from_ledger
    from tim_search.tim.scores import from_table as from_table
    from tim_search.tracking import heatmaps as heatmaps
    from tim_search.types import BadInput as BadInput
    from tim_search.types import TimSearchError as TimSearchError

__version__ = "0.2.0"

#: Public name -> (module, name there).
_PUBLIC = {
    "BadInput": ("types", "BadInput"),
    "Greedy": ("plans.greedy", "Greedy"),
    "Ledger": ("ledger", "Ledger"),
    "Search": ("app.searching", "Search"),
    "SearchFile": ("config", "SearchFile"),
    "TimSearchError": ("types", "TimSearchError"),
    "check": ("app.own_data", "check"),
    "cohort": ("app.own_data", "cohort"),
    "estimate": ("tim", "estimate"),
    "from_ledger": ("tim", "from_ledger"),
    "from_table": ("tim", "from_table"),
    "heatmaps": ("tracking", "heatmaps"),
    "load_model": ("app.model_folder", "load"),
    "load_search": ("config", "load"),
    "open_search": ("results.opened", "open_search"),
    "resolve_search": ("config", "resolve"),
    "run_search": ("app.runner", "run_search"),
    "search": ("app.searching", "search"),
    "train_model": ("app.deploy", "train"),
}

__all__ = [
    "BadInput",
    "Greedy",
    "Ledger",
    "Search",
    "SearchFile",
    "TimSearchError",
    "__version__",
    "check",
    "cohort",
    "estimate",
    "from_ledger",
    "from_table",
    "heatmaps",
    "load_model",
    "load_search",
    "open_search",
    "resolve_search",
    "run_search",
    "search",
    "train_model",
]


def __getattr__(name: str) -> object:
    import importlib

    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value: object = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
