"""The walls of the code, read from its syntax trees: order of packages, library owners, what networks may import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

#: The packages, from bottom to top: each imports only from those above it in this list, also inside functions.
ORDER = (
    "tim_search.types",
    "tim_search.gates",
    "model.cohorts",
    "model.sources",
    "model.data",
    "model.scoring",
    "model.networks",
    "model.training",
    "model.trained",
    "tim_search.designs",
    "tim_search.ledger",
    "tim_search.tim",
    "tim_search.plans",
    "tim_search.executors",
    "tim_search.loop",
    "tim_search.tuning",
    "tim_search.results",
    "tim_search.report",
    "tim_search.tracking",
    "tim_search.config",
    "tim_search.app",
    "tim_search.cli",
)

#: What may lie beside the packages: the doors to them, and names under which other people's files import.
BESIDE = {
    "tim_search": {"__init__", "__main__"},
    "model": {"__init__", "deployed", "lifted", "settings"},
}

#: Heavy libraries, and the packages that may import them.
OWNERS: dict[str, set[str]] = {
    "duckdb": {"model.sources"},
    # Outcomes of event tables are extracted by ACES alone; polars and OmegaConf come with it.
    "aces": {"model.sources"},
    "omegaconf": {"model.sources"},
    "MEDS_extract": {"model.sources"},  # says which columns the converter of MIMIC-IV reads
    "openpyxl": {"model.sources"},
    "pyreadstat": {"model.sources"},
    "sqlalchemy": {"model.sources"},
    "transformers": {
        "model.data"
    },  # frozen models that embed notes and images: they need torch, as all of that package
    "PIL": {"model.data"},
    "torch": {"model.data", "model.scoring", "model.networks", "model.training", "model.trained"},
    "sklearn": {"model.training", "model.trained"},
    "ray": {"tim_search.executors", "tim_search.tuning"},
    "optuna": {"tim_search.tuning"},
    "mlflow": {"tim_search.tracking"},
    "matplotlib": {"tim_search.report"},
    "jinja2": {"tim_search.report"},
    "threadpoolctl": {"tim_search.tim"},
    "pydantic": {"tim_search.gates", "tim_search.config", "tim_search.tuning"},
    "pydantic_core": {"tim_search.gates", "tim_search.config", "tim_search.tuning"},
    "yaml": {"tim_search.gates"},
    "typer": {"tim_search.cli"},
    "rich": {"tim_search.cli"},
}

#: Packages of the search that may know the networks, inside the functions that need them.
JOINTS = {"tim_search.config", "tim_search.app", "tim_search.tracking", "tim_search.cli"}

#: Packages of the search that the networks know.
MODEL_KNOWS = {"tim_search.types", "tim_search.gates"}

# What a machine with nothing but a training stack has: the networks import from here alone.
MODEL_MAY_IMPORT = {"torch", "numpy", "pandas", "pyarrow", "sklearn", "scipy", "model", "tim_search"}
MODEL_MAY_IMPORT_INSIDE_FUNCTIONS = {
    "umap", "duckdb", "openpyxl", "pyreadstat", "sqlalchemy", "aces", "omegaconf", "transformers", "PIL",
    "MEDS_extract",
}  # fmt: skip
# The networks need torch only where they compute; a cohort is read without it.
WITHOUT_TORCH = {
    "model.cohorts.cohort",
    "model.cohorts.control",
    "model.sources.haim",
    "model.cohorts.manifest",
    "model.networks.settings",
    "model.sources.support2",
    "model.sources.diabetes130",
    "model.sources.own_table",
    "model.sources.events.building",
}

JOB_LINES = 60


def modules(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path, *, for_types: bool = False) -> Iterator[tuple[str, bool, int]]:
    """(full name, whether at module level, line) of every import that runs; `for_types`: those for types too."""

    def walk(nodes: list[ast.stmt] | list[ast.AST], top: bool) -> Iterator[tuple[str, bool, int]]:
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield alias.name, top, node.lineno
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
                for alias in node.names:
                    yield f"{node.module}.{alias.name}", top, node.lineno
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not for_types:
                yield from walk(node.orelse, top)
            else:
                inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(list(ast.iter_child_nodes(node)), top and not inside)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")).body, True)


def package(name: str) -> str | None:
    """The package of the product that a module or an imported name belongs to; None where it is none of them."""
    parts = name.split(".")
    if parts[0] not in BESIDE or len(parts) < 2 or not (ROOT / parts[0] / parts[1]).is_dir():
        return None
    return ".".join(parts[:2])


def module_name(path: Path) -> str:
    """Dotted name of a module of the product."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PRODUCT = [path for folder in BESIDE for path in modules(folder)]


def test_every_module_lies_in_a_package_of_the_list() -> None:
    assert len(ORDER) <= 22
    assert len(set(ORDER)) == len(ORDER)
    assert {name for path in PRODUCT if (name := package(module_name(path)))} == set(ORDER)
    for folder, names in BESIDE.items():
        assert {path.stem for path in (ROOT / folder).glob("*.py")} == names, "a module of its own beside the packages"


@pytest.mark.parametrize("name", ORDER)
def test_every_package_says_what_belongs_in_it(name: str) -> None:
    folder = ROOT / name.replace(".", "/")
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert text, f"{name} says nothing of itself"


