"""Run trials of a sweep in separate processes, in copies of the project."""

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
from typing import IO, Any

from dvc.config import Config

from image_classifier.common.errors import InputError
from image_classifier.common.params import AUGMENTATION
from image_classifier.common.stage_inputs import PIPELINE, cached_outputs
from image_classifier.outputs.git import git

# Parameters that a sweep may vary and stage prepare reads; see dvc.yaml. Not the seed and the
# fractions of the splits: trials would be compared on different images.
PREPARE_PARAMETERS = (
    *("model.backbone", "model.weights", "model.fine_tune_layers"),
    *("prepare.image_size", "prepare.views"),
    *(f"prepare.{name}" for name in AUGMENTATION),
)
IGNORED = Path(".dvc/tmp/ignored")
_preparing = threading.Lock()


class TrialError(InputError):
    """A trial failed; the message is one line with the reason."""


class TrialProcess:
    """A copy of the project, and a process in it that trains one trial after another."""

    def __init__(
        self,
        folder: Path,
        source: str,
        cache: str,
        preparing: AbstractContextManager = _preparing,
        output: IO | None = None,
    ) -> None:
        """Copy tracked files to a new folder, with data from DVC's cache, prepared if necessary.

        Args:
            folder: the new folder.
            source: tree of the project's files.
            cache: folder of DVC's cache.
            preparing: lock held while data are prepared, so that no data are prepared twice.
            output: file for the output of preparing (None: this process's output).

        Raises:
            TrialError: if the data cannot be prepared.
        """
        self.folder = folder
        self._preparing = preparing
        self._output = output
        self._process: subprocess.Popen | None = None  # trains
        self._preparation: subprocess.Popen | None = None
        self._beginning = threading.Lock()
        self._closed = False
        (folder / ".dvc/tmp").mkdir(parents=True)
        self._git_environment = {
            "GIT_DIR": git("rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": str(folder.absolute()),
            "GIT_INDEX_FILE": str((folder / ".dvc/tmp/git_index").absolute()),
        }
        self._git("read-tree", source)
        self._git("checkout-index", "--all")
        # In the original, a .gitignore file above the project may hide these.
        ignored = [f"/{path}\n" for path in cached_outputs(folder / PIPELINE)]
        (folder / IGNORED).write_text("".join(ignored), encoding="utf-8")
        with Config(str(folder / ".dvc")).edit("local") as settings:
            settings["core"] = {"no_scm": True}
            # Links to the cache take no time and no space, and nothing writes to the data.
            settings["cache"] = {"dir": cache, "type": "reflink,hardlink,symlink,copy"}
        self._prepared: list[str] | None = None
        self._start()  # it loads TensorFlow while the data are linked
        try:
            self._prepare({})
        except BaseException:
            self.close()
            raise

    def begin(self, parameters: dict) -> dict:
        """Start a trial."""
        self._prepare(parameters)
        if self._process is None or self._process.poll() is not None:
            self._start()
        return self._ask(parameters)

    def continue_or_stop(self, wanted: bool) -> dict:
        """Continue the trial if `wanted`, or stop it."""
        return self._ask("continue" if wanted else "stop")

    def write_tree(self) -> str:
        """Add the copy's files, except cached outputs, to Git; returns the hash of their tree."""
        self._git("add", "--all")
        return self._git("write-tree")

    def close(self) -> None:
        """Stop the running process at once, and start no further ones."""
        with self._beginning:
            self._closed = True
        self._stop(self._process)
        self._stop(self._preparation)

    def _git(self, *arguments: str) -> str:
        settings = (
            # Common in large repositories: in the copy, Git would overlook files.
            "core.sparseCheckout=false",
            "core.fsmonitor=false",
            f"core.excludesFile={(self.folder / IGNORED).absolute()}",
        )
        return git(
            *arguments, settings=settings, environment=self._git_environment, folder=self.folder
        )

    def _prepare(self, parameters: dict) -> None:
        changes = [
            f"{name}={parameters[name]}" for name in PREPARE_PARAMETERS if name in parameters
        ]
        if changes == self._prepared:
            return
        if self._prepared is not None:
            self._stop(self._process)  # it holds the previous data
        self._prepared = None  # DVC removes the old data before it prepares new data, and may fail
        from dvc.utils.hydra import apply_overrides

        path = self.folder / "params.yaml"
        original = path.read_text(encoding="utf-8")
        # Unchanged data are only linked from the cache.
        with self._preparing if changes else nullcontext():
            # All of them: the stage checks parameters that it does not read, such as train.epochs.
            if parameters:
                apply_overrides(path, [f"{name}={value}" for name, value in parameters.items()])
            command = [sys.executable, "-m", "dvc", "repro", "--quiet", "prepare"]
            self._preparation = self._begin(
                command,
                # PYTHONWARNINGS=error would stop DVC at a warning of a library.
                env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
            )
            try:
                failed = self._preparation.wait()
            finally:
                self._stop(self._preparation)
        if parameters:
            path.write_text(original, encoding="utf-8")
        if failed:
            raise TrialError("`dvc repro prepare` failed; its error is printed above")
        self._prepared = changes

    def _start(self) -> None:
        sources = [str(self.folder.absolute() / "src"), os.environ.get("PYTHONPATH")]
        with (self.folder / ".dvc/tmp/trials.log").open("a") as log:
            self._process = self._begin(
                [sys.executable, "-m", "image_classifier.sweeps.worker"],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sources)),
                    # As in a stage: saves no experiment, and exits when this process is killed.
                    "DVC_ROOT": str(self.folder.absolute()),
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                bufsize=1,
            )

    def _begin(self, command: list[str], **options: object) -> subprocess.Popen:
        with self._beginning:
            if self._closed:
                raise TrialError("the sweep has stopped")
            # Its own group, killed as a whole: the processes that DVC starts also use the folder.
            return subprocess.Popen(command, cwd=self.folder, start_new_session=True, **options)

    def _stop(self, process: subprocess.Popen | None) -> None:
        if process and process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _ask(self, message: object) -> dict:
        with suppress(BrokenPipeError):  # the process has exited, which readline shows below
            print(json.dumps(message), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise TrialError(f"its process exited with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise TrialError(answer["error"])
        if "epoch" in answer:
            return answer
        try:
            return {**answer, "tree": self.write_tree()}
        except InputError as error:
            raise TrialError(str(error)) from None


def run_trial(process: Any, parameters: dict, is_wanted: Callable[[int, dict], bool]) -> dict:
    """Run a trial on an idle process, and return the last reply.

    Args:
        process: a `TrialProcess`, or an object with its methods `begin` and `continue_or_stop`.
        parameters: for `begin`.
        is_wanted: decides after an epoch whether to continue, given its number (from 1) and
            metrics.

    Raises:
        TrialError: if the trial failed.
    """
    answer = process.begin(parameters)
    while "epoch" in answer:
        answer = process.continue_or_stop(is_wanted(answer["epoch"], answer["metrics"]))
    return answer


class TrialPool:
    """A number of `TrialProcess`es; each trial runs on an idle one."""

    def __init__(self, folder: Path, count: int, source: str, cache: str) -> None:
        """Empty `folder`, and start `count` processes in it (see `TrialProcess`)."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        # A new folder each time: processes of a killed sweep may still write to theirs.
        copies = Path(tempfile.mkdtemp(dir=folder))
        self._folder = folder
        self.prepared = copies / "0/dvc.lock"  # records the prepared data
        numbers = range(count)
        self._processes = [TrialProcess(copies / str(number), source, cache) for number in numbers]
        self._idle: queue.SimpleQueue[TrialProcess] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def run(self, parameters: dict, is_wanted: Callable[[int, dict], bool]) -> dict:
        """Wait for an idle process, and call `run_trial` with it."""
        process = self._idle.get()
        try:
            return run_trial(process, parameters, is_wanted)
        finally:
            self._idle.put(process)

    def write_tree(self) -> str:
        """As `TrialProcess.write_tree`; call it before the first trial: the data are prepared."""
        return self._processes[0].write_tree()

    def close(self) -> None:
        """Stop all processes and remove their copies."""
        for process in self._processes:
            process.close()
        shutil.rmtree(self._folder, ignore_errors=True)
