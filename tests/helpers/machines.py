"""Clusters for tests: each of their machines is a set of real processes on this machine."""

import logging
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from helpers.project import OTHER_VARIABLES

INSTALLED_BY = "pip install -r requirements-cluster.txt"


class Machines:
    """A Ray cluster: a head that runs no work, and workers with one processor each."""

    def __init__(self, count: int, temporary: str) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 10**8}
        )
        self.temporary = Path(temporary)
        """The folder for temporary files of all machines."""
        self.address: str = self._cluster.address
        self.workers = [self.add() for _ in range(count)]

    def add(self, **options: object) -> object:
        """Start one more worker, with options of `Cluster.add_node`."""
        variables = {
            "TMPDIR": str(self.temporary),
            **OTHER_VARIABLES,
            **options.pop("env_vars", {}),
        }
        return self._cluster.add_node(
            num_cpus=1, object_store_memory=10**8, env_vars=variables, **options
        )

    def kill(self, worker: object) -> None:
        """Kill a worker's processes, as when its machine loses power."""
        self._cluster.remove_node(worker, allow_graceful=False)

    def stop(self) -> None:
        self._cluster.shutdown()


def another_version(folder: Path, package: str) -> dict[str, str]:
    """Environment variables of a machine with version 1.2.3 of a package, faked in `folder`."""
    metadata = folder / f"{package}-1.2.3.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Name: {package}\nVersion: 1.2.3\n")
    return {"PYTHONPATH": str(folder)}


def missing(folder: Path, package: str) -> dict[str, str]:
    """Environment variables of a machine where a package cannot be imported, faked in `folder`."""
    module = folder / package / "__init__.py"
    module.parent.mkdir(parents=True)
    module.write_text(f"raise ModuleNotFoundError(\"No module named '{package}'\")\n")
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    """A Ray cluster with two workers."""
    pytest.importorskip("ray", reason=INSTALLED_BY)
    # Not tmp_path, which is too long: paths of Unix sockets are limited to 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary:
        # With `temp_dir`, Ray would write the address to /tmp/ray, which may not exist.
        monkeypatch.setenv("RAY_TMPDIR", temporary)
        machines = Machines(2, temporary)
        try:
            yield machines
        finally:
            machines.stop()


class Bucket(NamedTuple):
    """An empty bucket of an S3 server on 127.0.0.1."""

    name: str
    environment: dict[str, str]
    """The environment variables with which programs can reach the bucket by its name alone."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A new bucket that the test, and the programs it starts, can reach."""
    pytest.importorskip("moto", reason=INSTALLED_BY)
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it logs every request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    try:
        name = f"test-{uuid.uuid4().hex}"  # servers in the same process share their buckets
        boto3.client("s3").create_bucket(Bucket=name)
        yield Bucket(name, environment)
    finally:
        server.stop()
