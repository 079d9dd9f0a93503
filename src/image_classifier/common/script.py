"""Run a script of src/: working folder, signals, one-line errors, and a stop when DVC is killed.

Only the scripts of src/ import this module, and call `run` or `run_stage`.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from image_classifier.common.errors import NO_SPACE, InputError
from image_classifier.common.progress import close_bar

REPOSITORY = Path(__file__).resolve().parents[3]
EXPERIMENT = "DVC_EXP_NAME"  # which `dvc exp run` sets
SHELLS = ("sh", "dash", "bash", "zsh", "fish")  # DVC may start a stage through one of these
WATCH_INTERVAL = 0.2  # seconds, as are the following
NOTICING = 5  # for the other thread to see on a busy machine that DVC is gone
UNWINDING = 3  # for the main thread to put back what it has set aside
OWN_MODULES = re.compile(r"(__main__|image_classifier)\b")

_ended_by: signal.Signals | None = None
_dvc_gone = threading.Event()
_returning = threading.Lock()  # held while Git returns to the branch


def run(main: Callable[[], None], folder: Path = REPOSITORY) -> None:
    """Call `main` in `folder`, so that a stage can be started from any folder.

    On an `InputError`, a full disk or too little memory, the process prints one line and exits with
    code 1; on Ctrl-C (130) and SIGTERM (143), with the code that a shell gives; and with 141 and no
    message when the reader of its output has gone.
    """
    os.chdir(folder)
    sys.stdout.reconfigure(line_buffering=True)  # also in a file: people follow a run in its log
    if "DVC_ROOT" in os.environ:
        threading.Thread(target=_end_with_dvc, daemon=True).start()
    try:
        main()
    except BaseException as error:
        close_bar()
        if _ended_by:
            _end_by_signal()
        if isinstance(error, InputError):
            sys.exit(f"error: {error}")
        if isinstance(error, BrokenPipeError):
            # Otherwise Python would fail again at exit, when it flushes standard output.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            place = f"{error.filename}: " if error.filename else ""
            sys.exit(f"error: {place}{os.strerror(error.errno)}")
        # By name, because TensorFlow is not imported here; its message has the reason far down.
        if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
            lines = str(error).splitlines()
            reason = next((line for line in lines if "OOM" in line), " ".join(lines[:1]))
            sys.exit(f"error: not enough memory: {reason}")
        raise


def run_stage(main: Callable[[], None]) -> None:
    """As `run`, for a script without arguments: it explains `--help`, and refuses any other."""
    argparse.ArgumentParser(
        description=main.__globals__["__doc__"],
        epilog="The parameters are in params.yaml; `dvc exp run` runs all stages that changed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()

    def stage() -> None:
        _remove_broken_links()
        main()

    run(stage)


def _remove_broken_links() -> None:
    """Delete outputs of stages that are links to files no longer in DVC's cache.

    With `cache.type symlink`, DVC itself creates such links, and its commands then fail. A stage
    that wrote to one would create a file in the cache whose hash is not its name.
    """
    # Imported here: it loads libraries, before which Ctrl-C and warnings must be handled.
    from image_classifier.common.stage_inputs import PIPELINE, cached_outputs

    for path in map(Path, cached_outputs(PIPELINE)):
        if path.is_symlink() and not path.exists():
            path.unlink()


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    global _ended_by
    _ended_by = signal.Signals(number)
    raise KeyboardInterrupt


def _end_by_signal() -> NoReturn:
    """Print one line and exit at once.

    A library may have replaced the exception, and threads may be running.
    """
    close_bar()
    with suppress(OSError):
        sys.stdout.flush()
    # The same signal may have ended DVC; then wait until Git has returned to the branch.
    if _ended_by == signal.SIGTERM and "DVC_ROOT" in os.environ and _dvc_gone.wait(NOTICING):
        with _returning:
            pass
    word = "interrupted" if _ended_by == signal.SIGINT else "terminated"
    print(word, file=sys.stderr, flush=True)
    os._exit(128 + _ended_by)


def _unless_ended(report: Callable[..., None]) -> Callable[..., None]:
    """Wrap a hook of Python that reports an error: after a signal, end the process instead."""

    def hook(*error: object) -> None:
        if _ended_by:
            _end_by_signal()
        report(*error)

    return hook


def _end_with_dvc() -> None:
    """End this process when the DVC process that started it has been killed.

    Only DVC could record its results, and it would still be writing its files when the same command
    runs again.
    """
    import psutil  # imported here: only stages under DVC need it

    with suppress(psutil.Error):
        parents = psutil.Process().parents()
        # A shell between the two survives DVC.
        nearest = [process.pid for process in parents if process.name() not in SHELLS][:1]
        watched = _lock_holders() or set(nearest)
        while not watched.isdisjoint(process.pid for process in psutil.Process().parents()):
            time.sleep(WATCH_INTERVAL)
        with _returning:
            _dvc_gone.set()
            if EXPERIMENT in os.environ:
                _reattach_head()
        if not _ended_by:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(UNWINDING)
        os._exit(128 + signal.SIGTERM)


def _reattach_head() -> None:
    """Return Git to the branch from which `dvc exp run` has detached HEAD.

    DVC does so itself unless it is terminated, as by the Stop button of its extension for VS Code.
    The files and the index stay as they are.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
        return done.stdout.strip()

    branch = git("rev-parse", "--abbrev-ref", "@{-1}")
    detached = git("rev-parse", "--abbrev-ref", "HEAD") == "HEAD"
    if detached and branch and git("rev-parse", "HEAD") == git("rev-parse", f"refs/heads/{branch}"):
        git("symbolic-ref", "HEAD", f"refs/heads/{branch}")


def _lock_holders() -> set[int]:
    """The process IDs of the DVC, perhaps killed, that has locked this stage's outputs."""
    try:
        locks = json.loads(Path(".dvc/tmp/rwlock").read_text())["write"]
        return {lock["pid"] for lock in locks.values()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return set()  # another version of DVC may keep its locks elsewhere


# On import, not in `run`: a script calls that after a second of imports.
# PYTHONWARNINGS=error, as some CI systems set it, is meant for this repository, not for libraries.
warnings.filters[:] = [
    (action, message, category, module or (OWN_MODULES if action == "error" else None), line)
    for action, message, category, module, line in warnings.filters
]
# Settings for other programs: matplotlib fails to import if the value is a backend it lacks now.
os.environ["MPLBACKEND"] = "agg"
for name in ("DVCLIVE_RESUME", "DVCLIVE_TEST"):
    os.environ.pop(name, None)
if Path(sys.argv[0]).resolve().parent == REPOSITORY / "src":
    sys.excepthook = _unless_ended(sys.__excepthook__)
    # For exceptions that Python only reports, such as those in `__del__`.
    sys.unraisablehook = _unless_ended(sys.__unraisablehook__)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _interrupt)
