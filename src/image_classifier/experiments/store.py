"""Find experiments, and read their files from Git and DVC's cache.

Nothing is locked, written or fetched, so this can run during a `dvc exp run`. DVC's own file system
of a revision, `dvc.api.DVCFileSystem`, has the same files but takes 20 times as long to open.
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
from image_classifier.outputs.git import project_prefix

# The loader of libyaml, if PyYAML has it, is ten times as fast: 0.5 s for a hundred dvc.lock.
LOCK_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Experiment:
    """The files of a commit: tracked files in Git, and outputs in DVC's cache.

    Paths are relative to the root of the pipeline, with forward slashes.
    """

    def __init__(self, repo: Repo, prefix: str, revision: str, name: str) -> None:
        """
        Args:
            repo: the project.
            prefix: from `project_prefix`.
            revision: Git's hash, 40 hexadecimal digits.
            name: to be shown.
        """
        self.name = name
        self.revision = revision
        # libgit2 directly: DVC's file system on top of it is ten times slower for small files.
        commit = repo.scm.pygit2.repo[revision].peel(pygit2.Commit)
        self.created = datetime.fromtimestamp(commit.commit_time, timezone.utc)
        self._cache = repo.cache.local
        self._prefix, self._tree = prefix, commit.tree

    def read(self, path: str) -> bytes:
        """Read a file.

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
        """Sorted paths of the files below a folder; some may be missing from DVC's cache."""
        tree = self._tracked(folder)
        tracked = _walk(tree, folder) if isinstance(tree, pygit2.Tree) else []
        return sorted({*tracked, *(f"{folder}/{path}" for path in self.hashes(folder))})

    def cached_file(self, path: str) -> Path | None:
        """The file in DVC's cache with the content of an output, or None."""
        md5 = self.hash_of(path)
        if md5 is None or md5.endswith(".dir"):
            return None
        file = Path(self._cache.oid_to_path(md5))
        return file if file.is_file() else None

    def hash_of(self, path: str) -> str | None:
        """The MD5 of a file that is an output or inside one, else None."""
        if path in self._outputs:
            return self._outputs[path]
        for folder in PurePosixPath(path).parents:
            if str(folder) in self._outputs:
                return self.hashes(str(folder)).get(path.removeprefix(f"{folder}/"))
        return None

    def hashes(self, folder: str) -> dict[str, str]:
        """Path below a folder -> MD5; empty unless the folder is an output in the cache."""
        md5 = self._outputs.get(folder)
        return _read_listing(Path(self._cache.oid_to_path(md5))) if md5 else {}

    @cached_property
    def _outputs(self) -> dict[str, str]:
        """Path -> MD5 of each output; the MD5 of a folder ends with ".dir"."""
        try:
            stages = yaml.load(self._tracked("dvc.lock").data, LOCK_LOADER)["stages"].values()
            outs = [out for stage in stages for out in stage.get("outs", [])]
            return {out["path"]: out["md5"] for out in outs if "md5" in out}
        except (yaml.YAMLError, KeyError, TypeError, AttributeError):
            return {}

    def _tracked(self, path: str) -> pygit2.Object | None:
        """Git's object at a path: a `Blob`, a `Tree`, or None."""
        path = self._prefix + path
        return self._tree[path] if path in self._tree else None  # noqa: SIM401


def find_experiments(names: Sequence[str]) -> list[Experiment]:
    """Find hidden experiments (`dvc exp list`) or Git revisions by name, oldest first.

    Without names, find all hidden experiments of the current commit.

    Raises:
        InputError: if a name is unknown, if there are no experiments, or if this is not a
            repository of Git and DVC.
    """
    try:
        repo, prefix = Repo(), project_prefix()
        references = {repo.scm.get_ref(str(ref)): ref for ref in exp_refs(repo.scm) if ref.name}
        known = {sha: ref.name for sha, ref in references.items()}
        if names:
            revisions = {_resolve(repo, name, known.values()): name for name in names}
        else:
            head = resolve_rev(repo.scm, "HEAD")
            revisions = {sha: "" for sha, ref in references.items() if ref.baseline_sha == head}
            if not revisions:
                raise InputError(
                    f"no experiments of the current commit ({head[:7]}); create one with "
                    "`dvc exp run`, or name some from `dvc exp list --all-commits`"
                )
    except (DvcException, SCMError) as error:
        raise InputError(str(error)) from None
    experiments = [
        Experiment(repo, prefix, sha, known.get(sha, name)) for sha, name in revisions.items()
    ]
    return sorted(experiments, key=lambda experiment: (experiment.created, experiment.name))


def _resolve(repo: Repo, name: str, known: Iterable[str]) -> str:
    try:
        revision = resolve_rev(repo.scm, name)
        repo.scm.resolve_commit(revision)
        return revision
    except (RevError, AttributeError) as error:  # AttributeError if it is not a commit
        if "ambiguous" in str(error):
            raise InputError(
                f"{name}: experiments of several commits have this name; "
                "use a revision from `dvc exp list --all-commits`"
            ) from None
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`dvc exp list` lists the experiments"
        raise InputError(f"{name}: no experiment or revision of this name; {hint}") from None


def _walk(tree: pygit2.Tree, folder: str) -> Iterator[str]:
    """Paths of the files in a tree located at `folder`."""
    for entry in tree:
        path = f"{folder}/{entry.name}"
        if isinstance(entry, pygit2.Tree):
            yield from _walk(entry, path)
        else:
            yield path


@lru_cache(maxsize=256)
def _read_listing(file: Path) -> dict[str, str]:
    """Path -> MD5 of the files of a folder, as listed in DVC's cache.

    The format is documented at https://dvc.org/doc/user-guide/project-structure/internal-files.
    """
    try:
        return {entry["relpath"]: entry["md5"] for entry in json.loads(file.read_bytes())}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
