"""What this repository asks of Git itself."""

import getpass
import os
import subprocess
from pathlib import Path

from image_classifier.errors import InputError


def git(*arguments: str | Path, environment: dict[str, str] | None = None) -> str:
    """Run Git in the current folder and return what it prints, without the last line break.

    Raises:
        InputError: with Git's own words, if it fails.
    """
    done = subprocess.run(
        ["git", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise InputError(f"git {arguments[0]}: {' '.join(done.stderr.split())}")
    return done.stdout.rstrip("\n")


def name_the_committer() -> None:
    """Let Git commit where nobody has told it a name, as in a fresh container."""
    if subprocess.run(["git", "config", "user.email"], capture_output=True).returncode:
        for role in ("AUTHOR", "COMMITTER"):
            os.environ.setdefault(f"GIT_{role}_NAME", getpass.getuser())
            os.environ.setdefault(f"GIT_{role}_EMAIL", f"{getpass.getuser()}@localhost")
