"""In which order the tasks of a figure stand, and under which names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tim_search.types import METRIC_WORDS, Task

#: What a task with permuted labels is called.
CONTROL = "negative control"


def by_department(
    names: Sequence[str], tasks: Mapping[str, Task], control: str | None = None
) -> tuple[list[int], tuple[tuple[str, int, int], ...]]:
    """Order of the tasks with those of one department side by side, and the (department, start, stop) of each run.

    Departments follow one another as their first tasks do; tasks without one come last. Without any, nothing moves. A
    control stands apart behind all others.
    """
    if control in names:
        others = [index for index, name in enumerate(names) if name != control]
        inner, groups = by_department([names[index] for index in others], tasks)
        at = len(others)
        if not groups and at:
            groups = (("", 0, at),)
        return [*(others[index] for index in inner), names.index(control)], (*groups, (CONTROL, at, at + 1))
    of = [tasks[name].department if name in tasks else "" for name in names]
    first = {department: of.index(department) for department in of if department}
    if not first:
        return list(range(len(names))), ()
    order = sorted(range(len(names)), key=lambda index: (first.get(of[index], len(of)), index))
    runs = []
    start = 0
    for department in sorted(first, key=first.__getitem__):
        runs.append((department, start, start + of.count(department)))
        start += of.count(department)
    if start < len(of):
        runs.append(("", start, len(of)))
    return order, tuple(runs)


def with_metric(name: str, tasks: Mapping[str, Task]) -> str:
    """A task's name with its metric behind it, where that is known."""
    metric = tasks[name].metric if name in tasks else ""
    return f"{name} ({METRIC_WORDS.get(metric, metric)})" if metric else name
