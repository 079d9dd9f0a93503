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


def run(main: Callable[[], None], folder: Path = REPOSITORY) -> None:
    """Call `main` in `folder`: a stage's paths mean the same from wherever it is started.

    Ends the process with exit code 1 and the message alone on an `InputError`; with 130 on Ctrl-C
    and with 141 when nobody reads the output any more, which are the shell's codes for both.
    """
    os.chdir(folder)
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Python would fail again when it writes out at its end what is still held back.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
