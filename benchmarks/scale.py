"""Measure the tables of docs/capacity.md: many experiments, many files, and ten million images.

python benchmarks/scale.py --photos /path/to/cats_and_dogs_filtered.zip

Each part replaces its own tables in docs/capacity.md: `--part experiments` makes hidden experiments
in a copy of this repository, `--part files` makes small files in its data/raw, and `--part cost`
prepares photos, sweeps on their features, and multiplies with the prices in machines.yaml.
"""

import argparse
import csv
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import fmean, median

from growth import unpack
from measure import (
    REPOSITORY,
    clone,
    describe_machine,
    make_project,
    run,
    table,
    temporary_folder,
    wrap,
)
from ruamel.yaml import YAML

DOCUMENT = REPOSITORY / "docs/capacity.md"
MACHINES = REPOSITORY / "benchmarks/machines.yaml"
# Experiments are named like trials of src/sweep.py.
PREFIX = "sweep-1a2b"
KEPT = 20  # experiments left after archiving a sweep
REMOVE = (  # the command in docs/capacity.md
    "git for-each-ref --format='delete %(refname)' 'refs/exps/??/*/*' "
    "| grep -v {kept} | git update-ref --stdin"
)
IMAGES, TRIALS = 10_000_000, 10_000
NETWORKS = {  # name -> backbone, pixels, two numbers of photos to prepare
    "efficientnet_lite0, 180x180": ("efficientnet_lite0", 180, (300, 1800)),
    "efficientnet_lite0, 224x224": ("efficientnet_lite0", 224, (300, 1800)),
    "resnet50, 180x180": ("resnet50", 180, (60, 300)),
    "resnet50, 224x224": ("resnet50", 224, (60, 300)),
}


def main() -> None:
    arguments = parse_arguments()
    parts = {
        "experiments": lambda folder: measure_experiments(folder, arguments.experiments),
        "files": lambda folder: measure_files(folder, arguments.files),
        "cost": lambda folder: measure_cost(folder, arguments.photos),
    }
    for part in arguments.part:
        with temporary_folder() as folder:
            os.environ["DVC_SITE_CACHE_DIR"] = str(folder / "state of DVC")
            write_block(part, parts[part](folder))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    everything = ["experiments", "files", "cost"]
    parser.add_argument("--part", nargs="+", choices=everything, default=everything)
    parser.add_argument("--photos", type=Path, help="an archive or a folder, for --part cost")
    parser.add_argument("--experiments", nargs="+", type=int, default=[1_000, 10_000])
    parser.add_argument("--files", nargs="+", type=int, default=[100_000, 1_000_000])
    arguments = parser.parse_args()
    if "cost" in arguments.part and not (arguments.photos and arguments.photos.exists()):
        parser.error("--photos: name an archive or a folder of photos")
    return arguments


def write_block(name: str, lines: Iterable[str]) -> None:
    """Print tables, and write them between the marks with their name in docs/capacity.md."""
    begin, end = f"<!-- benchmarks/scale.py: {name} -->", "<!-- end -->"
    block = "\n".join([begin, "", *wrap(lines), "", f"*{describe_machine()}*", "", end])
    print(block, flush=True)
    head, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(begin)
    DOCUMENT.write_text(head + block + rest.partition(end)[2], encoding="utf-8")


def timed(command: list[str], folder: Path) -> str:
    """The seconds that a command takes, formatted for a table."""
    return seconds(run(command, folder).seconds)


