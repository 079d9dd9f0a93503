"""Run Git commands.

The project may be in a folder of a larger Git repository. Git runs in the project's folder, where a
file of a revision is `revision:./path`: `revision:path` would begin at the top of the repository.
"""

import getpass
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from image_classifier.common.errors import InputError


def git(
    *arguments: str | Path,
    settings: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run Git, here or in another folder, and return its output without the last line break.

    Args:
        settings: such as "core.fsmonitor=false", instead of the repository's own.

    Raises:
        InputError: with Git's error message, if it fails.
    """
    output = _run(*arguments, settings=settings, environment=environment, folder=folder)
    return output.decode().rstrip("\n")


def project_prefix() -> str:
    """The project's path in its Git repository, such as "team/pets/", or "" at the top."""
    return git("rev-parse", "--show-prefix")


def project_tree(revision: str) -> str:
    """The tree of the project's files in a revision."""
    return git("rev-parse", f"{revision}:./")


def replace_project(revision: str, tree: str) -> str:
    """The tree of a revision with `tree` in place of the project's; all other files are kept."""
    *folders, _ = project_prefix().split("/")
    while folders:
        name = folders.pop().encode()
        entries = _run("ls-tree", "--full-tree", "-z", f"{revision}:{'/'.join(folders)}")
        kept = [line for line in entries.split(b"\0")[:-1] if line.partition(b"\t")[2] != name]
        lines = [*kept, b"040000 tree %b\t%b" % (tree.encode(), name), b""]
        # --missing: a partial clone lacks files that nobody has looked at.
        tree = _run("mktree", "--missing", "-z", content=b"\0".join(lines)).decode().strip()
    return tree


def pack_tree(tree: str, but: str | None = None) -> bytes:
    """Pack the objects of a tree, except those that the tree `but` also has."""
    revisions = f"{tree}\n^{but}\n" if but else f"{tree}\n"
    options = ("--revs", "--thin", "--stdout", "--quiet")
    return _run("pack-objects", *options, content=revisions.encode())


def unpack(pack: bytes, folder: Path | None = None) -> None:
    """Add a pack from `pack_tree` to the repository here, or to the repository in a folder."""
    _run("unpack-objects", "-q", content=pack, folder=folder)


def _run(
    *arguments: str | Path,
    content: bytes = b"",
    settings: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> bytes:
    options = [part for setting in settings for part in ("-c", setting)]
    done = subprocess.run(
        ["git", *options, *arguments],
        input=content,
        capture_output=True,
        env={**os.environ, **(environment or {})},
        cwd=folder,
    )
    if done.returncode:
        raise InputError(
            f"git {arguments[0]}: {' '.join(done.stderr.decode(errors='replace').split())}"
        )
    return done.stdout


def name_the_committer() -> None:
    """Let Git commit if no user name is configured, as in a fresh container."""
    if subprocess.run(["git", "config", "user.email"], capture_output=True).returncode:
        for role in ("AUTHOR", "COMMITTER"):
            os.environ.setdefault(f"GIT_{role}_NAME", getpass.getuser())
            os.environ.setdefault(f"GIT_{role}_EMAIL", f"{getpass.getuser()}@localhost")
