"""`python -m tim_search` is `tim-search`."""

import os
import sys


def _without_current_folder() -> None:
    """Take the current folder off the path, where Python puts it first here and a `torch.py` would run in its place."""
    try:
        here = os.getcwd()
    except OSError:  # a folder that was removed
        here = ""
    copy = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if sys.path[:1] in ([""], [here]) and (not here or copy != os.path.realpath(here)):
        del sys.path[0]


_without_current_folder()

from tim_search.cli import main  # noqa: E402  (after the path has been cleared)

if __name__ == "__main__":
    main()
