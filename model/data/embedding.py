"""Notes and images of a cohort as numbers of a frozen language or vision model, in half precision.

`references/NAME.parquet` says which texts or images a sample has. Each distinct one goes through the model once, in the
same order every time; what is done is on disk a part at a time, so that a run that was stopped goes on where it was.
The array and the rows that samples have of it become a modality of the cohort (`model.cohorts.folder_mapped`).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.cohorts.folder_reader import DESCRIPTION
from tim_search.gates.files import inside, open_regular, put_durably, replacing, write_durably
from tim_search.gates.texts import for_terminal
from tim_search.types import BadInput, digest

if TYPE_CHECKING:
    import torch

REFERENCES = "references"
#: Items of a part that is written at once.
_PART = 64
#: What an image file may hold, in pixels of a side.
_MOST_SIDE = 1 << 14

Halves = NDArray[np.float16]


@dataclass(frozen=True)
class Embedding:
    """How a modality is embedded.

    Attributes:
        modality: its name, that of the references too.
        model: a folder with a model as `transformers` saves it, or the name of a public one.
        tokens: a sequence of so many tokens at most, as FlexCare has; None: the pooled output, as HAIM has.
        batch: items that go through the model at a time.
        device: cpu, cuda, ...
    """

    modality: str
    model: str
    tokens: int | None = None
    batch: int = 8
    device: str = "cpu"


def embed(folder: Path, wanted: Embedding, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Embed a modality of a cohort folder and describe it in its cohort.yaml; what was done, in counts.

    Pooled, a text is cut at its lines into pieces that the model takes; a sample's vector is the mean over the pieces
    of a text and then over its texts (HAIM weighs texts by their hours, which references do not have). As tokens, a
    sample's texts are one after another, and its first tokens are kept. A sample without any lacks the modality.

    Raises:
        BadInput: no such folder, references or model; references without text or path; a model that cannot be used.
    """
    from tim_search.gates import yaml

    description = _description(folder)
    samples, items = _items(folder, wanted)
    machine = _machine(folder, wanted, is_text=items.is_text)
    name = digest([items.digest, machine.about, wanted.tokens])
    aside = folder / REFERENCES / f"{wanted.modality}.{name}"
    parts = []
    for start in range(0, len(items.values), _PART):
        path = aside / f"{start}.npy"
        parts.append(path)
        if not path.exists():
            some = items.values[start : start + _PART]
            tell(f"{wanted.modality}: {start} of {len(items.values)} done")
            values = np.concatenate([machine(some[at : at + wanted.batch]) for at in range(0, len(some), wanted.batch)])
            with replacing(path) as beside, beside.open("wb") as file:
                np.save(file, values)
    entry = _write(folder, wanted, parts, pa.table({description["sample_id"]: samples, "row": items.row}), items)
    description["modalities"][wanted.modality] = entry
    before = (folder / DESCRIPTION).with_name(f"cohort.before-{wanted.modality}.yaml")
    with open_regular(folder / DESCRIPTION) as file:
        put_durably(before, file.read())
    write_durably(folder / DESCRIPTION, yaml.dump(description, width=110).encode())
    for path in parts:
        path.unlink()
    aside.rmdir()
    return {"modality": wanted.modality, "samples": len(samples), "embedded": len(items.values), **entry}


def _description(folder: Path) -> dict[str, Any]:
    """What cohort.yaml says, with at least sample_id and modalities."""
    from tim_search.gates import yaml

    problem = "it lacks sample_id or modalities"
    try:
        description, _ = yaml.read(folder / DESCRIPTION, aliases=True)
        if isinstance(description, dict) and {"sample_id", "modalities"} <= description.keys():
            return description
    except (yaml.NotYaml, UnicodeDecodeError, OSError) as error:
        problem = str(error)
    raise BadInput(
        f"{for_terminal(folder)}: expected a cohort folder with a {DESCRIPTION}; {for_terminal(problem, most=300)}. "
        "Name another folder, or mend that file."
    )


# What samples have ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Items:
    """What is embedded, each once.

    Attributes:
        is_text: else paths of images.
        values: the texts or paths.
        groups: which items a row of the array is the mean of.
        row: of each sample, its row.
    """

    is_text: bool
    values: Sequence[str]
    groups: Sequence[tuple[int, ...]]
    row: NDArray[np.int64]

    @property
    def digest(self) -> str:
        content = hashlib.sha256()
        for value in self.values:
            content.update(f"{len(value)}:{value}".encode())
        return content.hexdigest()


