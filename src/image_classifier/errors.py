"""How a script of this repository starts, and how it ends when its input is wrong."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


class InputError(Exception):
    """Something the user can put right: its message, one line or a few, is all that is shown.

    The message names the file or the parameter, what was found, and what is allowed.
    """


def run(main: Callable[[], None]) -> None:
    """Call `main` at the root of the repository, so that every path means the same from anywhere.

    Ends the process with exit code 1 and the message alone on an `InputError`, and with 130 (the
    shell's code for an interrupted command) on Ctrl-C.
    """
    os.chdir(REPOSITORY)
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
