"""dvc.yaml matches the code, and dvc.lock matches the default parameters."""

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from helpers.project import REPOSITORY, Project

SOURCES = REPOSITORY / "src"
PACKAGE = SOURCES / "image_classifier"
PIPELINE = YAML(typ="safe").load(REPOSITORY / "dvc.yaml")
STAGES = PIPELINE["stages"]
# A folder may import only folders listed before it. Editing a module in it reruns these stages;
# later stages rerun only if the outputs of these change.
FOLDERS = {
    "common": ["download", "prepare", "train", "evaluate"],
    "sources": ["download"],
    "computing": ["prepare", "train", "evaluate"],
    "networks": ["prepare", "train"],
    "preparation": ["prepare"],
    "outputs": ["train", "evaluate"],
    "training": ["train"],
    "evaluation": ["evaluate"],
    "experiments": [],
    "pages": [],
    "comparison": [],
    "review": [],
    "prediction": [],
    "sweeps": [],
}


def imports_of(path: Path) -> Iterator[Path]:
    """The files of this repository that a file imports, at its top or in functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            module = SOURCES / f"{name.replace('.', '/')}.py"
            if module.exists():
                yield module


def all_imports_of(path: Path) -> set[Path]:
    """The files that a file imports, directly or through other files."""
    found, unread = set(), [path]
    while unread:
        new = set(imports_of(unread.pop())) - found
        found |= new
        unread += new
    return found


def modules_below(path: Path) -> set[Path]:
    """The modules below a folder without its `__init__.py` files, or a module itself."""
    return {file for file in path.rglob("*.py") if file.stem != "__init__"} or {path}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_exactly_what_it_imports(stage: str):
    script = SOURCES / f"{stage}.py"
    assert STAGES[stage]["cmd"] == f"python src/{stage}.py"
    sources = [REPOSITORY / path for path in STAGES[stage]["deps"] if path.startswith("src/")]
    declared = set().union(*map(modules_below, sources))
    assert declared == {script} | all_imports_of(script)


def test_folders_have_a_map_and_import_nothing_upwards():
    assert {path.name for path in PACKAGE.iterdir()} - {"__pycache__"} == set(FOLDERS)
    order = list(FOLDERS)
    for position, folder in enumerate(order):
        text = (PACKAGE / folder / "__init__.py").read_text(encoding="utf-8")
        (docstring,) = ast.parse(text).body  # nothing else, because no stage depends on it
        listed = [line.split()[0] for line in docstring.value.value.splitlines() if "   " in line]
        for module in modules_below(PACKAGE / folder):
            assert module.stem in listed, module
            for imported in imports_of(module):
                allowed = [PACKAGE / name for name in order[: position + 1]]
                assert imported.parent in allowed, f"{module} imports {imported}"


def test_the_table_of_experiments_stays_short():
    sources = {path for stage in STAGES.values() for path in stage["deps"] if "src/" in path}
    assert len(sources) <= 12  # columns of `dvc exp show`
    assert all(len(stage["deps"]) <= 10 and stage["desc"] for stage in STAGES.values())
    assert len((REPOSITORY / "dvc.yaml").read_text().splitlines()) <= 240


def test_an_edit_reruns_only_the_stages_that_depend_on_it(trained_project: Project):
    folders = trained_project.root / "src/image_classifier"
    for folder, stages in FOLDERS.items():
        module = min(modules_below(folders / folder))
        text = module.read_text(encoding="utf-8")
        module.write_text(f"{text}\n# edited\n", encoding="utf-8")
        status = json.loads(trained_project.run("dvc", "status", "--json").stdout)
        module.write_text(text, encoding="utf-8")
        assert list(status) == stages, folder


def test_bytecode_files_of_python_do_not_count_as_edits(trained_project: Project):
    trained_project.run("python", "-m", "compileall", "-q", "src")
    assert list((trained_project.root / "src/image_classifier/common").glob("__pycache__/*.pyc"))
    assert "up to date" in trained_project.run("dvc", "status").stdout


def test_the_lock_is_true():
    """A fresh clone would run a stage only if files are missing."""
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
            expected = hashes.get(path) or md5_of(REPOSITORY / path)
            assert dependency["md5"] == expected, f"{name}: {path}"
        values = locked["params"]["params.yaml"]
        assert values.keys() == set(stage["params"])
        for key, value in values.items():
            section, _, rest = key.partition(".")
            assert value == (params[section][rest] if rest else params[section]), f"{name}: {key}"


def md5_of(path: Path) -> str:
    """DVC's hash of a source file or a folder of sources."""
    if path.is_file():
        return hashlib.md5(path.read_bytes()).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc")
    entries = [
        {"md5": md5_of(file), "relpath": file.relative_to(path).as_posix()} for file in files
    ]
    return f"{hashlib.md5(json.dumps(entries).encode()).hexdigest()}.dir"


def test_plots_are_declared_once():
    for stage in STAGES.values():
        assert "plots" not in stage
    drawn = [next(iter(plot)) if isinstance(plot, dict) else plot for plot in PIPELINE["plots"]]
    assert len(drawn) == len(set(drawn))
