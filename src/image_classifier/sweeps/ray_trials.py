"""Run trials of a sweep on another machine, which has nothing of this one's disk."""

import fcntl
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
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
from image_classifier.sweeps.trials import TrialProcess

BLOCK_BYTES = 2**24  # that are sent at a time


class Piece(NamedTuple):
    """A part of a file of DVC's cache, of at most `BLOCK_BYTES`."""

    oid: str
    start: int
    size: int  # of the whole file


class Assignment(NamedTuple):
    """What a machine needs for the trials of a sweep."""

    sweep: str  # a name that no other sweep has
    tree: str  # of Git, where dvc.lock names the prepared data
    pack: Any  # Ray's reference to what `pack_tree` gave of it
    blocks: list[tuple[list[Piece], Any]]  # of the data, each with a reference to its contents
    versions: dict[str, str]
    threads: str | None  # the driver's OMP_NUM_THREADS


class RemoteTrials:
    """A `TrialProcess` on a machine of a cluster, as an actor of Ray.

    What the machine is sent is below its temporary folder, once for all actors of a sweep. The
    last of them removes it or, where they were killed, the next sweep.

    Methods return {"error": a line, "output": what was printed} when they fail: what an actor
    raises has Ray's traceback in its message.
    """

    def __init__(self) -> None:
        self._trials: TrialProcess | None = None
        self._in_use: IO | None = None
        self._output = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115

    def open(self, assignment: Assignment) -> dict:
        """Get ready, and return the name of the "machine", with which an error begins."""
        return self._answer(self._open, assignment, where=f"{socket.gethostname()}: ")

    def check(self) -> None:
        """Answer, which shows that the machine is there."""

    def begin(self, parameters: dict) -> dict:
        """As `TrialProcess.begin`, with what `_pack` adds to the last answer."""
        return self._answer(self._trials.begin, parameters)

    def go_on(self, wanted: bool) -> dict:
        """As `TrialProcess.go_on`, with what `_pack` adds to the last answer."""
        return self._answer(self._trials.go_on, wanted)

    def read(self, pieces: Sequence[Piece]) -> list[bytes]:
        """The contents of pieces of outputs."""
        return read_pieces(self._cache, pieces)

    def close(self) -> None:
        """End what is running at once, while another method waits for it, and clear up."""
        if self._trials:
            self._trials.close()
            shutil.rmtree(self._trials.folder.parent, ignore_errors=True)
        if self._in_use:
            self._in_use.close()
            remove_unused(_temporary_folder())

    def _open(self, assignment: Assignment) -> dict:
        import ray

        if differing := differing_versions(assignment.versions):
            raise InputError(differing)
        base = _temporary_folder()
        # By node as well: on one machine there may be two, for different accelerators.
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
        programs = Path(sys.executable).parent  # with the `python` of the stages
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
        """Add Git's objects of the tree as "pack", and "blocks" of pieces of new outputs."""
        outputs = find_outputs(self._trials.folder / "dvc.lock", self._cache)
        new = outputs - self._sent
        self._sent |= new
        pack = pack_tree(answer["tree"], but=self._tree)
        return {**answer, "pack": pack, "blocks": list(divide(self._cache, new))}


def find_outputs(
    lock_file: Path, cache: HashFileDB, stages: Collection[str] | None = None
) -> set[str]:
    """The object IDs in DVC's cache of all outputs of some stages (None: all) in a dvc.lock."""
    locked = yaml.load(lock_file.read_bytes(), LOCK_LOADER)["stages"]
    outputs = [output["md5"] for name in stages or locked for output in locked[name]["outs"]]
    found = {oid for oid in outputs if cache.exists(oid)}  # the others are in Git
    for folder in [oid for oid in found if oid.endswith(".dir")]:
        listing = json.loads(Path(cache.oid_to_path(folder)).read_bytes())
        found |= {entry["md5"] for entry in listing}
    return found


def divide(cache: HashFileDB, oids: Iterable[str]) -> Iterator[list[Piece]]:
    """The pieces of objects, in blocks of below 2 `BLOCK_BYTES`; those of one follow each other."""
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
    """The bytes of each piece."""
    contents = []
    for piece in pieces:
        with Path(cache.oid_to_path(piece.oid)).open("rb") as file:
            file.seek(piece.start)
            contents.append(file.read(BLOCK_BYTES))
    return contents


def write_pieces(
    cache: HashFileDB, scratch: Path, pieces: Sequence[Piece], contents: Sequence[bytes]
) -> None:
    """Add the objects that are complete with these pieces, which come in their order, to a cache.

    Those that are not complete yet are kept in `scratch`, the same folder for all their pieces.
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


def _temporary_folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"image-classifier-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def begin_use(base: Path, name: str) -> IO:
    """Keep `remove_unused` from removing the folder `name` for as long as the file is open."""
    with FileLock(base / "lock"):
        file = (base / f"{name}.in_use").open("w")
        fcntl.flock(file, fcntl.LOCK_SH)
        return file


def remove_unused(base: Path) -> None:
    """Remove the folders that no process uses, also those whose processes were killed."""
    with FileLock(base / "lock"):
        for path in base.glob("*.in_use"):
            with path.open() as file, suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink()
