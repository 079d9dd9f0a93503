"""Run trials of a sweep on another machine, which shares no disk with this one."""

import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import yaml
from dvc_data.hashfile.db import HashFileDB, get_odb
from dvc_objects.fs import LocalFileSystem
from filelock import FileLock

from image_classifier.common.errors import InputError
from image_classifier.experiments.store import LOCK_LOADER
from image_classifier.outputs.git import git, pack_tree, unpack
from image_classifier.preparation.ray_cluster import differing_versions
from image_classifier.sweeps.ray_files import base_folder, begin_use, remove_unused
from image_classifier.sweeps.trials import TrialProcess

BLOCK_BYTES = 2**24  # sent at a time


class Piece(NamedTuple):
    """A part of a file of DVC's cache, of at most `BLOCK_BYTES`."""

    oid: str
    start: int
    size: int  # of the whole file


class Assignment(NamedTuple):
    """Everything a machine needs to run the trials of a sweep."""

    sweep: str  # a unique name
    tree: str  # Git tree of the files; its dvc.lock records the prepared data
    pack: Any  # Ray's reference to the output of `pack_tree` for this tree
    blocks: list[tuple[list[Piece], Any]]  # of the data, each with a reference to its contents
    versions: dict[str, str]
    threads: str | None  # the driver's OMP_NUM_THREADS


class RemoteTrials:
    """A `TrialProcess` on a machine of a cluster, as a Ray actor.

    Files sent to the machine are stored below its temporary folder, once for all actors of a
    sweep. They are removed when the last actor has been killed: see `ray_files`.

    Methods that fail return {"error": one line, "output": the printed text}: an exception raised
    in an actor would have Ray's traceback in its message.
    """

    def __init__(self) -> None:
        self._trials: TrialProcess | None = None
        self._in_use: IO | None = None
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115

    def open(self, assignment: Assignment) -> dict:
        """Get ready; returns the name of the "machine", which also starts an error's line."""
        return self._answer(self._open, assignment, where=f"{socket.gethostname()}: ")

    def check(self) -> None:
        """Return, which shows that the machine still replies."""

    def begin(self, parameters: dict) -> dict:
        """As `TrialProcess.begin`; the last reply also has the keys that `_pack` adds."""
        return self._answer(self._trials.begin, parameters)

    def continue_or_stop(self, wanted: bool) -> dict:
        """As `TrialProcess.continue_or_stop`; see `begin` for the last reply."""
        return self._answer(self._trials.continue_or_stop, wanted)

    def read(self, pieces: Sequence[Piece]) -> list[bytes]:
        """The contents of pieces of outputs."""
        return read_pieces(self._cache, pieces)

    def _open(self, assignment: Assignment) -> dict:
        import ray

        if differing := differing_versions(assignment.versions):
            raise InputError(differing)
        base = base_folder()
        # Includes the node: one machine may run two nodes, for different accelerators.
        name = f"{assignment.sweep}-{ray.get_runtime_context().get_node_id()}"
        self._in_use = begin_use(base, name)
        remove_unused(base)
        folder = base / name
        folder.mkdir(exist_ok=True)
        self._cache = get_odb(LocalFileSystem(), str(folder / "cache/files/md5"))
        with FileLock(folder / "lock"):
            if not (folder / "complete").exists():
                git("init", "--quiet", "--bare", folder / "repository")
                unpack(ray.get(assignment.pack), folder / "repository")
                for pieces, contents in assignment.blocks:
                    write_pieces(self._cache, folder, pieces, ray.get(contents))
                (folder / "complete").touch()
        self._tree = assignment.tree
        self._sent = {piece.oid for pieces, _ in assignment.blocks for piece in pieces}
        os.chdir(folder / "repository")
        programs = Path(sys.executable).parent  # has the `python` that runs the stages
        os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
        os.environ["DVC_SITE_CACHE_DIR"] = str(folder / "site_cache")
        os.environ.pop("OMP_NUM_THREADS", None)  # Ray has set it
        if assignment.threads:
            os.environ["OMP_NUM_THREADS"] = assignment.threads
        self._trials = TrialProcess(
            Path(tempfile.mkdtemp(dir=folder)) / "copy",
            assignment.tree,
            str(folder / "cache"),
            preparing=FileLock(folder / "preparing.lock"),
            output=self._output,
        )
        return {"machine": socket.gethostname()}

    def _answer(self, method: Callable[[Any], dict], argument: object, where: str = "") -> dict:
        try:
            answer = method(argument)
            return self._pack(answer) if "tree" in answer else answer
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self._output.seek(0)
            return {"error": f"{where}{reason}", "output": self._output.read()}
        finally:
            self._output.truncate(0)
            self._output.seek(0)

    def _pack(self, answer: dict) -> dict:
        """Add the tree's Git objects as "pack" and the pieces of new outputs as "blocks"."""
        outputs = find_outputs(self._trials.folder / "dvc.lock", self._cache)
        new = outputs - self._sent
        self._sent |= new
        pack = pack_tree(answer["tree"], but=self._tree)
        return {**answer, "pack": pack, "blocks": list(divide(self._cache, new))}


def find_outputs(
    lock_file: Path, cache: HashFileDB, stages: Collection[str] | None = None
) -> set[str]:
    """IDs of the objects in DVC's cache that a dvc.lock records for stages (None: all stages)."""
    locked = yaml.load(lock_file.read_bytes(), LOCK_LOADER)["stages"]
    outputs = [output["md5"] for name in stages or locked for output in locked[name]["outs"]]
    found = {oid for oid in outputs if cache.exists(oid)}  # the other outputs are in Git
    for folder in [oid for oid in found if oid.endswith(".dir")]:
        listing = json.loads(Path(cache.oid_to_path(folder)).read_bytes())
        found |= {entry["md5"] for entry in listing}
    return found


def divide(cache: HashFileDB, oids: Iterable[str]) -> Iterator[list[Piece]]:
    """Divide objects into blocks of pieces, each below 2 `BLOCK_BYTES`, an object's in order."""
    block, total = [], 0
    for oid in sorted(oids):
        size = Path(cache.oid_to_path(oid)).stat().st_size
        for start in range(0, max(size, 1), BLOCK_BYTES):
            block.append(Piece(oid, start, size))
            total += min(size - start, BLOCK_BYTES)
            if total >= BLOCK_BYTES:
                yield block
                block, total = [], 0
    if block:
        yield block


def read_pieces(cache: HashFileDB, pieces: Sequence[Piece]) -> list[bytes]:
    """Read the bytes of each piece."""
    contents = []
    for piece in pieces:
        with Path(cache.oid_to_path(piece.oid)).open("rb") as file:
            file.seek(piece.start)
            contents.append(file.read(BLOCK_BYTES))
    return contents


def write_pieces(
    cache: HashFileDB, scratch: Path, pieces: Sequence[Piece], contents: Sequence[bytes]
) -> None:
    """Write pieces, which must come in order, and add objects that are now complete to a cache.

    Incomplete objects are kept in `scratch`: use the same folder for all pieces of an object.
    """
    complete: dict[str, str] = {}
    for piece, content in zip(pieces, contents, strict=True):
        path = scratch / piece.oid
        with path.open("ab" if piece.start else "wb") as file:
            file.write(content)
        if piece.start + len(content) == piece.size:
            complete[piece.oid] = str(path)
    if complete:
        cache.add([*complete.values()], LocalFileSystem(), [*complete], hardlink=True)
    for path in complete.values():
        Path(path).unlink()
