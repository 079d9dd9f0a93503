"""Start a script: paths, signals, one-line errors, and the end with DVC.

Only the scripts of src/ import this, and call `run`.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from image_classifier.common.errors import NO_SPACE, InputError

REPOSITORY = Path(__file__).resolve().parents[3]
SHELLS = ("sh", "dash", "bash", "zsh", "fish")  # that DVC may run a stage by
WATCH_INTERVAL = 0.2  # seconds

_ended_by: signal.Signals | None = None


def run(main: Callable[[], None], folder: Path = REPOSITORY) -> None:
    """Call `main` in `folder`: a stage's paths mean the same from wherever it is started.

    Ends the process with one line and exit code 1 on an `InputError`, a full disk or too little
    memory; with the shell's code on Ctrl-C (130) and SIGTERM (143); and silently with 141 when
    nobody reads the output any more.
    """
    os.chdir(folder)
    if "DVC_ROOT" in os.environ:
        threading.Thread(target=_end_with_dvc, daemon=True).start()
    try:
        main()
    except BaseException as error:
        if _ended_by:
            _end_by_signal()
        if isinstance(error, InputError):
            sys.exit(f"error: {error}")
        if isinstance(error, BrokenPipeError):
            # Python would fail again when it writes out at its end what is still held back.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            place = f"{error.filename}: " if error.filename else ""
            sys.exit(f"error: {place}{os.strerror(error.errno)}")
        # TensorFlow, which is not imported here, has an error of its own, and the reason far down.
        if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
            lines = str(error).splitlines()
            reason = next((line for line in lines if "OOM" in line), " ".join(lines[:1]))
            sys.exit(f"error: not enough memory: {reason}")
        raise


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    global _ended_by
    _ended_by = signal.Signals(number)
    raise KeyboardInterrupt


def _end_by_signal() -> NoReturn:
    """End in one line, whatever a library has made of the exception, and wait for no thread."""
    with suppress(OSError):
        sys.stdout.flush()
    word = "interrupted" if _ended_by == signal.SIGINT else "terminated"
    print(word, file=sys.stderr, flush=True)
    os._exit(128 + _ended_by)


def _unless_ended(report: Callable[..., None]) -> Callable[..., None]:
    """A hook that reports an error as Python does, or ends the process after a signal."""

    def hook(*error: object) -> None:
        if _ended_by:
            _end_by_signal()
        report(*error)

    return hook


def _end_with_dvc() -> None:
    """End this process when the DVC that runs it has been killed, which alone records its results.

    Otherwise it would still be writing its files while the same command runs again.
    """
    import psutil  # not at the top: only stages under DVC need it

    with suppress(psutil.Error):
        parents = psutil.Process().parents()
        # A shell between the two outlives DVC.
        nearest = [process.pid for process in parents if process.name() not in SHELLS][:1]
        watched = _lock_holders() or set(nearest)
        while not watched.isdisjoint(process.pid for process in psutil.Process().parents()):
            time.sleep(WATCH_INTERVAL)
        os._exit(128 + signal.SIGTERM)


def _lock_holders() -> set[int]:
    """The process IDs of DVC, perhaps killed, by its locks on the outputs that are made here."""
    try:
        locks = json.loads(Path(".dvc/tmp/rwlock").read_text())["write"]
        return {lock["pid"] for lock in locks.values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()  # a DVC that keeps them in another way


# Here rather than in `run`, which a script calls after a second of imports.
if Path(sys.argv[0]).resolve().parent == REPOSITORY / "src":
    sys.excepthook = _unless_ended(sys.__excepthook__)
    # For what is raised where Python only reports errors, such as `__del__`, and goes on.
    sys.unraisablehook = _unless_ended(sys.__unraisablehook__)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
