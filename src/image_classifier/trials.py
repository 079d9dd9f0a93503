"""Run trials of a search in processes of their own, in copies of the repository."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dvc.config import Config

from image_classifier.errors import InputError
from image_classifier.git import git

# The parameters of a trial that stage prepare reads; see dvc.yaml.
PREPARE_PARAMETERS = ("model.backbone", "model.weights", "model.fine_tune_layers")
_preparing = threading.Lock()


class TrialError(InputError):
    """A trial could not be finished; the message says why, in one line."""


class TrialProcess:
    """A copy of the repository, and in it a process that trains one trial after another."""

    def __init__(
        self,
        folder: Path,
        source: str,
        cache: str,
        preparing: AbstractContextManager = _preparing,
        output: IO | None = None,
    ) -> None:
        """Copy the tracked files, with the prepared data from DVC's cache (computed if need be).

        Args:
            folder: where to; it is made.
            source: the commit or the tree whose files to copy, of the repository here.
            cache: the folder of DVC's cache.
            preparing: held while other data are prepared, which is not to be done twice.
            output: where what is printed meanwhile goes to (None: to this process's).

        Raises:
            TrialError: if the data cannot be prepared.
        """
        self.folder = folder
        self._preparing = preparing
        self._output = output
        self._process: subprocess.Popen | None = None
        self._beginning = threading.Lock()
        self._closed = False
        (folder / ".dvc/tmp").mkdir(parents=True)
        self._git = {
            "GIT_DIR": git("rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": str(folder.absolute()),
            "GIT_INDEX_FILE": str((folder / ".dvc/tmp/git_index").absolute()),
        }
        git("read-tree", source, environment=self._git)
        git("checkout-index", "--all", environment=self._git, folder=folder)
        with Config(str(folder / ".dvc")).edit("local") as settings:
            settings["core"] = {"no_scm": True}
            # Links to the cache cost no time and no space, and nothing writes to the data.
            settings["cache"] = {"dir": cache, "type": "reflink,hardlink,symlink,copy"}
        self._prepared: tuple | None = None
        self._prepare({})

    def begin(self, parameters: dict) -> dict:
        """Begin a trial.

        Args:
            parameters: name -> value, of those that differ from params.yaml.

        Returns:
            After each epoch but the last its number, "epoch", from 1, and the "metrics" of the
            validation pictures: `go_on` says whether to go on. In the end, the "tree" of Git with
            the files that the trial leaves, and the "metrics" of its best epoch.

        Raises:
            TrialError: if the trial failed.
        """
        self._prepare(parameters)
        if self._process is None or self._process.poll() is not None:
            self._start()
        self._send(parameters)
        return self._receive()

    def go_on(self, wanted: bool) -> dict:
        """Go on with the trial, or stop it, and return and raise what `begin` does."""
        self._send("go on" if wanted else "stop")
        return self._receive()

    def write_tree(self) -> str:
        """Put the files here that are no outputs into Git, and return the hash of their tree."""
        git("add", "--all", environment=self._git, folder=self.folder)
        return git("write-tree", environment=self._git)

    def close(self) -> None:
        """End at once what is running, and let nothing begin any more."""
        with self._beginning:
            self._closed = True
        self._stop()

    def _prepare(self, parameters: dict) -> None:
        wanted = tuple(parameters.get(name) for name in PREPARE_PARAMETERS)
        if wanted == self._prepared:
            return
        self._stop()  # the process has read the data that there were
        from dvc.utils.hydra import apply_overrides

        path = self.folder / "params.yaml"
        original = path.read_text(encoding="utf-8")
        changes = [
            f"{name}={parameters[name]}" for name in PREPARE_PARAMETERS if name in parameters
        ]
        # What has been prepared before is only linked.
        with self._preparing if changes else nullcontext():
            apply_overrides(path, changes)
            command = [sys.executable, "-m", "dvc", "repro", "--quiet", "prepare"]
            process = self._begin(
                command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output
            )
            try:
                failed = process.wait()
            finally:
                self._stop()
        path.write_text(original, encoding="utf-8")
        if failed:
            raise TrialError("`dvc repro prepare` failed, as said above")
        self._prepared = wanted

    def _start(self) -> None:
        with (self.folder / ".dvc/tmp/trials.log").open("a") as log:
            self._begin(
                [sys.executable, "src/run_trials.py"],
                # As for a stage: it saves no experiment itself, and ends when this one is killed.
                env={**os.environ, "DVC_ROOT": str(self.folder.absolute())},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )

    def _begin(self, command: list[str], **options: object) -> subprocess.Popen:
        with self._beginning:
            if self._closed:
                raise TrialError("the search has ended")
            # In a group of its own, which ends as a whole: what DVC runs uses the folder as well.
            self._process = subprocess.Popen(
                command, cwd=self.folder, start_new_session=True, **options
            )
            return self._process

    def _stop(self) -> None:
        if self._process and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _send(self, message: object) -> None:
        with suppress(BrokenPipeError):  # the process has ended; reading its answer tells
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def _receive(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise TrialError(f"its process ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise TrialError(answer["error"])
        if "epoch" in answer:
            return answer
        try:
            return {**answer, "tree": self.write_tree()}
        except InputError as error:
            raise TrialError(str(error)) from None


def run_trial(process: Any, parameters: dict, go_on: Callable[[int, dict], bool]) -> dict:
    """Run a trial on a `TrialProcess`, or on what has its methods `begin` and `go_on`.

    Args:
        process: an idle one.
        parameters: name -> value, of those that differ from params.yaml.
        go_on: called after each epoch but the last with its number, from 1, and the validation
            pictures' metrics; says whether to go on.

    Returns:
        The last answer: the "tree" of the files that the trial leaves, and the "metrics" of its
        best epoch.

    Raises:
        TrialError: if the trial failed.
    """
    answer = process.begin(parameters)
    while "epoch" in answer:
        answer = process.go_on(go_on(answer["epoch"], answer["metrics"]))
    return answer


class TrialPool:
    """Some `TrialProcess`es, of which each trial takes one that is idle. They end with it."""

    def __init__(self, folder: Path, count: int, source: str, cache: str) -> None:
        """As for `TrialProcess`; what is in `folder` is removed."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        # Not the same again: what a killed search began may still write to its own.
        copies = Path(tempfile.mkdtemp(dir=folder))
        self._folder = folder
        self.prepared = copies / "0/dvc.lock"
        """The lock file in which the prepared data of the trials is recorded."""
        self._processes = []
        self._idle: queue.SimpleQueue[TrialProcess] = queue.SimpleQueue()
        for number in range(count):
            process = TrialProcess(copies / str(number), source, cache)
            self._processes.append(process)
            self._idle.put(process)

    def run(self, parameters: dict, go_on: Callable[[int, dict], bool]) -> dict:
        """As `run_trial`, on an idle process, for which it waits."""
        process = self._idle.get()
        try:
            return run_trial(process, parameters, go_on)
        finally:
            self._idle.put(process)

    def write_tree(self) -> str:
        """As `TrialProcess.write_tree`; before the first trial, with the data prepared."""
        return self._processes[0].write_tree()

    def __enter__(self) -> "TrialPool":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()
        shutil.rmtree(self._folder, ignore_errors=True)
