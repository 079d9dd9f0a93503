"""Stage prepare on the machines of a Ray cluster."""

import re
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from helpers.images import write_image
from helpers.machines import Bucket, Machines, another_version, missing
from helpers.project import ON_FEATURES, Project, one_error
from helpers.running import Run, copy

CLASSES = {"blue": (60, 60, 200), "red": (200, 60, 60)}


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def many(project: Project, tmp_path: Path) -> Project:
    """A project with enough images for several tasks and several shards."""
    for number, (name, color) in enumerate(CLASSES.items()):
        for index in range(450):
            path = tmp_path / "images" / name / f"{index:03}.png"
            write_image(path, color, seed=1000 * number + index, size=8)
    modules = project.root / "src/image_classifier"
    replace(modules / "preparation/engines.py", "TASK_SIZE = 256", "TASK_SIZE = 64")
    replace(modules / "computing/prepared.py", "SHARD_BYTES = 2**30", "SHARD_BYTES = 2**20")
    project.set_params(ON_FEATURES)
    project.download(tmp_path / "images")
    return project


def upload(folder: Path, bucket: Bucket) -> str:
    """Upload class folders to a bucket, and return their address."""
    import s3fs

    s3fs.S3FileSystem().put(f"{folder}/", f"{bucket.name}/pets/", recursive=True)
    return f"s3://{bucket.name}/pets"


def arrays(project: Project) -> dict[str, bytes]:
    files = project.files("data/prepared")
    return {name: content for name, content in files.items() if name.endswith(".npy")}


@pytest.mark.slow
def test_machines_prepare_images_in_a_bucket_although_one_is_lost(
    many: Project, bucket: Bucket, machines: Machines, tmp_path: Path
):
    """The result has the same bytes as on one machine that reads a folder.

    The bucket is started before the machines, which get its address from the environment.
    """
    here = copy(many, tmp_path / "here")
    here.run(sys.executable, "src/prepare.py")
    expected = arrays(here)
    assert len([name for name in expected if "train" in name]) > 3

    many.environment |= {**bucket.environment, "RAY_ADDRESS": machines.address}
    many.set_params({"compute": {"engine": "ray"}})
    source = upload(tmp_path / "images", bucket)
    shutil.rmtree(tmp_path / "images")
    many.download(source)
    assert [path.name for path in (many.root / "data/raw").iterdir()] == ["images.csv"]
    with Run(many, (sys.executable, "src/prepare.py")) as run:
        written = many.root / "data/.prepare/prepared"
        run.wait_for((written / "train-00000.npy").exists)
        machines.kill(machines.workers[1])
        assert not (written / "validation-00000.npy").exists()
        run.finish()
    assert arrays(many) == expected


@pytest.mark.slow
def test_a_failure_on_a_machine_is_a_one_line_error(many: Project, machines: Machines):
    """Local images are sent to the machines."""
    many.environment["RAY_ADDRESS"] = machines.address
    many.set_params({"compute": {"engine": "ray"}, "model": {"backbone": "cnn"}})
    damaged = many.root / "data/raw/red/007.png"
    damaged.write_bytes(b"nothing")
    line = one_error(many.run(sys.executable, "src/prepare.py", fails=True).stderr)
    assert line == "error: data/raw/red/007.png: cannot identify image file '007.png'"
    assert not (many.root / "data/prepared").exists()

    damaged.unlink()
    many.run(sys.executable, "src/prepare.py")
    sent = arrays(many)
    many.set_params({"compute": {"engine": "local"}})
    many.run(sys.executable, "src/prepare.py")
    assert arrays(many) == sent


@pytest.mark.exhaustive
def test_a_machine_with_other_packages_is_a_one_line_error(
    many: Project, machines: Machines, tmp_path: Path
):
    many.environment["RAY_ADDRESS"] = machines.address
    many.set_params({"compute": {"engine": "ray"}, "model": {"backbone": "cnn"}})
    expected = version("openvino")
    cases = [
        ("openvino", another_version, f"found openvino 1.2.3; allowed: {expected}, as here"),
        ("PIL", missing, "ModuleNotFoundError: No module named 'PIL'"),
    ]
    for package, has, reason in cases:
        for worker in machines.workers:
            machines.kill(worker)
        machines.workers = [machines.add(env_vars=has(tmp_path / package, package))]
        line = one_error(many.run(sys.executable, "src/prepare.py", fails=True).stderr)
        assert re.fullmatch(rf"error: \S+: {re.escape(reason)}", line)
