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
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from image_classifier.errors import InputError
from image_classifier.git import git

# The parameters of a trial that stage prepare reads; see dvc.yaml.
PREPARE_PARAMETERS = ("model.backbone", "model.weights", "model.fine_tune_layers")
_preparing = threading.Lock()


class TrialError(InputError):
    """A trial could not be finished; the message says why, in one line."""


class TrialProcess:
    """A copy of the repository, and in it a process that trains one trial after another."""

    def __init__(self, folder: Path, source: str, parent: str, cache: str) -> None:
        """Copy the tracked files, with the prepared data from DVC's cache (computed if need be).

        Args:
            folder: where to; it is made.
            source: the commit whose files to copy.
            parent: the commit that the experiments belong to.
            cache: the folder of DVC's cache.

        Raises:
            TrialError: if the data cannot be prepared.
        """
        self.folder = folder
        self._parent = parent
        self._process: subprocess.Popen | None = None
        self._beginning = threading.Lock()
        self._closed = False
        (folder / ".dvc/tmp").mkdir(parents=True)
        index = {"GIT_INDEX_FILE": str((folder / ".dvc/tmp/git_index").absolute())}
        git("read-tree", source, environment=index)
        git("checkout-index", "--all", f"--prefix={folder}/", environment=index)
        settings = f"[core]\n    no_scm = true\n[cache]\n    dir = {cache}\n"
        # Links to the cache cost no time and no space, and nothing writes to the data.
        settings += "    type = reflink,hardlink,symlink,copy\n"
        (folder / ".dvc/config.local").write_text(settings, encoding="utf-8")
        self._prepared: tuple | None = None
        self._prepare({})

    def run(
        self, parameters: dict, message: str, go_on: Callable[[int, dict], bool]
    ) -> tuple[str, dict]:
        """Run a trial.

        Args:
            parameters: name -> value, of those that differ from params.yaml.
            message: for the commit.
            go_on: called after each epoch but the last with its number, from 1, and the validation
                pictures' metrics; says whether to go on.

        Returns:
            A commit of the files that the trial leaves, and the metrics of its best epoch.

        Raises:
            TrialError: if the trial failed.
        """
        self._prepare(parameters)
        if self._process is None or self._process.poll() is not None:
            self._start()
        self._send({"parameters": parameters, "message": message})
        while True:
            line = self._process.stdout.readline()
            if not line:
                raise TrialError(f"its process ended with code {self._process.wait()}")
            answer = json.loads(line)
            if "error" in answer:
                raise TrialError(answer["error"])
            if "commit" in answer:
                return answer["commit"], answer["metrics"]
            self._send("go on" if go_on(answer["epoch"], answer["metrics"]) else "stop")

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
        with _preparing:
            apply_overrides(path, changes)
            command = [sys.executable, "-m", "dvc", "repro", "--quiet", "prepare"]
            process = self._begin(command, stdin=subprocess.DEVNULL)
            try:
                failed = process.wait()
            finally:
                self._stop()
        path.write_text(original, encoding="utf-8")
        if failed:
            raise TrialError("`dvc repro prepare` failed, as said above")
        self._prepared = wanted

    def _start(self) -> None:
        git_folder = git("rev-parse", "--absolute-git-dir")
        command = [sys.executable, "src/run_trials.py"]
        command += ["--git-folder", git_folder, "--parent", self._parent]
        with (self.folder / ".dvc/tmp/trials.log").open("a") as log:
            self._begin(
                command,
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


class TrialPool:
    """Some `TrialProcess`es, of which each trial takes one that is idle. They end with it."""

    def __init__(self, folder: Path, count: int, source: str, parent: str, cache: str) -> None:
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
            process = TrialProcess(copies / str(number), source, parent, cache)
            self._processes.append(process)
            self._idle.put(process)

    def run(
        self, parameters: dict, message: str, go_on: Callable[[int, dict], bool]
    ) -> tuple[str, dict]:
        """As `TrialProcess.run`, waiting for an idle one first."""
        process = self._idle.get()
        try:
            return process.run(parameters, message, go_on)
        finally:
            self._idle.put(process)

    def __enter__(self) -> "TrialPool":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()
        shutil.rmtree(self._folder, ignore_errors=True)
