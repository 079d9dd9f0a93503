"""Fixtures for the tests of the pipeline."""

import pytest

from helpers.project import Project


@pytest.fixture
def project(trained_project: Project) -> Project:
    """A project whose default experiment has run, instead of a new one."""
    return trained_project
