"""dvc.yaml says what the code does, and dvc.lock is that of the default parameters."""

import ast
import hashlib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from conftest import REPOSITORY

SOURCES = REPOSITORY / "src"
PIPELINE = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")
STAGES = PIPELINE["stages"]


def imported_modules(path: Path) -> set[Path]:
    """The files of this repository that a file imports, at its top or in functions, and theirs."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            module = SOURCES / f"{name.replace('.', '/')}.py"
            if module.exists():
                found |= {module} | imported_modules(module)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_the_modules_it_imports(stage: str):
    script = SOURCES / f"{stage}.py"
    assert STAGES[stage]["cmd"] == f"python src/{stage}.py"
    declared = {path for path in STAGES[stage]["deps"] if path.startswith("src/")}
    imported = {path.relative_to(REPOSITORY).as_posix() for path in imported_modules(script)}
    assert declared == {f"src/{stage}.py"} | imported


@pytest.mark.parametrize("stage", STAGES)
def test_the_lock_is_true(stage: str):
    """A fresh clone would run nothing but for the files that it lacks."""
    lock = YAML(typ="safe").load(REPOSITORY / "dvc.lock")["stages"][stage]
    params = YAML(typ="safe").load(REPOSITORY / "params.yaml")
    for name, value in lock["params"]["params.yaml"].items():
        section, _, key = name.partition(".")
        assert value == (params[section][key] if key else params[section]), name
    for dependency in lock["deps"]:
        if dependency["path"].startswith("src/"):
            content = (REPOSITORY / dependency["path"]).read_bytes()
            assert hashlib.md5(content).hexdigest() == dependency["md5"], dependency["path"]
    assert lock["cmd"] == STAGES[stage]["cmd"]


def test_plots_are_declared_once():
    for stage in STAGES.values():
        assert "plots" not in stage
    drawn = [next(iter(plot)) if isinstance(plot, dict) else plot for plot in PIPELINE["plots"]]
    assert len(drawn) == len(set(drawn))
