"""What the product must never do: run code from data, keep a secret, or write what belongs to one patient."""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.searches import Call, trained_search, write_search
from tim_search import config
from tim_search.ledger.ledger import Ledger
from tim_search.types import BadInput

SOURCES = sorted(path for name in ("tim_search", "model", "jobs") for path in (ROOT / name).rglob("*.py"))

# What turns data into code. YAML is read in one module, below SafeLoader, which the next test looks at.
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pd.read_pickle"}
FORBIDDEN_CALLS |= {"pandas.read_pickle", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.load"}
FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_nothing_turns_data_into_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not {name.split(".")[0] for name in names} & FORBIDDEN_IMPORTS, f"{path.name}:{node.lineno}"
        if not isinstance(node, ast.Call):
            continue
        place, called = f"{path.name}:{node.lineno}", ast.unparse(node.func)
        keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
        assert called not in FORBIDDEN_CALLS, f"{place}: {called}"
        assert keywords.get("shell") != "True", f"{place}: a shell"
        assert keywords.get("allow_pickle") != "True", f"{place}: pickles"
        if called == "torch.load":
            assert keywords.get("weights_only") == "True", f"{place}: torch.load without weights_only=True"


def test_one_module_reads_and_writes_yaml() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "yaml" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("yaml", "ruamel"))
    }
    assert users == {"tim_search/gates/yaml.py"}


CODE = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:subprocess.Popen [['touch', '{mark}']]",
    "!!python/name:os.system",
    "!!python/module:os",
]


@pytest.mark.parametrize("code", CODE, ids=lambda code: code.split(" ")[0].split(":", 1)[1].replace(":", "-"))
@pytest.mark.parametrize("kind", ["search file", "cohort"])
def test_yaml_runs_no_code(call: Call, tmp_path: Path, code: str, kind: str) -> None:
    mark = tmp_path / "ran"
    text = f"cohort: {code.format(mark=mark)}\n"
    if kind == "search file":
        place = tmp_path / "search.yaml"
        place.write_text(text)
    else:
        place = tmp_path / "cohort"
        place.mkdir()
        (place / "cohort.yaml").write_text(text)
    status, out, err = call("check", place)
    assert status == 2, out + err
    assert "python" in out or "tag" in out
    assert not mark.exists()


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.slow
def test_secrets_of_the_environment_stay_there(
    call: Call,
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of MLflow, of the object store and of Ray: none is in the folder, in the ledger or in what is said."""
    secrets = {
        "MLFLOW_TRACKING_URI": "http://me:hunter2@127.0.0.1:9",
        "MLFLOW_TRACKING_PASSWORD": "hunter3",
        "RAY_AUTH_TOKEN": "hunter4",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    folder = trained_search(tmp_path / "remote", ledger=f"{bucket}/ledger")
    told = []
    for command in ("status", "tim", "check", "publish"):
        status, out, err = call(command, folder)
        assert status == (1 if command == "publish" else 0), err
        told.append(out + err)
    ledger = Ledger(f"{bucket}/ledger")
    stored = contents(folder)
    for table in ("scores", "attention"):
        for name in ledger.storage.names(table):
            with ledger.storage.read(f"{table}/{name}") as (file, _):
                stored += file.read()
    for secret in ("hunter2", "hunter3", "hunter4", os.environ["AWS_SECRET_ACCESS_KEY"]):
        assert secret not in "".join(told)
        assert secret.encode() not in stored


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hun%2Fter2@127.0.0.1:9",
        "http://me:hun/ter2@127.0.0.1:9",
        "http://me:hun ter2@127.0.0.1:9",
        "http://127.0.0.1:9/?token=hunter2&x=1",
        "postgresql://me:hunter2@127.0.0.1:9/mlflow?password=hunter2",
    ],
)
def test_a_secret_in_the_tracking_uri_stays_in_the_environment(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = trained_search(tmp_path / "small", n_subsets=1)
    said = ""
    for arguments in (("publish", folder, "--json"), ("status", folder, "--json"), ("check", folder, "--json")):
        _, out, err = call(*arguments)
        said += out + err
    _, out, err = call("heatmap", "--search", "small", "--tracking-uri", uri)
    said += out + err
    for secret in ("hunter2", "ter2", "hun%2F"):
        assert secret not in said
        assert secret.encode() not in contents(folder)


@pytest.mark.slow
def test_a_secret_in_the_tracking_uri_is_in_no_log(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    """Of a search that is run to its end: log.jsonl, versions.json, search.yaml and what the command says."""
    path = write_search(
        tmp_path / "s.yaml", tasks=["hospdead"], training={"epochs": 1, "width": 8, "replicates": 2}, blocks=1
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hun%2Fter2@127.0.0.1:9/?token=hunter3")
    code, out, err = call("run", path, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    stored = contents(tmp_path / "out").decode(errors="replace")
    assert "127.0.0.1:9" in stored  # the warning is logged
    for secret in ("hunter", "hun%2F", "ter2"):
        assert secret not in out + err + stored


@pytest.mark.parametrize(
    "line",
    [
        "tracking_uri: http://me:word@host:5000",
        "ledger: s3://key:word@bucket/x",
        "ledger: s3://bucket/x?secret_key=word",
    ],
)
def test_a_search_file_may_hold_no_secret(tmp_path: Path, line: str) -> None:
    (tmp_path / "search.yaml").write_text(f"cohort: support2\n{line}\n")
    with pytest.raises(BadInput) as raised:
        config.load(tmp_path / "search.yaml")
    assert "expected" in str(raised.value) or "environment" in str(raised.value) or "password" in str(raised.value)


# What a row may say of one unit: scores, weights and replicates are figures over all patients of a fold.
AGGREGATES = {
    *("context", "cohort", "columns", "split", "network", "settings", "subset", "size", "seed", "fold", "part", "task"),
    *("metric", "primary", "score", "status", "error", "replicates", "seconds", "pack", "created", "version"),
    *("other", "weight"),
}


@pytest.mark.parametrize("table", ["scores", "attention"])
def test_a_ledger_has_no_column_of_single_patients(tmp_path: Path, table: str) -> None:
    ledger: Any = Ledger(tmp_path / "ledger")
    assert set(getattr(ledger, table)().columns) <= AGGREGATES
