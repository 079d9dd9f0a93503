"""Call functions in other processes: the threads of one run Python code on one core at a time."""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

SOURCES = Path(__file__).parents[2]
# Not `-m`, which would find modules in the current folder first.
SERVE = (
    f"import sys; sys.path[0] = {str(SOURCES)!r}; "
    "from image_classifier.common.processes import serve; serve()"
)


class ChildProcess:
    """A process that calls functions for this one; use it in a `with` statement.

    It ends with this process, even if that is killed, because its input ends. It has a session of
    its own, so Ctrl-C in a terminal does not reach it. `multiprocessing` offers neither.
    """

    def __init__(self, files: Sequence[int] = ()) -> None:
        """Start the process, with the same open file descriptors `files`."""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # NumPy would start one per core
            pass_fds=files,
            start_new_session=True,
        )

    def __enter__(self) -> "ChildProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with suppress(BrokenPipeError):
            self._process.__exit__(None, None, None)  # closes the pipes and waits for the end

    def call(self, function: Callable, *arguments: object) -> object:
        """Call a function of a module of src/, and return its result or raise its exception.

        Raises:
            MemoryError: if the process was killed, as a system does that runs out of memory.
        """
        try:
            pickle.dump((function, arguments), self._process.stdin)
            self._process.stdin.flush()
            succeeded, result = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self._process.wait()
            if code == -signal.SIGKILL:
                raise MemoryError("a process was killed that decodes images") from None
            raise RuntimeError(f"a process that decodes images ended with code {code}") from None
        if not succeeded:
            raise result
        return result


def serve() -> None:
    """Make the calls of a `ChildProcess`, until the process that started this one ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints would damage the answers
    with suppress(EOFError, OSError, pickle.UnpicklingError):
        while True:
            function, arguments = pickle.load(sys.stdin.buffer)
            try:
                answer = True, function(*arguments)
            except Exception as error:
                answer = False, error
            pickle.dump(answer, answers)
            answers.flush()
    os._exit(0)  # without a message about the pipe
