"""Pages of the site that are made when it is built: from the code, from files beside docs/, and from notebooks.

A hook of MkDocs (mkdocs.yml). A plain mention of a page, such as "docs/maths.md", becomes a link on the way.
"""

from __future__ import annotations

import base64
import inspect
import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import MISSING
from functools import lru_cache
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[1]

#: Files of the root that are pages, too.
BESIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}

#: "docs/maths.md" in a sentence, and a link whose text is nothing but the name of the file.
_MENTION = re.compile(r"(?<![\w/`\[])(?<!\]\()docs/([\w/-]+\.md)(?![\w`\]])")
_NAMED_BY_FILE = re.compile(r"\[[\w/-]+\.md\]\(([\w/.-]+\.md)\)")
#: A link to a file of whoever executed a notebook.
_OWN_FILE = re.compile(r'<a href="(?!https?:|#)[^"]*">(.*?)</a>', re.DOTALL)
_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site with those that are made."""
    for path, content in generated().items():
        files.append(File.generated(config, path, content=content))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
        for path, content in notebook_page(Path(notebook.abs_src_path or "")).items():
            files.append(
                File.generated(
                    config,
                    posixpath.join(posixpath.dirname(notebook.src_uri), path),
                    content=content,
                )
            )
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page in which other pages go by their titles; none within code."""
    folder = posixpath.dirname(page.file.src_uri) or "."

    def link(target: str) -> str:
        return f"[{_title(target)}]({posixpath.relpath(target, folder)})"

    def linked(text: str) -> str:
        text = text.replace(".ipynb)", ".md)")  # a notebook's page
        text = _NAMED_BY_FILE.sub(
            lambda named: link(posixpath.normpath(posixpath.join(folder, named[1]))),
            text,
        )
        return _MENTION.sub(lambda mention: link(mention[1]), text)

    lines, fenced = [], False
    for line in markdown.split("\n"):
        fenced ^= line.lstrip().startswith("```")
        parts = line.split("`")
        if not fenced and not line.startswith("    "):
            parts[::2] = map(linked, parts[::2])
        lines.append("`".join(parts))
    return "\n".join(lines)


def _title(target: str) -> str:
    """The heading of a page; its path where no file has it, so that the check of links tells."""
    path = ROOT / "docs" / target
    text = path.read_text(encoding="utf-8") if path.is_file() else generated().get(target, target)
    return text.partition("\n")[0].lstrip("# ")


@lru_cache(maxsize=1)
def generated() -> dict[str, str]:
    """Markdown by path: the pages that are not written by hand."""
    pages = {page: beside(ROOT / name) for name, page in BESIDE.items()}
    return pages | {
        "reference/python.md": python_names(),
        "reference/search-file.md": search_file(),
        "reference/settings.md": settings(),
        "reference/commands.md": commands(),
    }


def beside(path: Path) -> str:
    """A file of the root as a page: its links lead from docs/."""
    text = path.read_text(encoding="utf-8").replace("](docs/", "](")
    for name, page in BESIDE.items():
        text = text.replace(f"]({name})", f"]({page})")
    return text


def python_names() -> str:
    """The public names, each from its docstring."""
    import tim_search

    names = [name for name in tim_search.__all__ if not name.startswith("__")]
    order = sorted(names, key=lambda name: (name[0].isupper(), name.lower()))
    entries = [f"::: tim_search.{name}\n" for name in order]
    return "\n".join(
        [
            "# Python names\n",
            "`import tim_search` loads each of them on first use.\n",
            *entries,
        ]
    )


def search_file() -> str:
    """Every key of a search file, section by section, as its reader knows it."""
    from tim_search.config import sections
    from tim_search.tuning.space import Range, TuningSection

    parts: list[tuple[str, type[BaseModel]]] = [
        ("Keys", sections.SearchFile),
        ("`tasks: {all_but: [...]}`", sections.AllBut),
        ("`design: exact`", sections.ExactDesign),
        ("`design: {sized: k}`", sections.SizedDesign),
        ("`design: {sampled: {...}}`", sections.SampledDesign),
        ("`stop` of a sampled design", sections.StopSection),
        ("`design: {greedy: {...}}`", sections.GreedyDesign),
        ("`design: {surrogate: {...}}`", sections.SurrogateDesign),
        ("`resources`", sections.ResourcesSection),
        ("`tuning`", TuningSection),
        ("A range of `tuning: {space: ...}`", Range),
    ]
    text = [
        "# Search file: every key",
        "Written from the models that read a search file; docs/search-file.md explains them with an example.",
        "What `training` may hold depends on the network: [settings of the networks](settings.md).",
    ]
    for title, model in parts:
        text += [f"## {title}", _prose(model), *_table(model)]
    return "\n\n".join(filter(None, text)) + "\n"


