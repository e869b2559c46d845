"""What was to be confirmed: the record `confirmation.json` of a search folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from tim_search.gates.forms import conform
from tim_search.gates.plain import read_object, write_json
from tim_search.types import BadInput, Context, Subset

NAME = "confirmation.json"

#: The first of the seeds of a confirmation; those a search has used are passed over.
FIRST_SEED = 1000

#: (source, combination, seeds, keys of the contexts of both sides).
Comparison: TypeAlias = tuple[str, Subset, tuple[int, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Asked:
    """What a confirmation trains.

    Attributes:
        rule: by which the combinations were chosen, or "given".
        chosen: source -> the combination to be confirmed; a source that was to stay alone is not in it.
        alone: sources for which no combination was chosen, and so nothing was read.
        together: all tasks of the search, the control left out.
        seeds: fresh ones.
        draws: patient-bootstrap draws behind every score.
        contexts: of every subset that is trained; they differ where subsets have settings of their own.
        groups: columns by which calibration is shown apart.
        earlier: confirmations before this one that compared something else, the latest first; each without its own.
    """

    rule: str
    chosen: Mapping[str, Subset]
    alone: tuple[str, ...]
    together: Subset
    seeds: tuple[int, ...]
    draws: int
    contexts: Mapping[Subset, Context]
    groups: tuple[str, ...] = ()
    earlier: tuple[Asked, ...] = ()

    @property
    def comparisons(self) -> frozenset[Comparison]:
        """Each source's single-task model against its combination, without those of earlier confirmations."""
        return frozenset(self.comparison(source) for source in self.chosen)

    def comparison(self, source: str) -> Comparison:
        """What is compared for a source with a combination."""
        sides = (self.contexts.get((source,)), self.contexts.get(self.chosen[source]))
        return (
            source,
            self.chosen[source],
            self.seeds,
            tuple("" if context is None else context.key for context in sides),
        )

    def after(self, before: Asked | None) -> Asked:
        """The same with the confirmations before it, as far as they compared, or left alone, something else."""
        if before is None:
            return self
        mine, named = self.comparisons, {*self.chosen, *self.alone}
        line = (replace(before, earlier=()), *before.earlier)
        others = (asked for asked in line if not (asked.comparisons <= mine and {*asked.chosen, *asked.alone} <= named))
        return replace(self, earlier=tuple(others))

    @property
    def subsets(self) -> tuple[Subset, ...]:
        """Every subset that is trained, each once."""
        return needed(self.chosen, self.together)

    @property
    def ensemble(self) -> int:
        """The most single-task models an ensemble averages: as many as the largest combination has tasks.

        Three at least, as many as the paper's expansion combines, so that a later, larger choice finds its ensemble.
        """
        return max([3, *map(len, self.chosen.values())])

    def write(self, folder: Path) -> None:
        """Write `confirmation.json`, whole or not at all."""
        write_json(folder / NAME, _plain(self))


def _plain(asked: Asked) -> dict[str, Any]:
    """As JSON can hold it."""
    return {
        **asdict(replace(asked, contexts={}, earlier=())),
        "contexts": [
            {"subset": list(members), "context": asdict(context)} for members, context in asked.contexts.items()
        ],
        "earlier": [_plain(before) for before in asked.earlier],
    }


#: The record's form (`gates.forms`); see `Asked`.
_FORM = {
    "rule": str,
    "chosen": {str: [str]},
    "alone": [str],
    "together": [str],
    "seeds": [int],
    "draws": int,
    "contexts": [{"subset": [str], "context": {item.name: str for item in fields(Context)}}],
    "groups": [str],
    "earlier?": [{}],
}


def _asked(plain: Any) -> Asked:
    """The reverse of `_plain`; raises ValueError that names what has another form."""
    conform(plain, _FORM)
    return Asked(
        plain["rule"],
        {source: tuple(members) for source, members in plain["chosen"].items()},
        tuple(plain["alone"]),
        tuple(plain["together"]),
        tuple(plain["seeds"]),
        plain["draws"],
        {
            tuple(side["subset"]): Context(**{item.name: side["context"][item.name] for item in fields(Context)})
            for side in plain["contexts"]
        },
        tuple(plain["groups"]),
        tuple(map(_asked, plain.get("earlier", ()))),
    )


def read(folder: Path) -> Asked | None:
    """The confirmation a search folder holds, or None; raises BadInput where its file cannot be understood."""
    path = folder / NAME
    if not path.exists():
        return None
    fix = f"Run `tim-search confirm {folder}` again; it trains nothing that the ledger holds."
    try:
        return _asked(read_object(path, "record of a confirmation", fix))
    except (ValueError, KeyError, RecursionError) as error:
        raise BadInput(
            f"{path}: is not the record of a confirmation ({type(error).__name__}: {error}). {fix}"
        ) from error


def needed(chosen: Mapping[str, Subset], together: Subset) -> tuple[Subset, ...]:
    """The subsets that confirming these combinations takes: each with its single task, and all tasks together."""
    if not chosen:
        return ()
    singles = {(source,) for source in chosen}
    return tuple(sorted({*singles, *chosen.values(), together}, key=lambda members: (len(members), members)))


def fresh_seeds(count: int, used: Iterable[int]) -> tuple[int, ...]:
    """`count` seeds that no training of the search has started from."""
    taken = set(used)
    return tuple(seed for seed in range(FIRST_SEED, FIRST_SEED + count + len(taken)) if seed not in taken)[:count]