@pytest.mark.parametrize("path", PRODUCT, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    own = package(module_name(path))
    if own is None:
        return
    for name, _, line in imported(path):
        other = package(name)
        if other is not None and other != own:
            assert other in ORDER, f"{path.name}:{line}: {name} is in no package of the list"
            assert ORDER.index(other) < ORDER.index(own), f"{path.name}:{line}: {own} may not import {other}"


def test_no_circle_of_modules() -> None:
    """Also none inside functions or for types; a package's `__init__` counts where names are taken from it."""
    names = {module_name(path) for path in PRODUCT}
    edges: dict[str, set[str]] = {}
    for path in PRODUCT:
        edges[module_name(path)] = {
            target
            for name, _, _ in imported(path, for_types=True)
            if (target := _module_of(name, names)) and target != module_name(path)
        }
    done: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(edges[name]):
                walk(target, (*trail, name))
            done.add(name)

    for name in sorted(names):
        walk(name, ())


def _module_of(name: str, names: set[str]) -> str | None:
    """The module that an imported name is, or is taken from."""
    return name if name in names else parent if (parent := name.rpartition(".")[0]) in names else None


@pytest.mark.parametrize("path", PRODUCT, ids=module_name)
def test_heavy_libraries_have_owners(path: Path) -> None:
    for name, _, line in imported(path):
        library, own = name.split(".")[0], package(module_name(path))
        if library in OWNERS:
            assert own in OWNERS[library], f"{path.name}:{line}: {library} belongs to {sorted(OWNERS[library])}"


@pytest.mark.parametrize("path", modules("tim_search"), ids=module_name)
def test_the_search_knows_no_networks(path: Path) -> None:
    for name, top, line in imported(path):
        if name.split(".")[0] == "model":
            assert package(module_name(path)) in JOINTS, f"{path.name}:{line}: may not know the networks"
            assert not top, f"{path.name}:{line}: import {name} inside the function that needs it"


@pytest.mark.parametrize("path", modules("model"), ids=module_name)
def test_networks_import_a_training_stack_alone(path: Path) -> None:
    for name, top, line in imported(path):
        library = name.split(".")[0]
        if library in sys.stdlib_module_names:
            continue
        allowed = MODEL_MAY_IMPORT if top else MODEL_MAY_IMPORT | MODEL_MAY_IMPORT_INSIDE_FUNCTIONS
        assert library in allowed, f"{path.name}:{line}: the networks may not import {name}"
        if library == "tim_search":
            assert package(name) in MODEL_KNOWS, f"{path.name}:{line}: the networks know {MODEL_KNOWS} alone"


#: A file is read in one sitting, a function on one screen.
FILE_LINES, FUNCTION_LINES = 450, 60
#: Places that may be longer, and why.
LONGER: dict[str, str] = {}

#: Words that say nothing of what a name holds.
VAGUE = {"found", "one", "known", "told", "kept", "said", "made"}


@pytest.mark.parametrize("path", PRODUCT, ids=module_name)
def test_files_and_functions_can_be_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    sizes = {module_name(path): (len(text.splitlines()), FILE_LINES)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            sizes[f"{module_name(path)}.{node.name}"] = (lines, FUNCTION_LINES)
    long = {name: lines for name, (lines, most) in sizes.items() if lines > most and name not in LONGER}
    assert not long, "split along a real seam, or add a reason to LONGER"


@pytest.mark.parametrize("path", PRODUCT, ids=module_name)
def test_names_say_what_they_hold(path: Path) -> None:
    vague = [
        f"{path.name}:{node.lineno}: {name}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (name := _bound(node)) in VAGUE
    ]
    assert not vague


def _bound(node: ast.AST) -> str | None:
    """The name that a node binds: a variable that is assigned, or an argument."""
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return node.id
    return node.arg if isinstance(node, ast.arg) else None


def test_the_page_shows_the_tree_as_it_is() -> None:
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `((?:tim_search|model)\.\w+)` \|", text, re.MULTILINE)) == ORDER


def test_the_reading_path_is_an_hour_long() -> None:
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    path = [(name, int(lines)) for name, lines in re.findall(r"^\| `(\S+\.py)` \|.*\| (\d+) \|$", text, re.MULTILINE)]
    assert len(path) > 5
    for name, lines in path:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) == lines, f"{name} in docs/structure.md"
    assert sum(lines for _, lines in path) <= 1500


@pytest.mark.parametrize("path", modules("jobs"), ids=lambda path: path.stem)
def test_jobs_are_thin(path: Path) -> None:
    assert len(path.read_text().splitlines()) < JOB_LINES
    for name, _, line in imported(path):
        assert name.split(".")[0] in sys.stdlib_module_names or package(name) == "tim_search.cli", (
            f"{path.name}:{line}: {name}"
        )


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tim_search", {"torch", "ray", "mlflow", "pandas", "pydantic", "typer", "scipy"}),
        ("import tim_search.cli.commands", {"torch", "ray", "mlflow", "pandas", "pydantic", "scipy", "model"}),
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
        "import model.training.trainer, model.sources.opening, model.trained.deployed\n"
        "assert len(model.sources.opening.open_cohort('support2').tasks) == 12\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
