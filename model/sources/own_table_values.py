"""What the cells of a column seem to say: the rule that makes values of them, and what only a person can decide."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from model.cohorts.checks import UNKNOWN_WORDS
from model.cohorts.fillers import fillers
from model.cohorts.values import CENSORED, Rule, applied, as_number, rule_text
from model.sources.tables import Columns
from tim_search.types import some

#: Words, in small letters, that many programs write for a missing value; among levels they may be one like others.
MISSING_WORDS = {*UNKNOWN_WORDS, "none", "nil", ".", "-", "--"}
#: A column is numbers but for a few texts where so many of its cells are, and the texts are so few.
MOSTLY, FEW_ODD = 0.9, 10
#: Texts of more different values are no levels that a person would compare.
_MOST_LEVELS = 100
#: Different texts that are looked at, the commonest first.
_LOOKED_AT = 100_000

#: Numbers in groups of three digits, by the mark between the groups.
_GROUPED = {
    ".": re.compile(r"[-+]?[0-9]{1,3}(\.[0-9]{3})+(,[0-9]+)?"),
    ",": re.compile(r"[-+]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?"),
}
_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+")
_DAYS = re.compile(r"-?[0-9]+ days?,? \d{1,2}:\d\d(:\d\d(\.\d+)?)?")


@dataclass(frozen=True)
class Proposal:
    """What is proposed for a column.

    Attributes:
        rule: makes values of its cells; it is declared in cohort.yaml, with `doubts` beside it.
        doubts: what a person should look at.
        paste: the rule to declare instead where the doubts are right; None where there is nothing to paste.
    """

    rule: Rule = field(default_factory=Rule)
    doubts: tuple[str, ...] = ()
    paste: Rule | None = None

    @property
    def speaks(self) -> bool:
        """Whether there is anything to declare or to look at."""
        return self != Proposal()


class Ruled:
    """A table with the rules of its columns applied; used as a frame is."""

    def __init__(self, table: pd.DataFrame | Columns | Ruled, rules: Mapping[str, Rule]) -> None:
        self.table, self.rules = table, rules
        self.columns: list[str] = list(table.columns)

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> pd.Series[Any]:
        values = self.table[name]
        return applied(values, self.rules[name]) if name in self.rules else values


def propose(values: pd.Series[Any]) -> Proposal:
    """What is proposed for a column as it was read."""
    if pd.api.types.is_timedelta64_dtype(values):
        return Proposal(Rule(unit="hours"), ("durations, read in hours",))
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_datetime64_any_dtype(values):
        return Proposal()
    if pd.api.types.is_numeric_dtype(values):
        return _with_fillers(Proposal(), values)
    if not pd.api.types.is_string_dtype(values.dropna()):
        return Proposal()
    counts = values.dropna().str.strip().value_counts()
    proposal = _of_texts(counts)
    return _with_fillers(proposal, applied(values, proposal.rule)) if proposal.rule.numeric else proposal


def _with_fillers(proposal: Proposal, values: pd.Series[Any]) -> Proposal:
    suspects = fillers(values.to_numpy(float, na_value=float("nan")))
    if not suspects:
        return proposal
    base = proposal.paste or proposal.rule
    gone = tuple(f"{suspect.value:.15g}" for suspect in suspects)
    doubts = (*proposal.doubts, *(f"{suspect.words}: not measured?" for suspect in suspects))
    return replace(proposal, doubts=doubts, paste=replace(base, missing=(*base.missing, *gone)))


def _of_texts(counts: pd.Series[int]) -> Proposal:
    """What is proposed for texts, given how often each stands."""
    words = [str(word) for word in counts.index[:_LOOKED_AT] if str(word).lower() in MISSING_WORDS]
    shown = ", ".join(f'"{word}"' for word in words)
    gone = int(counts[words].sum())
    rest = [str(word) for word in counts.index[:_LOOKED_AT] if str(word) not in words]
    if rest and all(_DAYS.fullmatch(word) for word in rest):
        return Proposal(Rule(tuple(words), unit="hours"), ("durations, read in hours",))
    if any(re.match(r"[-+]?0[0-9]", word) for word in rest):
        return Proposal()  # codes: as numbers they would lose their zeros
    numbers = [word for word in rest if _looks_a_number(word)]
    odd = [word for word in rest if word not in set(numbers)]
    share = int(counts[numbers].sum()) / max(1, int(counts[rest].sum()))
    if not numbers or share < MOSTLY or len(odd) > FEW_ODD:
        alike = _alike(rest)
        if not words:
            return Proposal(doubts=alike)
        doubt = f"{gone:,} rows hold the text {shown}: a level, or not known?"
        return Proposal(doubts=(doubt, *alike), paste=Rule(tuple(words)))
    rule, doubts = _numeric(numbers, words)
    if words:
        doubts.insert(0, f"{gone:,} rows hold {shown}, read as not measured")
    if odd:
        others = some([f'"{word[:30]}" ({counts[word]:,})' for word in odd])
        doubt = f"{share:.0%} of its cells are numbers, the others {others}: not measured?"
        return Proposal(doubts=(doubt,), paste=replace(rule, missing=(*words, *odd)))
    commas = [word for word in numbers if "," in word]
    unsure = rule.decimal == "," and all(_GROUPED[","].fullmatch(word) for word in commas)
    if unsure and not any(word.lstrip("-+").startswith("0") for word in commas):
        doubt = "is the comma of its numbers the mark of decimals, or of thousands (thousands: ',')?"
        return Proposal(doubts=(*doubts, doubt), paste=rule)
    return Proposal(rule, tuple(doubts))


def _alike(words: Sequence[str]) -> tuple[str, ...]:
    """What is doubted of levels that differ in capitals only; none where there are too many for levels."""
    by_small: dict[str, list[str]] = {}
    for word in words if len(words) <= _MOST_LEVELS else ():
        by_small.setdefault(word.casefold(), []).append(word)
    alike = [" and ".join(f'"{word[:30]}"' for word in same) for same in by_small.values() if len(same) > 1]
    return (f"{some(alike)} differ in capitals only: write each level one way in the table",) if alike else ()


def _looks_a_number(word: str) -> bool:
    word = CENSORED.sub("", word, count=1).replace("\u2212", "-")
    grouped = any(form.fullmatch(word) for form in _GROUPED.values())
    return grouped or as_number(word) is not None or _COMMA.fullmatch(word) is not None


def _numeric(numbers: Sequence[str], words: Sequence[str]) -> tuple[Rule, list[str]]:
    """The rule by which texts are numbers, and what to say of it."""
    plain = [CENSORED.sub("", word, count=1) for word in numbers]
    limits = [word for word in numbers if CENSORED.match(word)]
    commas = any(_COMMA.fullmatch(word) for word in plain)
    grouped = [mark for mark, form in _GROUPED.items() if any(form.fullmatch(w) and _sure(w, mark) for w in plain)]
    thousands = grouped[0] if len(grouped) == 1 else ""
    decimal = "." if thousands == "," or not commas else ","
    if decimal == "," and not thousands and any("." in word for word in plain):
        decimal = ",."
    doubts = []
    if decimal != ".":
        doubts.append("decimals after a comma" if decimal == "," else "decimals after a comma or a point")
    if thousands:
        doubts.append(f"thousands set apart by {thousands!r}")
    if limits:
        doubts.append(f"limits such as {limits[0]!r} are read as the number itself")
    censored = "limit" if limits else ""
    kind = "" if decimal != "." or thousands or limits else "number"
    return Rule(tuple(words), kind, decimal, thousands, censored), doubts


def _sure(word: str, mark: str) -> bool:
    """Whether a grouped number can be nothing else: it has several groups, or a fraction after the other mark."""
    return word.count(mark) > 1 or (mark in word and ({",", "."} - {mark}).pop() in word)


def value_lines(proposals: Mapping[str, Proposal]) -> list[str]:
    """The lines of `values` in cohort.yaml: rules in force, and as comments those to paste where a doubt is right."""
    from tim_search.gates.yaml import quoted

    active = [column for column, proposal in proposals.items() if proposal.rule != Rule()]
    if not any(proposal.speaks for proposal in proposals.values()):
        return []
    lines = ["", "# How cells are read, where not as they stand: docs/cohorts.md, values. Lines with # are questions."]
    lines.append("values:" if active else "# values:")
    for column, proposal in proposals.items():
        doubts = "; ".join(proposal.doubts)
        if proposal.rule != Rule():
            lines.append(f"  {quoted(column)}: {rule_text(proposal.rule)}   # {doubts}")
        if proposal.paste is not None and proposal.paste != proposal.rule:
            lines.append(f"  # {quoted(column)}: {rule_text(proposal.paste)}   # {doubts}")
    return lines
