"""Commands that tests observe and disturb while they run."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from helpers.project import Project


class Run:
    """A command in its own process group."""

    def __init__(self, project: Project, command: tuple[str, ...]) -> None:
        self._log = project.top.parent / f"{time.time_ns()}.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                cwd=project.root,
                env={**project.environment, "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # SIGINT may be ignored if the tests run in the background.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.signal(signal.SIGKILL, to_all=True)
        self.process.wait()

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def seconds_until(self, text: str | None) -> float:
        """Wait until the output contains the text or the command ends; returns the seconds."""
        start = time.monotonic()
        while self.process.poll() is None and (text is None or text not in self.output):
            time.sleep(0.01)
        return time.monotonic() - start

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is true; the command must not end before that."""
        while not condition():
            assert self.process.poll() is None, self.output
            time.sleep(0.002)

    def finish(self) -> None:
        """Wait for the command to end, and check that it succeeded."""
        assert self.process.wait() == 0, self.output

    def signal(self, number: signal.Signals, to_all: bool) -> None:
        with suppress(ProcessLookupError):
            if to_all:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, however long it takes: pytest ends a test that hangs."""
    while not condition():
        time.sleep(0.05)


def copy(project: Project, folder: Path) -> Project:
    """Copy a project and the folder it is in to a folder that does not exist yet."""
    shutil.copytree(project.top.parent, folder, symlinks=True)
    return Project(folder / project.top.name, folder / "home", project.prefix)
