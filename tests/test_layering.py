"""The walls of the code, read from its syntax trees: layers, library owners, what networks may import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module of tim_search imports only from modules of a lower layer.
LAYERS: dict[str, int] = {
    "types": 0,
    "small_cells": 0,
    "last_words": 0,
    "units": 1,
    "designs": 2,
    "packing": 2,
    "storage": 1,
    "rows": 2,
    "ledger": 3,
    "readings": 4,
    "card": 1,
    "mlflow_store": 1,
    "pyfunc": 1,
    "serving": 1,
    "estimators": 1,
    "games": 2,
    "many": 2,
    "blocks": 3,
    "expansion": 3,
    "caveats": 4,
    "surrogate": 4,
    "tim": 5,
    "executors": 4,
    "ray_executor": 5,
    "search": 5,
    "stopping": 6,
    "power": 6,
    "plans": 7,
    "merge": 9,
    "events": 6,
    "tracking": 6,
    "grouping": 5,
    "agreement": 1,
    "report": 9,
    "wording": 6,
    "figures": 6,
    "choices": 6,
    "per_subset": 4,
    "tuned": 6,
    "space": 7,
    "tuning": 7,
    "reading": 6,
    "summary": 8,
    "spec": 8,
    "confirmed_figures": 7,
    "forecast": 9,
    "confirmation": 9,
    "gallery": 10,
    "runner": 11,
    "confirmer": 12,
    "deploy": 11,
    "extension": 12,
    "display": 9,
    "inside": 9,
    "comparison": 9,
    "inside_figures": 7,
    "console": 1,
    "cohort_cli": 12,
    "cli": 13,
}

# Heavy libraries, and the modules of tim_search that may import them.
OWNERS: dict[str, set[str]] = {
    "torch": set(),
    "sklearn": set(),
    "ray": {"ray_executor", "tuning"},
    "optuna": {"tuning"},
    "mlflow": {"tracking", "mlflow_store", "pyfunc", "serving"},
    "matplotlib": {"figures", "confirmed_figures", "inside_figures"},
    "pyarrow": {"ledger", "rows", "storage"},
    "pandas": {"ledger", "rows", "tracking", "tim", "confirmation", "gallery", "deploy", "serving"},
    "scipy": {
        "power",
        "tim",
        "blocks",
        "estimators",
        "expansion",
        "grouping",
        "agreement",
        "surrogate",
        "confirmation",
    },
    "jinja2": {"report"},
    "threadpoolctl": {"tim"},
    "pydantic": {"spec", "reading", "space"},
    "pydantic_core": {"spec", "reading", "space"},
    "yaml": {"spec", "reading"},
    "typer": {"cli", "cohort_cli"},
    "rich": {"console", "display"},
}

# What a machine with nothing but a training stack has: the networks import from here alone.
MODEL_MAY_IMPORT = {"torch", "numpy", "pandas", "pyarrow", "sklearn", "scipy", "model", "tim_search"}
MODEL_MAY_IMPORT_INSIDE_FUNCTIONS = {"yaml", "umap"}
# The networks need torch only where they compute; a cohort is read without it.
WITHOUT_TORCH = {
    "model.cohort",
    "model.control",
    "model.haim",
    "model.manifest",
    "model.settings",
    "model.support2",
    "model.table_guess",
}

JOB_LINES = 60


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> Iterator[tuple[str, bool, int]]:
    """(full name, whether at module level, line) of every import that runs; `if TYPE_CHECKING` blocks do not."""

    def walk(nodes: list[ast.stmt] | list[ast.AST], top: bool) -> Iterator[tuple[str, bool, int]]:
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, top, node.lineno
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", top, node.lineno
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from walk(node.orelse, top)
            else:
                inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(list(ast.iter_child_nodes(node)), top and not inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")).body, True)


def own_module(name: str) -> str | None:
    """The module of tim_search that an imported name stands for, or None."""
    parts = name.split(".")
    if parts[0] != "tim_search":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "the package itself"


def test_every_module_has_a_layer() -> None:
    found = {path.stem for path in modules("tim_search")} - {"__init__", "__main__"}
    assert found <= set(LAYERS), f"give {sorted(found - set(LAYERS))} a layer in this test and in docs/structure.md"


def test_the_table_of_layers_says_the_same() -> None:
    lines = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if re.match(r"\| \d+ \| `", line)]
    assert {name.strip("`"): int(layer) for layer, name, *_ in rows} == LAYERS
    owned = {name.strip("`"): set(filter(None, heavy.split(", "))) for _, name, _, heavy in rows}
    for name, told in owned.items():
        expected = {library for library, owners in OWNERS.items() if name in owners} - {"pydantic_core"}
        assert told == expected, f"{name}: docs/structure.md names {sorted(told)}"


@pytest.mark.parametrize("path", modules("tim_search"), ids=lambda path: path.stem)
def test_imports_go_down(path: Path) -> None:
    if path.stem in {"__init__", "__main__"}:
        return
    for name, _, line in imported(path):
        other = own_module(name)
        if other is None:
            continue
        assert other in LAYERS or path.stem == "cli", f"{path.name}:{line}: imports {name}, not a module"
        if other in LAYERS:
            assert LAYERS[other] < LAYERS[path.stem], f"{path.name}:{line}: {path.stem} may not import {other}"


@pytest.mark.parametrize("path", modules("tim_search"), ids=lambda path: path.stem)
def test_heavy_libraries_have_owners(path: Path) -> None:
    for name, _, line in imported(path):
        library = name.split(".")[0]
        if library in OWNERS:
            assert path.stem in OWNERS[library], f"{path.name}:{line}: {library} belongs to {sorted(OWNERS[library])}"


@pytest.mark.parametrize("path", modules("tim_search"), ids=lambda path: path.stem)
def test_the_search_knows_no_networks(path: Path) -> None:
    for name, top, line in imported(path):
        if name.split(".")[0] == "model":
            assert path.stem in {"spec", "cli", "cohort_cli", "deploy", "extension", "inside", "serving"}, (
                f"{path.name}:{line}: {path.stem} may not know the networks"
            )
            assert not top, f"{path.name}:{line}: import {name} inside the function that needs it"


@pytest.mark.parametrize("path", modules("model"), ids=lambda path: path.stem)
def test_networks_import_a_training_stack_alone(path: Path) -> None:
    for name, top, line in imported(path):
        library = name.split(".")[0]
        if library in sys.stdlib_module_names:
            continue
        allowed = MODEL_MAY_IMPORT if top else MODEL_MAY_IMPORT | MODEL_MAY_IMPORT_INSIDE_FUNCTIONS
        assert library in allowed, f"{path.name}:{line}: the networks may not import {name}"
        if library == "tim_search":
            assert own_module(name) == "types", f"{path.name}:{line}: the networks know tim_search.types alone"


@pytest.mark.parametrize("path", modules("jobs"), ids=lambda path: path.stem)
def test_jobs_are_thin(path: Path) -> None:
    assert len(path.read_text().splitlines()) < JOB_LINES
    for name, _, line in imported(path):
        assert name.split(".")[0] in sys.stdlib_module_names or own_module(name) == "cli", f"{path.name}:{line}: {name}"


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tim_search", {"torch", "ray", "mlflow", "pandas", "pydantic", "typer", "scipy"}),
        ("import tim_search.cli", {"torch", "ray", "mlflow", "pandas", "pydantic", "scipy", "model"}),
        ("import tim_search.types", {"torch", "ray", "mlflow", "pandas"}),
        *((f"import {name}", {"torch", "ray", "mlflow", "pydantic", "yaml"}) for name in sorted(WITHOUT_TORCH)),
    ],
)
def test_imports_stay_light(statement: str, absent: set[str]) -> None:
    code = f"import sys; {statement}; print(*sorted({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_public_names_are_there() -> None:
    import tim_search

    assert set(tim_search.__all__) == {"__version__", *tim_search._PUBLIC}
    for name in tim_search.__all__:
        assert getattr(tim_search, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        tim_search.nothing  # noqa: B018
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == tim_search.__version__


def test_the_networks_run_without_the_search() -> None:
    """model/ imports where the search's libraries are not installed: here each of them is made to fail."""
    code = (
        "import sys\n"
        "for name in ('ray', 'mlflow', 'optuna', 'pydantic', 'yaml', 'typer', 'matplotlib'): sys.modules[name] = None\n"
        "import model.training, model.cohort, model.deployed\n"
        "assert len(model.cohort.open_cohort('support2').tasks) == 12\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