def _prose(model: type[BaseModel]) -> str:
    """What the docstring says of a section, without what only a reader of the code needs."""
    text = " ".join((model.__doc__ or "").split())
    return re.split(r"; (?:after|`name)| \(see `", text)[0].rstrip(".") + "."


def _table(model: type[BaseModel]) -> Iterator[str]:
    rows = []
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            shown = "needed"
        elif default is None:
            shown = "not set"
        else:
            plain = default.model_dump(exclude_none=True) if isinstance(default, BaseModel) else default
            shown = f"`{json.dumps(plain)}`"
        allowed = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {allowed} | {shown} |")
    if rows:
        yield "\n".join(["| Key | Expected | Default |", "|---|---|---|", *rows])


def settings() -> str:
    """The settings of each network with their defaults, from their docstrings."""
    from model.networks import settings as of_networks

    text = [
        "# Settings of the networks",
        "Keys of `training:` in a search file; docs/networks.md says what they do.",
    ]
    for network, kind in (
        ("m3h", of_networks.M3HSettings),
        ("flexcare", of_networks.FlexCareSettings),
        ("shared", of_networks.SharedSettings),
        ("of your own", of_networks.OwnSettings),
    ):
        opening, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("\n\nAttributes:\n")
        rows = []
        for entry in re.split(r"\n    (?! )", "\n" + attributes)[1:]:
            names, _, meaning = entry.partition(":")
            fields = [kind.__dataclass_fields__[name] for name in names.split(", ")]
            defaults = [field.default if field.default is not MISSING else field.default_factory() for field in fields]
            shown = ", ".join(f"`{json.dumps(default)}`" for default in defaults)
            rows.append(f"| `{names}` | {shown} | {' '.join(meaning.split())} |".replace("|M|", "\\|M\\|"))
        text += [
            f"## {network}",
            opening,
            "\n".join(["| Setting | Default | Meaning |", "|---|---|---|", *rows]),
        ]
    return "\n\n".join(text) + "\n"


def commands() -> str:
    """Every command with its options, as `--help` tells them."""
    import typer
    from typer.cli import get_docs_for_click

    from tim_search.cli.commands import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(
        obj=command,
        ctx=typer.Context(command),
        name="tim-search",
        title="Commands: every option",
    )
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text.replace("**Usage**:\n\n", ""))
    return re.sub(r"^Example: (.*)$", r"Example: `\1`", text, flags=re.MULTILINE)


def notebook_page(path: Path) -> dict[str, str | bytes]:
    """A notebook as Markdown with the outputs it holds, and its pictures beside it."""
    made: dict[str, str | bytes] = {}
    text: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            text.append(source)
            continue
        text.append(f"```python\n{source}\n```")
        for is_text, outputs in groupby(cell.get("outputs", ()), lambda output: output["output_type"] == "stream"):
            if is_text:  # the lines of one cell are one block
                text.append(_shown("".join("".join(output["text"]) for output in outputs)))
                continue
            for output in outputs:
                data: dict[str, Any] = output["data"]
                if "image/png" in data:
                    name = f"{path.stem}-{len(made) + 1}.png"
                    made[name] = base64.b64decode(data["image/png"])
                    text.append(f"![Output of the cell above]({name})")
                elif "text/html" in data:
                    html = _OWN_FILE.sub(r"\1", "".join(data["text/html"]))
                    text.append(f'<div class="output">{html}</div>')
                else:
                    text.append(_shown("".join(data["text/plain"])))
    return {**made, f"{path.stem}.md": "\n\n".join(text) + "\n"}


def _shown(text: str) -> str:
    lines = [line for line in _TERMINAL.sub("", text).splitlines() if line.strip()]
    shown = escape("\n".join(lines)).replace(
        "docs/", "docs&#47;"
    )  # an answer is no text of ours: nothing in it is linked
    return f'<div class="output"><pre>{shown}</pre></div>'
