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


def test_the_lock_is_true():
    """A fresh clone would run nothing but for the files that it lacks."""
    params = YAML(typ="safe").load(REPOSITORY / "params.yaml")
    lock = YAML(typ="safe").load(REPOSITORY / "dvc.lock")["stages"]
    hashes = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    assert lock.keys() == STAGES.keys()
    for name, stage in STAGES.items():
        locked = lock[name]
        assert locked["cmd"] == stage["cmd"]
        declared = [*stage["outs"], *stage.get("metrics", [])]
        paths = {next(iter(out)) if isinstance(out, dict) else out for out in declared}
        assert {out["path"] for out in locked["outs"]} == paths
        assert {dependency["path"] for dependency in locked["deps"]} == set(stage["deps"])
        for dependency in locked["deps"]:
            path = dependency["path"]
            if path not in hashes:
                hashes[path] = hashlib.md5((REPOSITORY / path).read_bytes()).hexdigest()
            assert dependency["md5"] == hashes[path], f"{name}: {path}"
        values = locked["params"]["params.yaml"]
        assert values.keys() == set(stage["params"])
        for key, value in values.items():
            section, _, rest = key.partition(".")
            assert value == (params[section][rest] if rest else params[section]), f"{name}: {key}"


def test_plots_are_declared_once():
    for stage in STAGES.values():
        assert "plots" not in stage
    drawn = [next(iter(plot)) if isinstance(plot, dict) else plot for plot in PIPELINE["plots"]]
    assert len(drawn) == len(set(drawn))
