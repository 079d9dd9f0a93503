"""Experiments and what they left, read out of Git and DVC's cache.

Nothing is locked, written or fetched, so this may run beside a `dvc exp run`. DVC's own view of a
revision, `dvc.api.DVCFileSystem`, has the same files and takes 20 times as long to open.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

import pygit2
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.experiments.utils import exp_refs
from dvc.scm import RevError, SCMError, resolve_rev

from image_classifier.common.errors import InputError

# That of libyaml, where PyYAML has it, reads a hundred dvc.lock in half a second instead of five.
LOCK_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Experiment:
    """The files of a commit as its run left them: those in Git, and outputs in DVC's cache.

    Paths are relative to the root of the pipeline, with forward slashes.
    """

    def __init__(self, repo: Repo, revision: str, name: str) -> None:
        self.name = name
        self.revision = revision  # of Git, 40 hexadecimal digits
        # libgit2 itself: DVC's file system over it takes ten times as long for small files.
        commit = repo.scm.pygit2.repo[revision].peel(pygit2.Commit)
        self.created = datetime.fromtimestamp(commit.commit_time, timezone.utc)
        self._cache = repo.cache.local
        root = Path(repo.root_dir).relative_to(repo.scm.root_dir).as_posix()
        self._tree = commit.tree if root == "." else commit.tree / root

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: if it is neither in Git nor in DVC's cache.
        """
        tracked = self._tracked(path)
        if isinstance(tracked, pygit2.Blob):
            return tracked.data
        if cached := self.cached_file(path):
            return cached.read_bytes()
        raise FileNotFoundError(path)

    def find(self, folder: str) -> list[str]:
        """The paths of the files below a folder, sorted; some may not be in DVC's cache."""
        tree = self._tracked(folder)
        tracked = _walk(tree, folder) if isinstance(tree, pygit2.Tree) else []
        return sorted({*tracked, *(f"{folder}/{path}" for path in self.hashes(folder))})

    def cached_file(self, path: str) -> Path | None:
        """The file in DVC's cache with the content of an output, if there is one."""
        md5 = self.hash_of(path)
        if md5 is None or md5.endswith(".dir"):
            return None
        file = Path(self._cache.oid_to_path(md5))
        return file if file.is_file() else None

    def hash_of(self, path: str) -> str | None:
        """The MD5 of a file that is an output, or is below one; None of any other file."""
        if path in self._outputs:
            return self._outputs[path]
        for folder in PurePosixPath(path).parents:
            if str(folder) in self._outputs:
                return self.hashes(str(folder)).get(path.removeprefix(f"{folder}/"))
        return None

    def hashes(self, folder: str) -> dict[str, str]:
        """Path below a folder -> MD5; empty unless the folder is an output and is in the cache."""
        md5 = self._outputs.get(folder)
        return _read_listing(Path(self._cache.oid_to_path(md5))) if md5 else {}

    @cached_property
    def _outputs(self) -> dict[str, str]:
        """Path -> MD5 of each stage's outputs; a folder's ends with ".dir"."""
        try:
            stages = yaml.load(self._tracked("dvc.lock").data, LOCK_LOADER)["stages"].values()
            outs = [out for stage in stages for out in stage.get("outs", [])]
            return {out["path"]: out["md5"] for out in outs if "md5" in out}
        except (yaml.YAMLError, KeyError, TypeError, AttributeError):
            return {}

    def _tracked(self, path: str) -> pygit2.Object | None:
        """What Git has under a path: a `Blob`, a `Tree`, or nothing."""
        return self._tree[path] if path in self._tree else None  # noqa: SIM401


def find_experiments(names: Sequence[str]) -> list[Experiment]:
    """Find hidden experiments (`dvc exp list`) or revisions of Git by name, the oldest first.

    No names at all stand for all hidden experiments of the current commit.

    Raises:
        InputError: if one is unknown, or there is none, or this is no repository of Git and DVC.
    """
    try:
        repo = Repo()
        references = {repo.scm.get_ref(str(ref)): ref for ref in exp_refs(repo.scm) if ref.name}
        known = {sha: ref.name for sha, ref in references.items()}
        if names:
            revisions = {_resolve(repo, name, known.values()): name for name in names}
        else:
            head = resolve_rev(repo.scm, "HEAD")
            revisions = {sha: "" for sha, ref in references.items() if ref.baseline_sha == head}
            if not revisions:
                raise InputError(
                    f"no experiments of the current commit ({head[:7]}); `dvc exp run` makes one, "
                    "and `dvc exp list --all-commits` lists those that can be named here"
                )
    except (DvcException, SCMError) as error:
        raise InputError(str(error)) from None
    experiments = [Experiment(repo, sha, known.get(sha, name)) for sha, name in revisions.items()]
    return sorted(experiments, key=lambda experiment: (experiment.created, experiment.name))


def _resolve(repo: Repo, name: str, known: Iterable[str]) -> str:
    try:
        revision = resolve_rev(repo.scm, name)
        repo.scm.resolve_commit(revision)
        return revision
    except (RevError, AttributeError) as error:  # the latter where it is no commit
        if "ambiguous" in str(error):
            raise InputError(
                f"{name}: experiments of several commits have this name; "
                "`dvc exp list --all-commits` gives their revisions, use one of these"
            ) from None
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`dvc exp list` names the experiments"
        raise InputError(f"{name}: no experiment or revision of this name; {hint}") from None


def _walk(tree: pygit2.Tree, folder: str) -> Iterator[str]:
    """The paths of the files in a tree that stands under `folder`."""
    for entry in tree:
        path = f"{folder}/{entry.name}"
        if isinstance(entry, pygit2.Tree):
            yield from _walk(entry, path)
        else:
            yield path


@lru_cache(maxsize=256)
def _read_listing(file: Path) -> dict[str, str]:
    """Path -> MD5, as DVC's cache keeps a folder.

    The format is documented at https://dvc.org/doc/user-guide/project-structure/internal-files.
    """
    try:
        return {entry["relpath"]: entry["md5"] for entry in json.loads(file.read_bytes())}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
