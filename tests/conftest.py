"""Shared fixtures: small images, and projects in which commands are run."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.fault_table import pytest_addoption, pytest_configure, pytest_runtest_makereport  # noqa: F401
from helpers.images import write_image
from helpers.machines import bucket, machines  # noqa: F401
from helpers.project import ALL_STAGES, COPIED, QUICK, REPOSITORY, Project

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders "blue", "green" and "red" with 30 images each."""
    root = tmp_path_factory.mktemp("images")
    colors = {"blue": (60, 60, 200), "green": (60, 200, 60), "red": (200, 60, 60)}
    for number, (name, color) in enumerate(colors.items()):
        for index in range(30):
            write_image(root / name / f"{index:02}.png", color, seed=100 * number + index)
    return root


@pytest.fixture(scope="session")
def make_project(images: Path) -> Callable[[Path], Project]:
    """A function that creates and commits a project with quick parameters in an empty folder."""

    def make(folder: Path) -> Project:
        root, home = folder / "a path, with spaces", folder / "home"
        home.mkdir()
        for name in COPIED:
            source, target = REPOSITORY / name, root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        project = Project(root, home)
        project.set_params(QUICK)
        project.set_params({"download": {"source": str(images)}})
        project.run("git", "init", "--quiet", "--initial-branch", "main")
        project.commit()
        return project

    return make


@pytest.fixture
def project(make_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    """A new project for this test, in which nothing has run yet."""
    return make_project(tmp_path)


@pytest.fixture
def inside_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the project the current directory."""
    monkeypatch.chdir(project.root)


@pytest.fixture(scope="session")
def finished(
    make_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A project whose default experiment has run and is committed; tests use copies of it."""
    project = make_project(tmp_path_factory.mktemp("finished"))
    assert project.experiment() == ALL_STAGES
    project.commit()
    return project


@pytest.fixture
def trained_project(finished: Project, tmp_path: Path, request: pytest.FixtureRequest) -> Project:
    """A copy of the project `finished` for this test; see `helpers.project.layouts`."""
    layout = getattr(request, "param", "top")
    copy = {"top": finished.copy, "folder": finished.nest}[layout]
    return copy(tmp_path / "a path, with spaces")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A browser that is installed on this machine; without one, the test is skipped."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