def seconds(value: float) -> str:
    return f"{value:,.2f}" if value < 1 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def measure_experiments(folder: Path, counts: list[int]) -> list[str]:
    """Time commands with no, some and many hidden experiments, and after archiving most of them."""
    project = folder / "project"
    clone(project)
    run(["dvc", "exp", "run"], project)
    run(["dvc", "exp", "remove", "--all-commits"], project)
    run(["git", "add", "--all"], project)
    run(["git", "commit", "--quiet", "--allow-empty", "--message", "Run"], project)
    columns = {"none": look(project)}
    made = 0
    for count in counts:
        make_experiments(project, made, count)
        columns[f"{count:,}"] = look(project, collected=made, count=count)
        made = count

    collecting = timed(["git", "gc", "--quiet"], project)
    columns[f"{made:,}, after `git gc`"] = look(project)
    archive = folder / "archive.git"
    run(["git", "init", "--quiet", "--bare", str(archive)], folder)
    run(["git", "remote", "add", "archive", str(archive)], project)
    pushing = timed(["git", "push", "--quiet", "archive", "refs/exps/*:refs/exps/*"], project)
    some = [f"{PREFIX}-{number:05}" for number in range(2 * KEPT)]
    removing_one = seconds(run(["dvc", "exp", "remove", *some[KEPT:]], project).seconds / KEPT)
    kept = " ".join(f"-e {name}" for name in some[:KEPT])
    removing = timed(["sh", "-c", REMOVE.format(kept=kept)], project)
    columns[f"{KEPT} kept"] = look(project)
    pulling = timed(["dvc", "exp", "pull", "--no-cache", "archive", f"{PREFIX}-{KEPT:05}"], project)

    names = dict.fromkeys(name for column in reversed(columns.values()) for name in column)
    rows = [[name, *(column.get(name, "") for column in columns.values())] for name in names]
    return [
        *table(["seconds", *columns], rows),
        "",
        f"With {made:,} experiments, `git gc` took {collecting} s, pushing all to another "
        f"repository with `git push` {pushing} s, `dvc exp remove` {removing_one} s for each name, "
        f"removing all but {KEPT} with `git update-ref` {removing} s, and fetching one again with "
        f"`dvc exp pull` {pulling} s. The experiments are synthetic, with the same files as those "
        "of src/sweep.py, and each Git object is a file; the `dvc exp run` after making them "
        "includes the time in which Git packs them, once. All share one set of images in DVC's "
        f"cache. The first `dvc exp show` of {made:,} is extrapolated from {counts[0]:,}.",
        "",
        *measure_sweep(folder, counts),
    ]


def look(project: Path, collected: int = 0, count: int = 0) -> dict[str, str]:
    """Time the usual commands with `count` experiments, of which DVC has cached `collected`."""
    found = {"`dvc exp list`": timed(["dvc", "exp", "list"], project)}
    show = ["dvc", "exp", "show", "--only-changed"]
    if count:
        if collected:
            collect_by_copying(project)
        else:
            look.first = run(show, project).seconds / count
        found["`dvc exp show --only-changed`, the first"] = seconds(look.first * count)
    else:
        found["`dvc exp show --only-changed`, the first"] = timed(show, project)
    found["`dvc exp show --only-changed`, the next"] = timed(show, project)
    as_code = run(["dvc", "exp", "show", "--json"], project)
    found["`dvc exp show --json`, for VS Code"] = seconds(as_code.seconds)
    found["size of the JSON, MB"] = f"{len(as_code.output) / 1e6:,.1f}"
    found["`dvc status`"] = timed(["dvc", "status"], project)
    found["`dvc exp run`, nothing to do"] = timed(["dvc", "exp", "run"], project)
    found["`git status`"] = timed(["git", "status"], project)
    if count or (project / "experiments.html").exists():
        found["`python src/report.py`"] = timed([sys.executable, "src/report.py"], project)
        size = (project / "experiments.html").stat().st_size
        found["size of its page, MB"] = f"{size / 1e6:,.1f}"
    files = [path for path in (project / ".git").rglob("*") if path.is_file()]
    found["files in .git"] = f"{len(files):,}"
    found["size of .git on disk, MB"] = f"{sum(p.stat().st_blocks for p in files) * 512 / 1e6:,.0f}"
    return found


