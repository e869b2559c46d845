"""The negative control by name and by fingerprint: what tells a cohort that one has joined from another cohort."""

from __future__ import annotations

from tim_search.types.nouns import Context, digest

#: What the name of a control ends with.
SUFFIX = "_permuted"


def fingerprint(cohort: str, split: str, task: str) -> str:
    """The fingerprint of a cohort (its own, and the digest of its split) that a control of this task has joined."""
    return digest(["permuted control", cohort, split, task])


def joined_only_one(ours: Context, theirs: Context, our_control: str | None, their_control: str | None) -> bool:
    """Whether two contexts are of one cohort and split, which a control has joined in one of them only.

    Args:
        ours, theirs: the contexts.
        our_control, their_control: names of the controls of their searches; None where there is none.
    """
    if ours.split != theirs.split or (our_control is None) == (their_control is None):
        return False
    plain, other, name = (ours, theirs, their_control) if our_control is None else (theirs, ours, our_control)
    return other.cohort == fingerprint(plain.cohort, plain.split, str(name).removesuffix(SUFFIX))
