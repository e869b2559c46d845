"""`python -m tim_search` is `tim-search`."""

from tim_search.cli import main

if __name__ == "__main__":
    main()