def make_experiments(project: Path, first: int, last: int) -> None:
    """Make hidden experiments of the current commit, with each Git object in a file.

    Each has its own parameters, metrics, curves and dvc.lock, with random numbers.
    """
    baseline = run(["git", "rev-parse", "HEAD"], project).output.strip()
    listed = run(["git", "-c", "core.quotePath=false", "ls-files"], project).output.splitlines()
    kept = re.compile(r"params\.yaml|dvc\.lock|dvclive/.*(json|tsv|yaml)")
    texts = {name: (project / name).read_text() for name in listed if kept.fullmatch(name)}
    model = re.search(r"path: models/model.keras\n.*\n *md5: (\w+)", texts["dvc.lock"])[1]
    packs = project / ".git/objects/pack"
    before = set(packs.iterdir())
    command = ["git", "-c", "fastimport.unpackLimit=0", "fast-import", "--quiet", "--force"]
    importer = subprocess.Popen(command, cwd=project, stdin=subprocess.PIPE)
    for number in range(first, last):
        generator = random.Random(number)
        lines = [
            f"commit refs/exps/{baseline[:2]}/{baseline[2:]}/{PREFIX}-{number:05}",
            f"committer benchmark <benchmark@localhost> {1_700_000_000 + number} +0000",
            "data 9\nbenchmark",
            f"from {baseline}",
        ]
        for name, text in texts.items():
            if name.endswith((".yaml", ".lock")):
                rate = f"learning_rate: {generator.uniform(1e-4, 1e-1):.6f}"
                text = re.sub(r"learning_rate: \S+", rate, text)
                text = text.replace(model, f"{generator.getrandbits(128):032x}")
            else:
                text = re.sub(r"0\.\d{4,}", lambda _, g=generator: f"{g.random():.16f}", text)
            lines.append(f'M 100644 inline "{name}"\ndata {len(text.encode())}\n{text}')
        importer.stdin.write("\n".join([*lines, "", ""]).encode())
    importer.stdin.close()
    if importer.wait():
        sys.exit("git fast-import failed")
    for pack in set(packs.iterdir()) - before:
        if pack.suffix == ".pack":
            outside = pack.rename(project.parent / pack.name)
            pack.with_suffix(".idx").unlink()
            with outside.open("rb") as file:
                subprocess.run(["git", "unpack-objects", "-q"], cwd=project, stdin=file, check=True)
            outside.unlink()


def collect_by_copying(project: Path) -> None:
    """Copy DVC's cached record of one experiment for all others, to save reading them."""
    records = project / ".dvc/tmp/exps/cache"
    listed = run(["git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"], project)
    revisions = [line.split()[0] for line in listed.output.splitlines() if f"/{PREFIX}-" in line]
    path = next(
        path for revision in revisions if (path := records / revision[:2] / revision[2:]).exists()
    )
    record = json.loads(path.read_text())
    for revision in revisions:
        target = records / revision[:2] / revision[2:]
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(record | {"rev": revision}))


def measure_sweep(folder: Path, counts: list[int]) -> list[str]:
    """Time the work of a sweep between two trials, and at its end, after many trials."""
    sys.path.insert(0, str(REPOSITORY / "src"))
    import optuna

    from image_classifier.common.params import read_params
    from image_classifier.sweeps.plots import draw_sweep
    from image_classifier.sweeps.study import finished_trials, new_trials, open_study, write_trials
    from image_classifier.sweeps.sweep_file import read_sweep

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    os.chdir(REPOSITORY)
    sweep = read_sweep(Path("sweeps/learning_rate.yaml"), read_params())
    rows = {name: [name] for name in ("to resume", "to choose and record a trial", "plots")}
    for count in [100, *counts]:
        path = folder / f"{count}.sqlite3"
        study = open_study(path, "benchmark", sweep, 15)
        generator = random.Random(0)
        random_study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(count):
            trial = random_study.ask()
            for name, choice in sweep.parameters.items():
                choice.suggest(trial, name)
            random_study.tell(trial, generator.random())
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    value=trial.value,
                    intermediate_values={epoch: generator.random() for epoch in range(1, 15)},
                )
                for trial in random_study.get_trials(deepcopy=False)
            ]
        )
        start = time.perf_counter()
        study = open_study(path, "benchmark", sweep, 15)
        finished_trials(study)
        rows["to resume"].append(seconds(time.perf_counter() - start))
        trials = new_trials(study, sweep)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            trial = next(trials)
            for name, choice in sweep.parameters.items():
                choice.suggest(trial, name)
            for epoch in range(1, 15):
                trial.report(generator.random(), epoch)
                trial.should_prune()
            study.tell(trial, generator.random())
            times.append(time.perf_counter() - start)
        rows["to choose and record a trial"].append(seconds(median(times)))
        start = time.perf_counter()
        write_trials(study, folder / "trials.csv")
        draw_sweep(study, sweep.metric, folder)
        rows["plots"].append(seconds(time.perf_counter() - start))
    header = ["src/sweep.py, seconds, after trials:", *(f"{count:,}" for count in [100, *counts])]
    return table(header, list(rows.values()))