def _items(folder: Path, wanted: Embedding) -> tuple[pa.Array, _Items]:
    """The samples that have texts or images, and these."""
    name = f"{REFERENCES}/{wanted.modality}.parquet"
    try:
        with open_regular(folder / name) as file:
            table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise BadInput(
            f"{folder / name}: expected a Parquet file with sample_id, position and text or path; {error}. Write it, "
            "or name another --modality."
        ) from error
    kind = next((column for column in ("text", "path") if column in table.column_names), "")
    if not kind or not {"sample_id", "position"} <= set(table.column_names):
        raise BadInput(
            f"{folder / name}: expected the columns sample_id, position and text or path, got "
            f"{', '.join(table.column_names)}. Rename or add what lacks."
        )
    if (given := table.schema.field(kind).type) not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        raise BadInput(f"{folder / name}: expected texts in the column {kind}, got {given}. Convert them.")
    if kind == "path" and wanted.tokens is not None:
        raise BadInput("--tokens: expected texts, got paths of images. Leave it out: images have a pooled output.")
    table = table.sort_by([("sample_id", "ascending"), ("position", "ascending")])
    by_sample: dict[Any, list[str]] = {}
    for sample, value in zip(table["sample_id"].to_pylist(), table[kind].to_pylist(), strict=True):
        if value is not None and value.strip():
            by_sample.setdefault(sample, []).append(value)
    if not by_sample:
        raise BadInput(f"{folder / name}: expected a {kind} of some sample, got none. Name another --modality.")
    if wanted.tokens is not None:
        by_sample = {sample: ["\n".join(values)] for sample, values in by_sample.items()}
    number: dict[str, int] = {}
    place: dict[tuple[int, ...], int] = {}
    row = []
    for values in by_sample.values():
        group = tuple(number.setdefault(value, len(number)) for value in values)
        row.append(place.setdefault(group, len(place)))
    ids = pa.array(list(by_sample), table.schema.field("sample_id").type)
    return ids, _Items(kind == "text", list(number), list(place), np.array(row, np.int64))


