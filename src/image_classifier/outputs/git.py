"""Run Git commands."""

import getpass
import os
import subprocess
from pathlib import Path

from image_classifier.common.errors import InputError


def git(
    *arguments: str | Path,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run Git, here or in another folder, and return its output without the last line break.

    Raises:
        InputError: with Git's error message, if it fails.
    """
    return _run(*arguments, environment=environment, folder=folder).decode().rstrip("\n")


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
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> bytes:
    done = subprocess.run(
        ["git", *arguments],
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
