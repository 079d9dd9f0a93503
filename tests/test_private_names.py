"""Names of DVC and DVCLive that are used besides the public `dvclive.Live` and `DVCLiveCallback`.

A new version may rename them. To allow one, install it, run this test, fix the code that it names,
and change `VERSIONS` and requirements.txt.
"""

import ast
import inspect
import pydoc
import re
from collections.abc import Iterator
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import pytest
from dvclive import Live

from helpers.project import REPOSITORY

VERSIONS = {"dvc": "3.67.1", "dvclive": "3.49.1"}
PUBLIC = {"dvclive.Live", "dvclive.keras.DVCLiveCallback"}
# Module or class -> its names that are used.
USED = {
    "dvc.cachemgr.CacheManager": "local_cache_dir",
    "dvc.config": "Config",
    "dvc.config.Config": "edit",
    "dvc.dependency.Dependency": "save",
    "dvc.dvcfile.ProjectFile": "dump_stages",
    "dvc.exceptions": "DvcException",
    "dvc.render.converter.vega": "VegaConverter",
    "dvc.render.converter.vega.VegaConverter": "flat_datapoints",
    "dvc.repo": "Repo",
    "dvc.repo.experiments.Experiments": "save",
    "dvc.repo.experiments.refs": "ExpRefInfo",
    "dvc.repo.experiments.utils": "exp_refs",
    "dvc.repo.stage.StageLoad": "load_one",
    "dvc.scm": "RevError SCMError resolve_rev",
    "dvc.stage.Stage": "save_deps save_outs commit",
    "dvc.utils.hydra": "apply_overrides",
    "dvc_data.hashfile.db": "HashFileDB get_odb",
    "dvc_data.hashfile.db.HashFileDB": "add exists oid_to_path",
    "dvc_objects.fs": "LocalFileSystem",
    "dvc_render.html": "render_html",
    "dvc_render": "ImageRenderer VegaRenderer",
    "dvclive": "report",
    "dvclive.env": "DVC_EXP_BASELINE_REV DVC_ROOT",
    "dvclive.live": "logger mark_dvclive_only_ended",
    "dvclive.live.Live": "_init_dvc end make_summary make_report save_dvc_exp",
    "dvclive.monitor_system": "_SystemMonitor",
    "dvclive.monitor_system._SystemMonitor": "end _monitoring_loop _get_gpu_info",
    "dvclive.plots": "NumpyEncoder",
    "dvclive.report": "get_params_renderers get_metrics_renderers",
    "dvclive.serialize": "dump_json",
    "dvclive.utils": "catch_and_warn",
    "dvclive.vscode": "mark_dvclive_step_completed",
}
PRIVATE = [f"{owner}.{name}" for owner, names in USED.items() for name in names.split()]
# Function -> the parameters that are passed by name.
KEYWORDS = {
    "dvc.dvcfile.ProjectFile.dump_stages": {"update_pipeline"},
    "dvc.repo.experiments.Experiments.save": {"targets", "name", "include_untracked", "force"},
    "dvc.repo.stage.StageLoad.load_one": {"name"},
    "dvc.stage.Stage.commit": {"relink"},
    "dvc_data.hashfile.db.HashFileDB.add": {"hardlink"},
    "dvc_render.html.render_html": {"html_template", "refresh_seconds"},
    "dvclive.monitor_system._SystemMonitor": {"interval", "num_samples", "directories_to_monitor"},
}
# Attributes of a `Live` object that src/image_classifier/outputs/live.py reads or sets.
LIVE_ATTRIBUTES = (
    *("_step", "_inside_with", "_inside_dvc_exp", "_save_dvc_exp", "_dvc_repo", "_exp_name"),
    *("_exp_message", "_include_untracked", "_system_monitor", "summary", "dir", "metrics_file"),
    *("params_file", "plots_dir", "report_file", "step"),
)
LIBRARIES = ("dvc", "dvclive", "dvc_data", "dvc_objects", "dvc_render")


@pytest.mark.parametrize("name", PRIVATE)
def test_each_name_exists_and_accepts_its_arguments(name: str):
    library = name.split(".")[0].replace("_", "-")
    found = pydoc.locate(name)
    assert found is not None, f"{library} {version(library)} has no {name}: see where src/ uses it"
    if name in KEYWORDS:
        parameters = inspect.signature(found).parameters
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        missing = KEYWORDS[name] - set(parameters)
        assert takes_any or not missing, f"{name} of {library} {version(library)}: no {missing}"


def test_dvclive_keeps_its_state_as_the_adapted_classes_expect(tmp_path: Path):
    live = Live(str(tmp_path), dvcyaml=False, save_dvc_exp=False)
    missing = [name for name in LIVE_ATTRIBUTES if not hasattr(live, name)]
    assert not missing, f"Live of dvclive {version('dvclive')} has no {missing}: see live.py"


def test_no_other_name_is_used():
    for path in sorted((REPOSITORY / "src").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name in imported_names(tree):
            assert name in PUBLIC or name in PRIVATE, f"{path}: {name} is not listed here"
    text = (REPOSITORY / "src/image_classifier/outputs/live.py").read_text(encoding="utf-8")
    definitions = (
        r"def (_\w+)|^    (_\w+) =|self\.(_\w+) = (?:save_stage|stage_folder|Event|GpuUse|set)"
    )
    own = re.findall(definitions, text, re.MULTILINE)
    known = {*chain(*own), *LIVE_ATTRIBUTES, *(name.rpartition(".")[2] for name in PRIVATE)}
    for name in re.findall(r"(?:self|super\(\)|live)\.(_[a-z]\w+)", text):
        assert name in known, f"outputs/live.py: {name} is not listed here"


def imported_names(tree: ast.Module) -> Iterator[str]:
    """Dotted names that a module imports from DVC and its parts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] in LIBRARIES)


@pytest.mark.parametrize("library", VERSIONS)
def test_only_tested_versions_are_allowed(library: str):
    lines = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (requirement,) = [line.split()[0] for line in lines if re.match(rf"{library}\W", line)]
    assert requirement.partition("==")[2] == version(library) == VERSIONS[library]