def _write(folder: Path, wanted: Embedding, parts: Sequence[Path], rows: pa.Table, items: _Items) -> dict[str, Any]:
    """The modality's entry in cohort.yaml; writes the array and the samples' rows of it."""
    arrays = [np.load(path, mmap_mode="r", allow_pickle=False) for path in parts]
    shape = (len(items.groups), *arrays[0].shape[1:])
    file, index = f"modalities/{wanted.modality}.npy", f"modalities/{wanted.modality}.rows.parquet"
    with replacing(folder / file) as beside, beside.open("wb") as handle:
        header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, header)
        for group in items.groups:
            own = np.stack([arrays[item // _PART][item % _PART] for item in group])
            handle.write((own[0] if len(own) == 1 else own.mean(axis=0, dtype=np.float64)).astype(np.float16).tobytes())
    with replacing(folder / index) as beside:
        pq.write_table(rows, beside)
    kind = "vector" if wanted.tokens is None else "sequence"
    return {"kind": kind, "file": file, "index": index, "prefix": f"{wanted.modality}_"}


# Models ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Machine:
    """A frozen model with what prepares its inputs."""

    wanted: Embedding
    folder: Path
    prepare: Any
    network: Any
    longest: int
    is_text: bool

    @property
    def about(self) -> str:
        """A digest of its weights and its vocabulary."""
        content = hashlib.sha256(self.network.config.to_json_string().encode())
        for name, value in sorted(self.network.state_dict().items()):
            content.update(name.encode() + value.float().cpu().numpy().tobytes())
        content.update(str(sorted(self.prepare.get_vocab().items()) if self.is_text else self.prepare).encode())
        return content.hexdigest()

    def __call__(self, values: Sequence[str]) -> Halves:
        """Embeddings of some items, (n, width) pooled or (n, tokens, width)."""
        import torch

        with torch.no_grad():
            if not self.is_text:
                return self._halves(self._pooled(pixel_values=self._pixels(values)))
            # Without the library's warning that a text is long: it is cut below.
            ids = [
                self.prepare(value.split("\n"), add_special_tokens=False, verbose=False)["input_ids"]
                for value in values
            ]
            if self.wanted.tokens is not None:
                return self._tokens([list(itertools.chain(*lines))[: self.wanted.tokens] for lines in ids])
            return self._means([list(_pieces(lines, self.longest - 2)) for lines in ids])

    def _tokens(self, ids: Sequence[list[int]]) -> Halves:
        """The last layer's output of each token, without special ones; NaN after the last."""
        inputs = self._padded(ids)
        output = self._halves(self.network(**inputs).last_hidden_state)
        values = np.full((len(ids), self.wanted.tokens or 0, output.shape[2]), np.nan, np.float16)
        for row, own in enumerate(ids):
            values[row, : len(own)] = output[row, : len(own)]
        return values

    def _means(self, pieces: Sequence[list[list[int]]]) -> Halves:
        """The mean of the pooled outputs of each text's pieces."""
        marks = [self.prepare.cls_token_id], [self.prepare.sep_token_id]
        flat = [marks[0] + piece + marks[1] for own in pieces for piece in own]
        step = self.wanted.batch
        pooled = [self._pooled(**self._padded(flat[at : at + step])).float().cpu() for at in range(0, len(flat), step)]
        outputs = np.concatenate([each.numpy() for each in pooled])
        starts = np.cumsum([0, *map(len, pieces)])
        means = [outputs[starts[row] : starts[row + 1]].mean(axis=0) for row in range(len(pieces))]
        return np.stack(means).astype(np.float16)

    def _pooled(self, **inputs: Any) -> Any:
        pooled = getattr(self.network(**inputs), "pooler_output", None)
        if pooled is None:
            advice = "Take --tokens, or another model." if self.is_text else "Take another model."
            raise BadInput(f"--model {self.wanted.model}: expected a model with a pooled output, got none. {advice}")
        return pooled.flatten(1)

    def _padded(self, ids: Sequence[list[int]]) -> dict[str, torch.Tensor]:
        import torch

        width = max(1, *map(len, ids))
        rows = torch.zeros(len(ids), width, dtype=torch.int64)
        mask = torch.zeros_like(rows)
        for row, own in enumerate(ids):
            rows[row, : len(own)], mask[row, : len(own)] = torch.tensor(own), 1
        mask[:, 0] = 1  # a text without a token attends to something
        return {"input_ids": rows.to(self.wanted.device), "attention_mask": mask.to(self.wanted.device)}

    def _pixels(self, paths: Sequence[str]) -> Any:
        from PIL import Image

        images = []
        for path in paths:
            shown = for_terminal(path)
            try:
                with open_regular(inside(self.folder, path)) as file, Image.open(file) as image:
                    if max(image.size) > _MOST_SIDE:
                        most = f"{_MOST_SIDE} pixels a side"
                        raise BadInput(f"{shown}: expected an image of up to {most}, got {image.size}. Scale it down.")
                    images.append(image.convert("RGB"))
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                raise BadInput(
                    f"{shown}: expected an image file; {for_terminal(error, most=300)}. Paths are absolute or those "
                    f"within {for_terminal(self.folder)}: mend references/{self.wanted.modality}.parquet, or the file."
                ) from error
        pixels = self.prepare(images=images, return_tensors="pt")["pixel_values"]
        return pixels.to(self.wanted.device, self.network.dtype)

    def _halves(self, values: Any) -> Halves:
        halves: Halves = values.half().cpu().numpy()
        return halves


def _pieces(lines: Sequence[list[int]], most: int) -> Iterator[list[int]]:
    """Token numbers of lines, put together to pieces of at most so many; a longer line is cut."""
    piece: list[int] = []
    for line in lines:
        for at in range(0, len(line), most):
            part = line[at : at + most]
            if len(piece) + len(part) > most:
                yield piece
                piece = []
            piece = piece + part
    yield piece


def _machine(folder: Path, wanted: Embedding, *, is_text: bool) -> _Machine:
    """The model, from a folder or by its name; weights from safetensors alone, and no code that comes along."""
    try:
        import transformers
    except ImportError as error:
        raise BadInput(
            'cohort embed: expected the library transformers, it is not installed. pip install "tim-search[embed]".'
        ) from error
    import torch

    local = Path(wanted.model).is_dir()
    if not local and (wanted.model.startswith((".", "/", "~")) or wanted.model.count("/") > 1):
        raise BadInput(f"--model {wanted.model}: expected a folder with a model; there is none. Mend the path.")
    options = {"local_files_only": local, "trust_remote_code": False}
    half = torch.float16 if wanted.device.startswith("cuda") else torch.float32
    try:
        loader = transformers.AutoTokenizer if is_text else transformers.AutoImageProcessor
        prepare = loader.from_pretrained(wanted.model, **options)
        network = transformers.AutoModel.from_pretrained(wanted.model, use_safetensors=True, dtype=half, **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadInput(
            f"--model {wanted.model}: expected a model as transformers saves it, with weights in safetensors and "
            f"{'a tokenizer' if is_text else 'an image processor'}; {first[:300]}. Download it, or convert its weights."
        ) from error
    longest = min(getattr(network.config, "max_position_embeddings", 512), getattr(prepare, "model_max_length", 512))
    if wanted.tokens is not None and not 1 <= wanted.tokens <= longest:
        raise BadInput(f"--tokens: expected 1 to {longest}, which the model takes, got {wanted.tokens}.")
    return _Machine(wanted, folder, prepare, network.eval().to(wanted.device), longest, is_text)
