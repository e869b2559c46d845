"""The command line, put together: each command reads its input, calls one function of the product, shows the answer.

Exit codes: 0 done, 2 bad input, 3 finished with failed units, 130 interrupted (always with a line that says so), 1
whatever else goes wrong (a lost cluster, an MLflow that does not answer `publish`). Results go to the standard output,
everything else to the standard error. Heavy modules are imported inside the commands that need them: `status`, `tim`
and `expand` start without torch and without Ray.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections.abc import Sequence

# Each of them adds its commands, in the order in which the help lists them.
from tim_search.cli import running as running  # isort: skip
from tim_search.cli import reading as reading  # isort: skip
from tim_search.cli import several as several  # isort: skip
from tim_search.cli import models as models  # isort: skip
from tim_search.cli import publishing as publishing  # isort: skip
from tim_search.cli import console, options
from tim_search.cli.root import app
from tim_search.types import Interrupted, TimSearchError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code; bad input is told without a traceback."""
    console.open_outputs()
    warnings.showwarning = console.show_warning  # type: ignore[assignment]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends a command as Ctrl-C does, with exit code 130
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options.check_arguments(given)
        with console.heartbeat(), console.checked_output():
            app(args=given)
    except KeyboardInterrupt:  # typer puts the commands together outside what it guards
        console.say("stopped", "Interrupted before anything was done. The same command can be run again.")
        sys.exit(Interrupted.exit_code)
    except SystemExit as end:
        if end.code == Interrupted.exit_code:  # typer's own, while it looked for the command, without a word
            console.say("stopped", "Interrupted before anything was done. The same command can be run again.")
        raise
    except TimSearchError as error:
        console.say("stopped" if isinstance(error, Interrupted) else "error", str(error))
        sys.exit(error.exit_code)
