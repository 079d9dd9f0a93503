"""The files of sweeps on a machine of a Ray cluster, and the process that removes them.

base/lock              held while folders are taken into use or removed
base/<name>.in_use     locked by each process that uses the folder <name>
base/<name>/           the files of a sweep on this machine

An actor that is killed cannot clean up after itself. So a separate process, `python -m` with the
name of this module, waits until no process uses a folder, and removes it. If that process is killed
as well, as when the machine loses power, the next sweep on this machine removes the folder.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil
from filelock import FileLock

SOURCES = Path(__file__).parents[2]
ATTEMPTS = 60  # one per second


def base_folder() -> Path:
    """The folder for the files of all sweeps of this user, below the temporary folder."""
    folder = Path(tempfile.gettempdir()) / f"image-classifier-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def begin_use(base: Path, name: str) -> IO:
    """Keep the folder `name` as long as the returned file is open; afterwards it is removed."""
    path = base / f"{name}.in_use"
    with FileLock(base / "lock"):
        first = not path.exists()
        file = path.open("w")
        fcntl.flock(file, fcntl.LOCK_SH)
        if first:
            # Through a shell that exits: Ray kills the children of an actor with the actor.
            subprocess.run(
                ["sh", "-c", '"$@" &', "sh", sys.executable, "-m", __name__, path],
                cwd=base,
                env={**os.environ, "PYTHONPATH": str(SOURCES)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                check=True,
            )
        return file


def remove_unused(base: Path) -> None:
    """Remove the folders that no process has in use, and end the processes that work there."""
    with FileLock(base / "lock"):
        for path in base.glob("*.in_use"):
            with path.open() as file, suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                folder = path.with_suffix("")
                _end_processes(folder)
                shutil.rmtree(folder, ignore_errors=True)
                if not folder.exists():  # a process may have written there; then try again later
                    path.unlink()


def _end_processes(folder: Path) -> None:
    """Kill what a killed actor has left, such as `dvc repro`; spare shells in a terminal."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder) and not process.terminal():
                process.kill()


def main() -> None:
    path = Path(sys.argv[1])
    for _ in range(ATTEMPTS):
        with suppress(FileNotFoundError):
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # waits until no actor has it open
            remove_unused(path.parent)
        if not path.exists():
            return
        time.sleep(1)


if __name__ == "__main__":
    main()
