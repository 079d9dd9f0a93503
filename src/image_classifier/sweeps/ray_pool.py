"""Give the trials of a sweep to the machines of a Ray cluster."""

import os
import queue
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from dvc.repo import Repo

from image_classifier.common.errors import InputError
from image_classifier.outputs.git import pack_tree, unpack
from image_classifier.preparation.ray_cluster import installed_versions, summarize
from image_classifier.sweeps.ray_trials import (
    Assignment,
    RemoteTrials,
    divide,
    find_outputs,
    read_pieces,
    write_pieces,
)
from image_classifier.sweeps.trials import TrialError, TrialPool, run_trial

PREPARED = ("download", "prepare")  # stages whose outputs the trials read
MOST_LOSSES = 5  # of machines by one trial, which may be what brings them down
READY_SECONDS = 20  # seconds without a machine that is ready, after which this is told
CLOSING_SECONDS = 10  # in which machines are to end what runs, and to clear up


class MachineLostError(Exception):
    """What was running on a machine is lost."""


class RemoteProcess:
    """The near end of a `RemoteTrials`, with the methods of a `TrialProcess`."""

    machine: str | None = None  # its name, once it is ready for trials

    def __init__(self, ray: ModuleType, gpus: float) -> None:
        """Ask for a process; it begins as soon as a machine has a CPU, and `gpus`, for it."""
        self._ray = ray
        self.actor = ray.remote(num_cpus=1, num_gpus=gpus, max_concurrency=2)(RemoteTrials).remote()

    def open(self, assignment: Assignment) -> None:
        """Wait until the process has begun, and let it get ready.

        Raises:
            TrialError: if its machine cannot run trials.
        """
        self.machine = self._ask("open", assignment)["machine"]

    def begin(self, parameters: dict) -> dict:
        return self._ask("begin", parameters)

    def go_on(self, wanted: bool) -> dict:
        return self._ask("go_on", wanted)

    def kill(self) -> None:
        with suppress(Exception):  # that there is nothing to kill has many names
            self._ray.kill(self.actor)

    def call(self, method: str, *arguments: object) -> object:
        """Call a method of `RemoteTrials`.

        Raises:
            MachineLostError: if there is no answer.
            TrialError: if the answer is an error that `RemoteTrials` does not know of.
            InputError: if there is no cluster any more.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(getattr(self.actor, method).remote(*arguments))
        except (errors.LocalRayletDiedError, ConnectionError) as error:
            raise InputError(f"Ray has ended: {' '.join(str(error).split())}") from None
        except errors.RayTaskError as error:
            raise TrialError(summarize(error)) from None
        except (errors.RuntimeEnvSetupError, errors.ActorUnschedulableError) as error:
            raise TrialError(" ".join(str(error).split())) from None
        except errors.RayError as error:
            if getattr(error, "actor_init_failed", False):
                raise TrialError(summarize(error)) from None  # such as a missing package
            raise MachineLostError(str(error)) from None

    def _ask(self, method: str, argument: object) -> dict:
        answer = self.call(method, argument)
        if "error" in answer:
            print(answer["output"], end="", file=sys.stderr, flush=True)
            raise TrialError(answer["error"])
        return answer


class ClusterPool:
    """A `TrialPool` whose processes are on the machines of a cluster.

    The trial of a machine that is lost runs again on another. The sweep goes on with the machines
    that are left, and with those that join.
    """

    def __init__(
        self, ray: ModuleType, gpus: float, folder: Path, count: int, source: str, cache: str
    ) -> None:
        """Prepare the data here, and ask for processes, with a CPU each.

        Args:
            ray: the module, connected.
            gpus: for each process, or a fraction of one.
            folder, count, source, cache: as for `TrialPool`.

        Raises:
            TrialError: if the data cannot be prepared.
        """
        self._ray = ray
        self._gpus = gpus
        self._folder = folder
        self._here = TrialPool(folder, 1, source, cache)
        self.prepared = self._here.prepared
        self._cache = Repo().cache.local
        tree = self._here.write_tree()
        blocks = divide(self._cache, find_outputs(self.prepared, self._cache, PREPARED))
        self._assignment = Assignment(
            uuid.uuid4().hex,
            tree,
            ray.put(pack_tree(tree)),
            [(pieces, ray.put(read_pieces(self._cache, pieces))) for pieces in blocks],
            installed_versions(),
            os.environ.get("OMP_NUM_THREADS"),
        )
        self._idle: queue.SimpleQueue[RemoteProcess | None] = queue.SimpleQueue()
        self._processes: set[RemoteProcess] = set()
        self._opening = 0
        self._refusals: list[str] = []  # why machines are not used
        self._last_loss = ""  # of a machine that was getting ready
        self._waiting_told = False
        self._closed = False
        self._change = threading.Lock()
        for _ in range(count):
            self._ask_for_process()

    def run(self, parameters: dict, go_on: Callable[[int, dict], bool]) -> dict:
        """As `TrialPool.run`; what the trial leaves is then in Git and in DVC's cache here.

        When its machine is lost, `go_on` is called for the same epochs again.

        Raises:
            InputError: if there is no machine that can run trials.
        """
        for _ in range(MOST_LOSSES):
            process = self._take()
            try:
                answer = run_trial(process, parameters, go_on)
                self._fetch(process, answer)
            except MachineLostError:
                self._replace(process)
            except BaseException:
                self._idle.put(process)
                raise
            else:
                self._idle.put(process)
                return answer
        raise TrialError(f"lost its machine {MOST_LOSSES} times")

    def close(self) -> None:
        """End all processes, and remove what they have left."""
        with self._change:
            self._closed = True
            processes = list(self._processes)
        with suppress(Exception):  # Ray may have ended, which has many names
            closing = [process.actor.close.remote() for process in processes if process.machine]
            self._ray.wait(closing, num_returns=len(closing), timeout=CLOSING_SECONDS)
        for process in processes:
            process.kill()
        self._idle.put(None)
        self._here.close()

    def _take(self) -> RemoteProcess:
        """Wait for an idle process whose machine is still there."""
        while True:
            try:
                process = self._idle.get(timeout=READY_SECONDS)
            except queue.Empty:
                with self._change:
                    ready = any(process.machine for process in self._processes)
                    if not (ready or self._waiting_told):
                        reason = f" ({self._last_loss})" if self._last_loss else ""
                        print(f"no machine is ready; waiting for one{reason}", flush=True)
                        self._waiting_told = True
                continue
            if process is None:
                self._idle.put(None)  # for whoever else waits
                if self._closed:
                    raise TrialError("the sweep has ended")
                raise InputError("no machine of the cluster can run trials, as said above")
            try:
                process.call("check")
                return process
            except MachineLostError:
                self._replace(process)

    def _fetch(self, process: RemoteProcess, answer: dict) -> None:
        """Bring what a trial has left to this repository and its cache."""
        unpack(answer["pack"])
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            for pieces in answer["blocks"]:
                write_pieces(self._cache, Path(scratch), pieces, process.call("read", pieces))

    def _replace(self, process: RemoteProcess) -> None:
        if self._closed:
            raise TrialError("the sweep has ended")
        print(f"{process.machine} was lost", flush=True)
        self._discard(process)
        self._ask_for_process()

    def _ask_for_process(self) -> None:
        with self._change:
            self._opening += 1
        threading.Thread(target=self._open_process, daemon=True).start()

    def _open_process(self) -> None:
        """Get a process ready, however long that takes, unless its machine cannot run trials."""
        refusal = None
        while True:
            with self._change:
                if self._closed:
                    return
                process = RemoteProcess(self._ray, self._gpus)
                self._processes.add(process)
            try:
                process.open(self._assignment)
            except MachineLostError as error:
                self._last_loss = " ".join(str(error).split())
                self._discard(process)
                time.sleep(1)  # it may be the cluster that is in trouble
                continue
            except Exception as error:
                self._discard(process)
                refusal = str(error)
            break
        with self._change:
            self._opening -= 1
            if refusal is None:
                self._idle.put(process)
                self._waiting_told = False
            elif refusal not in self._refusals:
                self._refusals.append(refusal)
                print(f"not used: {refusal}", file=sys.stderr, flush=True)
            if not self._opening and not self._processes:
                self._idle.put(None)

    def _discard(self, process: RemoteProcess) -> None:
        process.kill()
        with self._change:
            self._processes.discard(process)
