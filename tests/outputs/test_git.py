"""Trees of a project in a folder of a larger Git repository."""

from pathlib import Path

import pytest

from image_classifier.outputs.git import git, project_prefix, project_tree, replace_project

FILES = ("a b/c/file", "a b/c/d/file", "a b/cc", "a b/c.txt", "e/c/file", 'ü "\t', "c/file")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Git repository, with a committed file for each path of `FILES`."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
    for path in FILES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path, encoding="utf-8")
    git("init", "--quiet", folder=tmp_path)
    git("add", "--all", folder=tmp_path)
    git("commit", "--quiet", "--message", "Test", folder=tmp_path)
    return tmp_path


@pytest.mark.parametrize("folder", ["", "c/", "a b/c/", "a b/c/d/"])
def test_only_the_files_of_the_project_are_replaced(
    repository: Path, folder: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(repository / folder)
    assert project_prefix() == folder
    assert replace_project("HEAD", project_tree("HEAD")) == git("rev-parse", "HEAD^{tree}")

    other = git("rev-parse", "HEAD:e")  # has the file c/file
    tree = replace_project("HEAD", other)
    assert project_tree(tree) == other
    found = git("ls-tree", "-r", "-z", "--full-tree", "--name-only", tree).split("\0")
    kept = [path for path in FILES if not path.startswith(folder)]
    assert sorted(found) == sorted(["", *kept, f"{folder}c/file"])
