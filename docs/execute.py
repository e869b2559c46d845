"""Executes tutorials in an empty folder and writes what they answered into them: `make tutorials`.

The pages of the site show these answers; a slow test executes the tutorials anew.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

#: What stands in the outputs for the folder in which a tutorial was executed.
FOLDER = "/home/you/tutorial"


def executed(source: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of this execution; raises CellExecutionError where a cell fails."""
    notebook = nbformat.read(source, as_version=4)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for lines with `!`
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", record_timing=False, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, "PATH": path, "COLUMNS": "100"})
    shown = json.loads(nbformat.writes(notebook).replace(json.dumps(str(folder))[1:-1], FOLDER))
    for cell in shown["cells"]:
        cell["metadata"] = {}
        if "outputs" in cell:  # without what libraries say of the place they run in
            cell["outputs"] = [output for output in cell["outputs"] if output.get("name") != "stderr"]
    shown["metadata"] = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return nbformat.from_dict(shown)


def main(paths: list[str]) -> None:
    """Execute each notebook and write it back."""
    for path in map(Path, paths):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)


if __name__ == "__main__":
    main(sys.argv[1:])
