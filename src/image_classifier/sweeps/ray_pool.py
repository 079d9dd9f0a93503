"""Run the trials of a sweep on the machines of a Ray cluster."""

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
MOST_LOSSES = 5  # machines one trial may lose before it fails: it may be crashing them itself
READY_SECONDS = 20  # without a ready machine, before a message is printed


class MachineLostError(Exception):
    """A machine was lost, and with it the trial that ran there."""


class RemoteProcess:
    """The local side of a `RemoteTrials`, with the methods of a `TrialProcess`."""

    machine: str | None = None  # name of the machine, once it is ready for trials

    def __init__(self, ray: ModuleType, gpus: float) -> None:
        """Request a process; it starts as soon as a machine has a free CPU, and `gpus` GPUs."""
        self._ray = ray
        self.actor = ray.remote(num_cpus=1, num_gpus=gpus)(RemoteTrials).remote()

    def open(self, assignment: Assignment) -> None:
        """Wait until the process has started, and make it ready for trials.

        Raises:
            TrialError: if its machine cannot run trials.
        """
        self.machine = self._ask("open", assignment)["machine"]

    def begin(self, parameters: dict) -> dict:
        return self._ask("begin", parameters)

    def continue_or_stop(self, wanted: bool) -> dict:
        return self._ask("continue_or_stop", wanted)

    def kill(self) -> None:
        with suppress(Exception):  # many types of error mean that it has already ended
            self._ray.kill(self.actor)

    def call(self, method: str, *arguments: object) -> object:
        """Call a method of `RemoteTrials`.

        Raises:
            MachineLostError: if the machine does not reply.
            TrialError: if the method fails with an error that `RemoteTrials` did not catch.
            InputError: if the cluster no longer exists.
        """
        errors = self._ray.exceptions
        try:
            return self._ray.get(getattr(self.actor, method).remote(*arguments))
        except (errors.LocalRayletDiedError, ConnectionError) as error:
            raise InputError(f"Ray has stopped: {' '.join(str(error).split())}") from None
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
    """A `TrialPool` whose processes run on the machines of a cluster.

    If a machine is lost, its trial runs again on another one. The sweep continues with the
    remaining machines and with machines that join later.
    """

    def __init__(
        self, ray: ModuleType, gpus: float, folder: Path, count: int, source: str, cache: str
    ) -> None:
        """Prepare the data on this machine, and request processes with one CPU each.

        Args:
            ray: the module, connected to the cluster.
            gpus: GPUs for each process, perhaps a fraction of one.
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
        self._refusals: list[str] = []  # reasons why machines are not used
        self._last_loss = ""  # why the last machine was lost before it was ready
        self._waiting_reported = False
        self._closed = False
        self._change = threading.Lock()
        for _ in range(count):
            self._ask_for_process()

    def run(self, parameters: dict, is_wanted: Callable[[int, dict], bool]) -> dict:
        """As `TrialPool.run`; afterwards the trial's files are in this machine's Git and DVC cache.

        If its machine is lost, `is_wanted` is called for the same epochs again.

        Raises:
            InputError: if no machine can run trials.
        """
        for _ in range(MOST_LOSSES):
            process = self._take()
            try:
                answer = run_trial(process, parameters, is_wanted)
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
        """Kill all processes; their machines then remove the files, within seconds."""
        with self._change:
            self._closed = True
            processes = list(self._processes)
        for process in processes:
            process.kill()
        self._idle.put(None)
        self._here.close()

    def _take(self) -> RemoteProcess:
        """Wait for an idle process whose machine still replies."""
        while True:
            try:
                process = self._idle.get(timeout=READY_SECONDS)
            except queue.Empty:
                with self._change:
                    ready = any(process.machine for process in self._processes)
                    if not (ready or self._waiting_reported):
                        reason = f" ({self._last_loss})" if self._last_loss else ""
                        print(f"no machine is ready; waiting for one{reason}", flush=True)
                        self._waiting_reported = True
                continue
            if process is None:
                self._idle.put(None)  # for the other threads that wait
                if self._closed:
                    raise TrialError("the sweep has stopped")
                raise InputError(
                    "no machine of the cluster can run trials; the reasons are printed above"
                )
            try:
                process.call("check")
                return process
            except MachineLostError:
                self._replace(process)

    def _fetch(self, process: RemoteProcess, answer: dict) -> None:
        """Copy the files of a finished trial into this repository and its cache."""
        unpack(answer["pack"])
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            for pieces in answer["blocks"]:
                write_pieces(self._cache, Path(scratch), pieces, process.call("read", pieces))

    def _replace(self, process: RemoteProcess) -> None:
        if self._closed:
            raise TrialError("the sweep has stopped")
        print(f"{process.machine} was lost", flush=True)
        self._discard(process)
        self._ask_for_process()

    def _ask_for_process(self) -> None:
        with self._change:
            self._opening += 1
        threading.Thread(target=self._open_process, daemon=True).start()

    def _open_process(self) -> None:
        """Wait until a process is ready, however long, unless its machine cannot run trials."""
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
                time.sleep(1)  # the cluster itself may be failing
                continue
            except Exception as error:
                self._discard(process)
                refusal = str(error)
            break
        with self._change:
            self._opening -= 1
            if refusal is None:
                self._idle.put(process)
                self._waiting_reported = False
            elif refusal not in self._refusals:
                self._refusals.append(refusal)
                print(f"not used: {refusal}", file=sys.stderr, flush=True)
            if not self._opening and not self._processes:
                self._idle.put(None)

    def _discard(self, process: RemoteProcess) -> None:
        process.kill()
        with self._change:
            self._processes.discard(process)
