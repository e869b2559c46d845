"""Notebooks run in a real kernel, and interrupted there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbclient
import nbformat


def execute(
    folder: Path, cells: Sequence[str], interrupt: Callable[[], bool] | None = None, timeout: int = 280
) -> list[Any]:
    """The outputs of cells run one after the other in a kernel of this Python, started in a folder.

    Args:
        interrupt: asked again and again while the last cell runs; the kernel is interrupted the first time it says yes.
    """
    return asyncio.run(_execute(folder, cells, interrupt, timeout))


async def _execute(folder: Path, cells: Sequence[str], interrupt: Callable[[], bool] | None, timeout: int) -> list[Any]:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    client = nbclient.NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(folder)}},
    )

    async def press() -> None:
        while interrupt is not None and not interrupt():
            await asyncio.sleep(0.05)
        await client.km.interrupt_kernel()

    async with client.async_setup_kernel():
        for index, cell in enumerate(notebook.cells):
            pressing = None
            if interrupt is not None and index == len(notebook.cells) - 1:
                pressing = asyncio.create_task(press())
            await client.async_execute_cell(cell, index)
            if pressing is not None:
                pressing.cancel()
    return [cell.outputs for cell in notebook.cells]


def shown(outputs: Any) -> str:
    """All that outputs of cells say, as text: streams, results, errors."""
    parts = []
    for output in outputs:
        if output.output_type == "error":
            parts.append("\n".join(output.traceback))
        else:
            parts += [str(text) for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
            parts.append(output.get("text", ""))
    return "\n".join(parts)