def measure_files(folder: Path, counts: list[int]) -> list[str]:
    """Time DVC, Git and the stages with many files in data/raw, or a list of as many images."""
    ways = [(f"{count:,} files", count, write_files) for count in counts]
    ways.append((f"a list of {counts[-1]:,}", counts[-1], write_list))
    rows: dict[str, list[str]] = {}
    for number, (_, count, write) in enumerate(ways):
        project = folder / f"{number}"
        clone(project)
        write(project / "data/raw", count)
        (project / "data/unreadable.csv").write_text("path,reason\n")
        for name, command in file_commands(project):
            if write is write_list and name == HASHING:
                rows[name].append("")
                continue
            done = run(command, project)
            text = f"{seconds(done.seconds)} s, {done.peak_bytes / 2**20:,.0f} MiB"
            rows.setdefault(name, [name]).append(text)
            print(count, name, text, flush=True)
        (listing,) = (project / ".dvc/cache/files/md5").glob("*/*.dir")
        rows.setdefault("DVC's list of the files, MB", ["DVC's list of the files, MB"]).append(
            f"{listing.stat().st_size / 1e6:,.1f}"
        )
        shutil.rmtree(project)
    return [
        *table(["in data/raw", *(name for name, *_ in ways)], list(rows.values())),
        "",
        "Time, and the largest resident memory of a process. Each file contains only a number; "
        "larger files take about 2 ms more per MB, to read and hash. The list is the one that "
        "src/download.py writes for images in a bucket.",
    ]


def write_files(raw: Path, count: int) -> None:
    for number in range(count):
        path = raw / f"class{number % 10}" / f"{number % 1000}" / f"{number:08}.jpg"
        if number < 10_000:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)


def write_list(raw: Path, count: int) -> None:
    from image_classifier.common.remote import RemoteImage, write_listing

    raw.mkdir()
    address = "s3://a-bucket-of-a-team/images"
    write_listing(
        (
            RemoteImage(f"{address}/{number:08}.jpg", f"class{number % 10}", "", f"{number:032x}")
            for number in range(count)
        ),
        raw,
    )


HASHING = "splits, from a hash of each file"


