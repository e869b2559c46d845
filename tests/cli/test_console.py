"""What reaches the terminal, and what ends a command before it begins: hostile texts, odd outputs, early signals."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.table import Table

from tests.support import ROOT
from tests.support.searches import Call, trained_search
from tim_search.cli import console, options
from tim_search.cli.root import app
from tim_search.types import BadInput

SOURCES = sorted(path for name in ("tim_search", "model") for path in (ROOT / name).rglob("*.py"))
HOSTILE = "hosp\x1b]0;owned\x07dead\x9b2J\u202e[bold]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_only_the_console_writes_to_the_terminal(path: Path) -> None:
    if path in (ROOT / "tim_search" / "cli" / "console.py", ROOT / "tim_search" / "app" / "cells.py"):
        return  # the two gates: of the command line, and of calls from Python
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            allowed = path.parts[-2:] == ("cli", "__init__.py") and called == "sys.stderr.write"
            written = called in {"print", "typer.echo", "typer.secho", "rich.print", "sys.stdout.write"}
            assert allowed or not (written or called == "sys.stderr.write"), f"{path.name}:{node.lineno}: {called}"


@pytest.mark.parametrize("shape", ["text", "cell", "title", "message"])
def test_no_text_steers_the_terminal(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(HOSTILE, title=HOSTILE if shape == "title" else None)
    table.add_row(HOSTILE)
    if shape == "message":
        console.warn(HOSTILE)
    else:
        console.show(HOSTILE if shape == "text" else table)
    shown = "".join(capsys.readouterr())
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    assert "x1b" in shown.replace("\n", "")


def test_json_holds_the_names_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"name": HOSTILE, "value": float("nan"), "ward": "Köln"})
    text = capsys.readouterr().out
    assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert json.loads(text) == {"name": HOSTILE, "value": None, "ward": "Köln"}
    assert "Köln" in text


def test_a_size_that_is_none_shows_everything(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trained_search(tmp_path / "small", n_subsets=2)
    commands = (["status", path], "units trained"), (["status", "--help"], "Show how far a search is")
    for size in ("0", "1", "x", "", "\u00b2", "9" * 11):
        for arguments, shown in commands:
            for name in ("COLUMNS", "TERMINAL_WIDTH", "LINES"):
                monkeypatch.setenv(name, size)
            code, out, _ = call(*arguments)
            assert (code, shown in out) == (0, True), size


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["confirm", "runs/demo", "--subset", ""], "--subset"),
        (["confirm", "runs/demo", "--subset="], "--subset"),
        (["confirm", "runs/demo", "--subset", " \t"], "--subset"),
        (["run", "search.yaml", "--out", ""], "--out"),
        (["status", ""], "argument 2"),
        (["tim", "runs/demo", "--source", ""], "--source"),
        (["predict", "model", "rows.csv", "--id", ""], "--id"),
        (["status", "a\0b"], "NUL"),
        (["status", "a\ud800b"], "lone surrogate"),
        (["status", "x" * 300], "300 bytes"),
    ],
)
def test_an_argument_that_holds_nothing_or_no_text(arguments: list[str], place: str, call: Call) -> None:
    code, _, err = call(*arguments)
    assert (code, place in err) == (2, True)


def test_no_option_of_any_command_takes_nothing_for_a_value(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def options_of(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
        for name, inner in getattr(command, "commands", {}).items():
            yield from options_of(inner, (*path, name))
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.is_flag:
                yield from ((path, option) for option in parameter.opts)

    every = list(options_of(typer.main.get_command(app), ()))
    assert {"--subset", "--out", "--by", "--rule", "--register", "--cohort", "--tracking-uri"} <= {
        name for _, name in every
    }
    for path, option in every:
        for given in ([option, ""], [f"{option}="], [option, " "]):
            code, _, err = call(*path, *given)
            assert (code, option in err, "empty text" in err) == (2, True, True), (path, given)


def test_the_names_of_many_tasks_may_be_longer_than_a_path(tmp_path: Path, call: Call) -> None:
    folder = trained_search(tmp_path / "small", n_subsets=2)
    names = "+".join(f"mortality_within_{number}_days" for number in range(45))
    for given in (["--subset", names], [f"--subset={names}"]):
        code, _, err = call("confirm", folder, *given)
        assert (code, "expected tasks of the search" in err) == (2, True), err


@pytest.mark.parametrize("combination", ["+", "a+", "+a", "a++b", " + "])
def test_a_combination_with_an_empty_name_is_not_all_of_them(combination: str) -> None:
    with pytest.raises(BadInput, match="with an empty name"):
        options.task_names(combination)
    assert options.task_names(None) is None
    assert options.task_names("a + b") == ("a", "b")


# -------------------------------------------------------------------- processes


def started(*arguments: str, **streams: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "tim_search", *arguments], text=True, env=environment, **streams)  # type: ignore[call-overload, no-any-return]


def test_an_output_that_is_full_or_not_read(tmp_path: Path) -> None:
    path = str(trained_search(tmp_path / "small", n_subsets=2))
    with open("/dev/full", "w") as full:
        process = started("status", path, stdout=full.fileno(), stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "cannot be written: No space left on device" in err.replace("\n", " ")
    assert "Traceback" not in err
    read, write = os.pipe()
    os.close(read)
    process = started("status", path, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, "")
    shell = ["bash", "-c", f'"{sys.executable}" -m tim_search status "$1" >&-', "bash", path]
    done = subprocess.run(shell, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (0, "")
    assert "standard output is closed" in done.stderr


def test_a_command_whose_messages_nobody_gets_ends_as_it_would(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        for arguments, code in ((["nonsense"], 2), (["status", str(tmp_path)], 2)):
            process = started(*arguments, stdout=subprocess.PIPE, stderr=full.fileno())
            out, _ = process.communicate(timeout=60)
            assert (process.returncode, out) == (code, "")


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.4, 0.8])
def test_an_early_interruption_is_one_sentence(seconds: float, tmp_path: Path) -> None:
    path = str(trained_search(tmp_path / "small", n_subsets=2))
    process = started("status", path, "--watch", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # Before Python has begun to run any of this product's lines, it ends as Python does.
    if process.returncode != -signal.SIGINT and "init_import_site" not in err:
        assert process.returncode == 130
        assert len(err.strip().splitlines()) == 1, err


def test_an_interruption_while_the_commands_are_put_together_is_one_sentence() -> None:
    code = """if True:
        import typer.main
        from tim_search.cli import commands
        def interrupted(*_, **__): raise KeyboardInterrupt
        typer.main.get_command_from_info = interrupted
        commands.main(["status", "x"])"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 130
    assert done.stderr == "stopped: Interrupted before anything was done. The same command can be run again.\n"


# -------------------------------------------------------------------- to whom credentials go


def test_a_folder_does_not_decide_who_gets_the_credentials_of_mlflow(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = trained_search(tmp_path / "received", n_subsets=4)
    server = "http://127.0.0.1:9"
    with (path / "search.yaml").open("a") as file:
        file.write(f"tracking_uri: {server}\n")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "mine")
    for trusted in (None, "http://127.0.0.1:10"):
        if trusted:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", trusted)
        code, _, err = call("publish", path)
        assert (code, "a file alone does not decide that" in err.replace("\n", " ")) == (2, True)
        assert f"MLFLOW_TRACKING_URI={server}" in err
    code, _, err = call("publish", path, "--tracking-uri", server)
    assert (code, "nothing answers" in err) == (1, True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    code, _, err = call("publish", path)
    assert (code, "nothing answers" in err) == (1, True)
