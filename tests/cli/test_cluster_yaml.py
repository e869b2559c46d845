"""cluster.yaml is what Ray's own cluster launcher accepts, and says what the rest of the project says."""

from __future__ import annotations

import copy
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def validated(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    prepared = validated(config)
    workers = prepared["available_node_types"]["gpu-worker"]
    assert workers["resources"]["GPU"] == 1
    assert workers["min_workers"] == 0, "idle GPU workers are given back"
    assert workers["max_workers"] == prepared["max_workers"] > 0
    assert prepared["available_node_types"][prepared["head_node_type"]]["resources"]["CPU"] == 0


def test_the_search_for_it_asks_for_all_its_machines(config: dict[str, Any]) -> None:
    wanted = yaml.safe_load((ROOT / "jobs" / "twelve-sampled.yaml").read_text())["resources"]
    worker = config["available_node_types"]["gpu-worker"]
    assert wanted["workers"] == worker["max_workers"]
    assert wanted["cpus"] <= worker["resources"]["CPU"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in config["available_node_types"]["head"]["node_config"]


def test_ray_accepts_the_one_for_own_machines() -> None:
    config = yaml.safe_load((ROOT / "jobs" / "cluster" / "own-machines.yaml").read_text())
    prepared = validated(config)
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    head, worker = (" ".join(config[f"{kind}_start_ray_commands"]) for kind in ("head", "worker"))
    assert "--num-cpus=0" in head
    assert "--num-cpus=0" not in worker
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token" in command
        assert "RAY_AUTH_TOKEN" not in command
    with pytest.raises(Exception, match="maximum_workers"):
        validated({**config, "maximum_workers": 4})


def test_what_is_submitted_is_far_below_rays_limit(tmp_path: Path) -> None:
    """100 MiB. Ray submits all that .gitignore does not name, whether or not the folder is a checkout."""
    git = ["git", f"--git-dir={tmp_path / 'none'}", f"--work-tree={ROOT}"]  # a repository that knows no file yet
    subprocess.run([*git, "init", "--quiet"], check=True)
    listing = [*git, "ls-files", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split("\0") if name and not name.startswith(".git/")]
    assert ROOT / "cluster.yaml" in paths
    assert not any(".venv" in path.parts for path in paths)
    assert sum(path.stat().st_size for path in paths if path.is_file()) < 20 * 2**20


def test_ray_refuses_an_unknown_key(config: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="maximum_workers"):
        validated({**config, "maximum_workers": 4})


def test_the_images_carry_the_pinned_ray(config: dict[str, Any]) -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for image in ("head_image", "worker_image"):
        assert f":{pins['ray']}-py311" in config["docker"][image]


def test_no_secret_is_written_down(config: dict[str, Any]) -> None:
    text = (ROOT / "cluster.yaml").read_text()
    assert "RAY_AUTH_TOKEN=" not in text
    assert "RAY_AUTH_MODE=token" in " ".join(config["docker"]["head_run_options"])
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_constraints_pin_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [name for of_extra in project["optional-dependencies"].values() for name in of_extra]
    wanted = [name for name in (*project["dependencies"], *extras) if not name.startswith("tim-search[")]
    names = {name.split("[")[0].split(">")[0].strip().lower() for name in wanted}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = {line.split("==")[0].lower(): line.split("==")[1] for line in lines}
    # What others bring in: psycopg[binary], mkdocs-material, mkdocstrings[python], es-aces and MIMIC-IV-MEDS.
    brought = {"psycopg-binary", "mkdocs", "mkdocstrings-python", "meds", "polars", "meds-extract", "meds-transforms"}
    assert set(pins) - brought == names
    assert not [version for version in pins.values() if "+" in version], "a local version suits one package index only"
