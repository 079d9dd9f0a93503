"""Images in buckets and on the web."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.http_server import FileServer, file_server, serve_folder
from helpers.project import ALL_STAGES, Project, stages_run
from image_classifier.common import remote
from image_classifier.common.errors import InputError
from image_classifier.common.remote import RemoteFile, RemoteImage, list_images, read


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.001)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server(b"an image") as server:
        yield server


@pytest.mark.slow
def test_the_pipeline_runs_on_a_list_of_addresses(project: Project, images: Path, tmp_path: Path):
    """data/raw has only the list, and the results equal those for images in a folder."""
    served = shutil.copytree(images, tmp_path / "served")
    files = sorted(served.rglob("*.png"))
    (served / "damaged.png").write_bytes(files[0].read_bytes()[:300])
    (served / "page.png").write_text("<html>no image</html>", encoding="utf-8")
    with serve_folder(served) as address:
        urls = {f"{address}/{file.relative_to(served)}": file.parent.name for file in files}
        bad = [f"{address}/{name}.png" for name in ("damaged", "gone", "page")]
        rows = [("url", "class"), *urls.items(), *((url, "red") for url in bad)]
        (tmp_path / "list.csv").write_text("".join(f"{url},{name}\n" for url, name in rows))

        project.run("dvc", "exp", "run")
        in_folder = project.files("data/prepared")
        project.set_params({"download": {"source": str(tmp_path / "list.csv")}})
        done = project.run("dvc", "exp", "run")
    assert stages_run(done.stdout) == ALL_STAGES
    assert "3 images left out: cannot be decoded, see data/prepared/unreadable.csv" in done.stdout
    assert [path.name for path in (project.root / "data/raw").iterdir()] == ["images.csv"]
    listed = project.files("data/prepared")
    unreadable = listed.pop("data/prepared/unreadable.csv").decode().splitlines()
    assert [line.split(",")[0] for line in unreadable] == ["path", *bad]
    assert unreadable[3].endswith("cannot identify image file 'page.png'")
    assert listed.keys() == in_folder.keys()
    for name in listed.keys() - {"data/prepared/images.csv"}:
        assert listed[name] == in_folder[name]
    assert (project.root / "dvclive/evaluate/plots/images/mistakes.jpg").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,class\n", "found the columns path, class; allowed: url, class and optionally split"),
        ("", "found the columns (none); allowed: url, class and optionally split"),
        ("url,class\na.png,red\n", "line 2: found the url 'a.png'; allowed: https://..., s3://..."),
        ("url,class\ns3://a/b,\n", "line 2: found no class for s3://a/b"),
        ("url,class,split\ns3://a/b,red,tost\n", "line 2: found 'tost'; allowed: train, training"),
        ("url,class\ns3://a/b,red\n", "found 1 class folders; allowed: two or more"),
        (
            "url,class,split\ns3://a/1,red,train\ns3://a/2,blue,train\ns3://a/3,green,test\n",
            "class 'green' is in 'test' but not in 'train'",
        ),
        (
            "url,class,split\ns3://a/1,red,train\ns3://a/2,blue,\n",
            "found a split for only some images; allowed: for all images or for none",
        ),
    ],
)
def test_a_bad_list_is_refused(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        list_images(str(path))
    assert str(caught.value).startswith(f"download.source: {path}")
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("none.csv", "none.csv not found; allowed: a folder of class folders, or a CSV file"),
        ("memory://nowhere", "memory://nowhere not found"),
        ("nonsense://a/b", "nonsense://a/b: Protocol not known: nonsense; pip install -r"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(source: str, reason: str):
    if source.startswith("memory"):
        pytest.importorskip("upath")
    with pytest.raises(InputError, match=f"^download.source: {reason}"):
        list_images(source)


def test_class_folders_in_a_bucket_are_found_as_on_a_disk(capsys: pytest.CaptureFixture):
    pytest.importorskip("upath")
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("cats/1.png", "cats/more/2.png", "cats/.hidden.png", "dogs/3.png", "README.md"):
        memory.pipe(f"/bucket/pets/{name}", b"")
    images = [(row.url, row.class_name, row.split) for row in list_images("memory://bucket")]
    assert images == [
        ("memory:///bucket/pets/cats/1.png", "cats", ""),
        ("memory:///bucket/pets/cats/more/2.png", "cats", ""),
        ("memory:///bucket/pets/dogs/3.png", "dogs", ""),
    ]
    assert capsys.readouterr().out == ""
    before = list_images("memory://bucket")
    memory.pipe("/bucket/pets/dogs/3.png", b"another one")
    assert list_images("memory://bucket") != before

    memory.pipe("/bucket/pets/4.png", b"")
    memory.pipe("/bucket/.birds/1.png", b"")
    list_images("memory://bucket")
    assert capsys.readouterr().out == (
        "left out: 1 image outside the class folders, such as 'pets/4.png'; "
        "1 image in 1 folder whose name begins with a dot, such as '.birds'\n"
    )


def test_a_failing_server_is_asked_again(server: FileServer, impatient: None):
    server.faults = [lambda request: request.send_error(503)] * 3
    assert read(server.url) == b"an image"
    assert len(server.requests) == 4

    server.always = lambda request: request.send_error(500)
    with pytest.raises(InputError, match=rf"^{server.url}: 500, .*after 5 attempts$"):
        read(server.url)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_missing_image_is_not_requested_again(server: FileServer, status: int):
    server.always = lambda request: request.send_error(status)
    with pytest.raises(OSError):
        read(server.url)
    assert len(server.requests) == 1


def test_an_image_that_changes_during_prepare_is_noticed(server: FileServer):
    with pytest.raises(InputError, match=f"^{server.url}: changed since it was first read"):
        RemoteFile(server.url, "0" * 64).read()


def test_the_listing_keeps_all_fields(tmp_path: Path):
    images = [RemoteImage('s3://a/"b",c.png', "ein Hund", "train", "1")]
    remote.write_listing(images, tmp_path)
    assert list(remote.read_listing(tmp_path)) == images
