"""Upkeep of a ledger's files: merging small ones, copying another ledger's, setting bad ones aside, checking all."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tim_search.gates.texts import for_terminal
from tim_search.ledger import decoding
from tim_search.ledger.rows import LedgerRows, joined
from tim_search.ledger.schema import SCHEMAS, FileRows, Unfit
from tim_search.ledger.tables import NAME, Tables, say
from tim_search.types import MOST_ATTENDED, BadInput, Finding

#: Rows of a merged file that no compaction takes up again, so that its memory has a bound.
FULL = 100_000
_TOGETHER = 16  # files that are read at a time where their rows are not wanted
_NAMES = 5_000_000  # names in the lists of a merged file: with hundreds of tasks they are what takes the memory


def compact(tables: Tables) -> None:
    """See `Ledger.compact`."""
    with tables.explained():
        for kind in SCHEMAS:
            chosen = _mergeable(tables, kind)
            loaded: dict[str, FileRows] = {}
            n_rows = n_names = 0
            abreast = tables.storage.abreast
            for start in range(0, len(chosen) if len(chosen) > 1 else 0, abreast):
                more, unusable = tables.load(kind, chosen[start : start + abreast])
                tables.warn(kind, unusable)
                loaded |= more
                n_rows += sum(rows.table.num_rows for rows in more.values())
                n_names += sum(pc.sum(rows.table["size"]).as_py() or 0 for rows in more.values())
                if n_rows >= FULL or n_names >= _NAMES:
                    _merge(tables, kind, loaded)
                    loaded, n_rows, n_names = {}, 0, 0
            if len(loaded) > 1:
                _merge(tables, kind, loaded)
    pa.default_memory_pool().release_unused()


def _merge(tables: Tables, kind: str, loaded: Mapping[str, FileRows]) -> None:
    merged = tables.commit(kind, "compact", *joined(kind, loaded).first_answers().in_one_file())
    tables.storage.remove(f"{kind}/{name}" for name in loaded if name != merged)


def _mergeable(tables: Tables, kind: str) -> list[str]:
    """The small files, and merged ones as long as they are no larger than what is merged with them."""
    sizes = {name: size for name, size in tables.storage.sizes(kind).items() if NAME.fullmatch(name)}
    chosen = [name for name in sizes if name.startswith("part-")]
    total = sum(sizes[name] for name in chosen)
    for name in sorted(sizes.keys() - set(chosen), key=lambda name: (sizes[name], name)):
        if sizes[name] <= total and _row_count(tables, f"{kind}/{name}") < FULL:
            chosen.append(name)
            total += sizes[name]
    return chosen


def _row_count(tables: Tables, key: str) -> int:
    """Rows of a file; 0 where it cannot be read, which is for others to tell."""
    try:
        with tables.storage.read(key) as (source, _):
            return int(pq.read_metadata(source).num_rows)
    except (pa.ArrowException, OSError, BadInput):
        return 0


def absorb(tables: Tables, other: Tables) -> int:
    """See `Ledger.absorb`."""
    copied = 0
    for kind in SCHEMAS:
        unusable: dict[str, str] = {}
        here = set(tables.names(kind))
        seen: set[str] = set()
        # As in `Tables.read`: what a listing lacks because of a compaction is in the next one.
        while fresh := [name for name in other.names(kind) if name not in seen]:
            seen.update(fresh)
            _, bad = other.load(kind, fresh, columns=())
            unusable |= bad
            for name in fresh:
                if name in here or name in bad:
                    continue
                with other.explained():
                    try:
                        with other.storage.read(f"{kind}/{name}") as (file, _):
                            content = file.read()
                    except FileNotFoundError:
                        continue
                with tables.explained():
                    tables.storage.put(f"{kind}/{name}", content)
                copied += 1
        other.warn(kind, unusable)
    return copied


def tidy(tables: Tables) -> None:
    """Move what cannot be used out of the tables, with a warning, so that plain pandas reads them too."""
    place = tables.storage.place
    with tables.explained():
        for kind in SCHEMAS:
            tables.storage.remove(tables.storage.leftovers(kind))
            names = tables.storage.names(kind)
            unusable: dict[str, str] = {}
            for start in range(0, len(names), _TOGETHER):  # nothing that is read here is kept
                unusable |= tables.load(kind, names[start : start + _TOGETHER], columns=_without_lists(kind))[1]
            for name, problem in unusable.items():
                target = name if name not in tables.storage.names("set-aside") else f"{name}.{secrets.token_hex(4)}"
                tables.storage.move(f"{kind}/{name}", f"set-aside/{target}")
                say(
                    f"{place}/{kind}/{name}: {problem}. It was moved to {place}/set-aside/{target}; units it held are "
                    "trained again."
                )


def _without_lists(kind: str) -> list[str]:
    """Columns of a table without its lists: replicates are most of a ledger's bytes, and no reader fails for them."""
    return [field.name for field in SCHEMAS[kind] if not pa.types.is_list(field.type)]


def check(tables: Tables) -> list[Finding]:
    """See `Ledger.check`."""
    findings = []
    tables.forget()
    place = tables.storage.place
    answered: dict[str, LedgerRows] = {}
    for kind in SCHEMAS:
        loaded, unusable = tables.load(kind, tables.names(kind), columns=("task", "other", "status"))
        unusable |= _not_readable(tables, kind, loaded)
        with tables.explained():
            left = tables.storage.leftovers(kind)
        for name, problem in sorted(unusable.items()):
            fix = "The next search on this ledger sets it aside and trains the units that are missing."
            findings.append(Finding(for_terminal(f"{place}/{kind}/{name}"), f"{for_terminal(problem)}.", fix))
        findings += [
            Finding(for_terminal(f"{place}/{key}"), "was left by a writer that died.", "Delete it.", "warning")
            for key in left
        ]
        answered[kind] = joined(kind, {name: rows for name, rows in loaded.items() if name not in unusable})
    if twice := answered["scores"].answered_twice():
        problem = f"{twice} units were trained and answered more than once."
        findings.append(Finding(f"{place}/scores", problem, "Nothing to do: the first answer counts.", "warning"))
    if bare := _without_attention(answered["scores"], answered["attention"]):
        problem = f"{bare} units were scored, but their attention is missing; others of their context have it."
        fix = "Restore attention/ from a copy. The TIM scores do not need it, the attention figures leave them out."
        findings.append(Finding(f"{place}/attention", problem, fix, "warning"))
    if aside := tables.names("set-aside"):
        problem = f"{len(aside)} files were set aside, because they are torn, altered or not the ledger's own."
        fix = "Look at them, then delete or move them."
        findings.append(Finding(f"{place}/set-aside", problem, fix, "warning"))
    return findings


def _not_readable(tables: Tables, kind: str, loaded: Mapping[str, FileRows]) -> dict[str, str]:
    """Problems of files in columns that were not loaded, by name."""
    problems = {}
    for name in loaded:
        try:
            with tables.explained(), tables.opened(kind, name) as source:
                decoding.verify(kind, source)
        except Unfit as error:
            problems[name] = str(error)
        except FileNotFoundError:
            continue
    return problems


def _without_attention(scores: LedgerRows, attention: LedgerRows) -> int:
    """Units that were scored and lack their attention, of contexts whose other units have some."""
    missing = 0
    for context in attention.runs["context"].cast(pa.string()).unique().to_pylist():
        scored = scores.keep(scores.equal("context", context), np.asarray(pc.equal(scores.table["status"], "ok")))
        lacking = scored.units() - attention.keep(attention.equal("context", context)).units()
        missing += sum(len(unit.subset) <= MOST_ATTENDED for unit in lacking)
    return missing