def file_commands(project: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield names and commands in the order in which to run them."""
    start = [sys.executable, "-c"]
    head = f"import sys; sys.path.insert(0, {str(project / 'src')!r}); "
    yield (
        "first `dvc commit`: hash, and copy or link to the cache",
        ["dvc", "commit", "--force", "--quiet", "download"],
    )
    yield "`dvc status download`", ["dvc", "status", "download"]
    yield "`git status`", ["git", "status"]
    look = "from image_classifier.common.stage_inputs import StageInputs; StageInputs('prepare')"
    yield (
        "a stage's check of its inputs, before and after",
        [*start, f"{head}{look}.check_unchanged()"],
    )
    look = (
        "from image_classifier.common.raw_data import RAW_DATA, find_images, locate; "
        "images = find_images(RAW_DATA)"
    )
    yield "find the images", [*start, head + look]
    examine = (
        "; from image_classifier.preparation.engines import compute_here; "
        "from image_classifier.preparation.features import examine; "
        "from image_classifier.preparation.splits import split_images; "
        "locations = [locate(RAW_DATA, image.path) for image in images]; "
        "parts = compute_here(examine, locations); "
        "hashes = [found.sha256 for _, part in parts for found in part]; "
        "split_images(images, hashes, 0.15, 0.15)"
    )
    yield HASHING, [*start, head + look + examine]


def measure_cost(folder: Path, photos: Path) -> list[str]:
    """Estimate time and money for many images and trials, from the cost of a few here."""
    prices = YAML(typ="safe").load(MACHINES)
    sources = unpack(photos, folder / "unpacked")
    image_bytes = fmean(path.stat().st_size for path in sources)
    costs = {name: measure_prepare(folder, sources, *NETWORKS[name]) for name in NETWORKS}
    network, size, (_, most) = NETWORKS["efficientnet_lite0, 180x180"]
    project = folder / f"{network}, {size}, {most}"  # prepared by `measure_prepare`
    trial, row_epoch, features = measure_trials(project)
    epochs = 15
    large_trial = trial + IMAGES * row_epoch * epochs * os.cpu_count()

    lines = [
        *table(
            [f"CPU seconds on this machine ({os.cpu_count()} cores)", "each"],
            [
                *([f"a photo prepared, {name}", f"{cost:.4f}"] for name, cost in costs.items()),
                [f"a trial of {epochs} epochs on features of {features:,} photos", f"{trial:.1f}"],
                [f"the same on features of {IMAGES:,} photos, extrapolated", f"{large_trial:,.0f}"],
            ],
        ),
        "",
        "The cost of a photo is the difference between running prepare on few and on many photos "
        f"of {image_bytes / 1e3:.0f} kB, divided by their number: reading, hashing, decoding and "
        "scaling it, running the network, and writing the features. The cost of a trial is the "
        f"median over the trials of src/sweep.py with {os.cpu_count()} jobs, including evaluation "
        "and saving the experiment; each further image adds "
        f"{row_epoch * 1e6:.1f} microseconds to an epoch. CPU seconds are time multiplied by "
        "cores.",
        "",
    ]
    work = [
        *((f"{IMAGES:,} photos, {name}", IMAGES * cost, "prepare") for name, cost in costs.items()),
        (f"{TRIALS:,} trials on {features:,} photos", TRIALS * trial, "trials"),
        (f"{TRIALS:,} trials on {IMAGES:,} photos", TRIALS * large_trial, "trials"),
    ]
    header = ["time and US dollars", *(f"{m['name']}, 1 and 10" for m in prices["machines"])]
    rows = [
        [
            name,
            *(
                " / ".join(
                    time_and_dollars(total, machine, count, prices["two_workers"][kind])
                    for count in (1, 10)
                )
                for machine in prices["machines"]
            ),
        ]
        for name, total, kind in work
    ]
    return [*lines, *table(header, rows), "", *assumptions(prices, costs, image_bytes)]


def time_and_dollars(total: float, machine: dict, count: int, ratio: float | None) -> str:
    """Format the time and price of `total` CPU seconds on `count` machines.

    `ratio` is the speed of two workers relative to one. Within a machine the speed is linear in its
    processors; for n machines it is n ** log2(ratio).
    """
    speedup = count ** math.log2(ratio or 2)
    hours = total / 3600 / machine["cpus"] / speedup
    dollars = hours * count * machine["dollars_per_hour"]
    duration = f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.0f} min"
    return f"{duration}, ${dollars:,.0f}"


def assumptions(prices: dict, costs: dict[str, float], image_bytes: float) -> list[str]:
    """List the further costs and the assumptions of the estimates."""
    storage = prices["storage"]
    gigabytes = IMAGES * image_bytes / 1e9
    features = IMAGES * 1280 * 4 / 1e9
    kept = storage["dollars_per_gb_month"]
    machine = max(prices["machines"], key=lambda machine: machine["cpus"])
    rate = machine["cpus"] / min(costs.values())
    needed = rate * image_bytes * 8 / 1e9
    ratios = {kind: ratio or "2, assumed" for kind, ratio in prices["two_workers"].items()}
    return [
        f"- Storage: the photos are {gigabytes:,.0f} GB, ${gigabytes * kept:,.2f} a month; their "
        f"features with EfficientNet-Lite0 (1,280 float32, one view) {features:,.0f} GB, "
        f"${features * kept:,.2f} a month. Writing each photo once, as one object, costs "
        f"${IMAGES / 1000 * storage['dollars_per_1000_writes']:,.0f}, reading each once "
        f"${IMAGES / 1000 * storage['dollars_per_1000_reads']:,.0f}.",
        f"- Connection: with the fastest network {machine['name']} prepares {rate:,.0f} photos a "
        f"second, for which it reads {needed:.2f} of its {machine['gigabit_per_second']} Gbit/s. "
        "The connection becomes the limit at "
        f"{machine['gigabit_per_second'] * 1e9 / 8 / image_bytes:,.0f} photos a second.",
        f"- Two workers against one: prepare {ratios['prepare']}, trials {ratios['trials']} "
        "(benchmarks/machines.yaml). Within a machine the speed is linear in its processors, each "
        "as fast as one of this machine; two processors that share a core are slower.",
        "- Prices are the on-demand list prices in benchmarks/machines.yaml: check them before "
        "use. No GPU was measured.",
    ]


def measure_prepare(
    folder: Path, sources: list[Path], network: str, size: int, counts: tuple[int, int]
) -> float:
    """Measure the CPU seconds that stage prepare takes for one further image."""
    times = []
    for count in counts:
        images = folder / f"photos-{count}"
        if not images.exists():
            for number, source in enumerate(sources[:: max(1, len(sources) // count)][:count]):
                target = images / f"class{number % 2}" / f"{number}{source.suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        project = make_project(
            folder / f"{network}, {size}, {count}",
            "cats_and_dogs",
            images,
            model__backbone=network,
            model__weights="imagenet" if network.startswith("efficientnet_lite") else "random",
            prepare__image_size=size,
            prepare__views=1,
            prepare__test_fraction=0.15,
        )
        run(["dvc", "repro", "download"], project)
        command = [sys.executable, "src/prepare.py"]
        times.append(median(run(command, project).seconds for _ in range(2)))
    return (times[1] - times[0]) / (counts[1] - counts[0]) * os.cpu_count()


def measure_trials(project: Path) -> tuple[float, float, int]:
    """Measure CPU seconds of a trial and seconds per image of an epoch; also count the images."""
    jobs = os.cpu_count()
    run(["dvc", "exp", "run"], project)
    run(["git", "add", "--all"], project)
    run(["git", "commit", "--quiet", "--message", "Run"], project)
    sweep = project / "sweeps/learning_rate.yaml"
    sweep.write_text(sweep.read_text().replace("pruner: median", "pruner: none"))
    run([sys.executable, "src/sweep.py", "--trials", str(10 * jobs), "--jobs", str(jobs)], project)
    with (project / "sweeps/learning_rate/trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    seconds_each = median(float(trial["seconds"]) for trial in trials[jobs:])
    path = project / "dvclive/system/plots/metrics/epoch_seconds.tsv"
    with path.open() as file:
        epochs = [float(row["epoch_seconds"]) for row in csv.DictReader(file, delimiter="\t")]
    with (project / "data/prepared/images.csv").open() as file:
        images = sum(1 for row in csv.DictReader(file))
    return seconds_each, median(epochs[1:]) / images, images


if __name__ == "__main__":
    main()
