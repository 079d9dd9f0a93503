"""What the tests of the pipeline share."""

import pytest

from helpers.project import Project


@pytest.fixture
def project(trained_project: Project) -> Project:
    """Here a project whose default experiment has run."""
    return trained_project
