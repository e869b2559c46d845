"""What is built installs alone: the wheel, made from the source distribution, works without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.support import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the source distribution and the wheel."""
    out = tmp_path_factory.mktemp("dist")
    # Of the files that git has: a folder that is lived in holds leftovers, which must not help.
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_what_it_says_of_itself(built: Path) -> None:
    paths = [str(path) for path in sorted(built.iterdir())]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *paths], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("PASSED")) == (0, 2), done.stdout
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as members:
        (name,) = [name for name in members.namelist() if name.endswith("/METADATA")]
        metadata = Parser().parsestr(members.read(name).decode())
    assert (metadata["Name"], metadata["Version"]) == (PROJECT["name"], PROJECT["version"])
    assert metadata["Author"] == "TIM Search developers"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert len(metadata.get_all("Classifier")) > 5
    assert metadata.get_payload().startswith("# ")


@pytest.mark.slow
def test_all_files_of_the_packages_are_in_both(built: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "tim_search", "model"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = {name for name in listed if (ROOT / name).is_file()}
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as members:
        assert wanted <= set(members.namelist())
    with tarfile.open(source) as members:
        assert {*wanted, "tests/test_distribution.py", "Makefile"} <= {
            name.partition("/")[2] for name in members.getnames()
        }


@pytest.mark.slow
def test_the_wheel_works_without_the_repository(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    place, here = tmp_path / "installed", tmp_path / "elsewhere"
    here.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)]
    subprocess.run(install, check=True)
    environment = {**os.environ, "PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=here, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert Path(run("-c", "import tim_search; print(tim_search.__file__)").strip()).is_relative_to(place)
    assert "diabetes130: 0 errors" in run("-m", "tim_search", "check", "diabetes130")
    (here / "tiny.yaml").write_text(
        "cohort: support2\ntasks: [hospdead, dzclass]\ntraining: {epochs: 1, replicates: 0}\nblocks: 1\n"
        "references: false\nresources: {cpus: 1, workers: 1}\nout: found\n"
    )
    run("-m", "tim_search", "run", "tiny.yaml")
    run("-m", "tim_search", "report", "found")
    assert (here / "found" / "report.html").stat().st_size > 10_000
    run("-m", "tim_search", "train", "found", "--source", "dzclass", "--subset", "dzclass", "--seeds", "1")
