"""`python -m tim_search` is `tim-search`."""

import os
import sys
from pathlib import Path

# Python puts the current folder first on the path here, where a `torch.py` would run in place of the library.
if sys.path[:1] in ([""], [os.getcwd()]) and Path(__file__).resolve().parents[1] != Path.cwd().resolve():
    del sys.path[0]

from tim_search.cli import main

if __name__ == "__main__":
    main()
