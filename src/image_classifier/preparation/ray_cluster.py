"""Connect to a Ray cluster, whose tasks import the modules of src/ from this machine."""

import os
import re
import signal
import socket
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from image_classifier.common.errors import InputError

SOURCES = Path(__file__).parents[2]
ANSWER_SECONDS = 10  # time for the head to reply; Ray itself would wait for minutes

# Packages that results depend on.
PACKAGES = ["dvc", "dvclive", "keras", "numpy", "openvino", "pillow", "scikit-learn", "tensorflow"]


def connect(address: str | None = None) -> ModuleType:
    """Connect to a cluster and copy src/ to its machines; returns the module `ray`.

    The machines need the same packages as this one (requirements-cluster.txt), but not the
    repository.

    Args:
        address: of the head: "host:6379" from a machine of the cluster, or "ray://host:10001"
            from any other machine (None: RAY_ADDRESS, or else this machine alone).

    Raises:
        InputError: if Ray is not installed, or the cluster cannot be reached.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # disable Ray's usage reports
        # Do not print the errors of further tasks, after the first one that failed.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        import ray

        if ray.is_initialized():
            return ray
    except ImportError:
        raise InputError("ray not found; pip install -r requirements-cluster.txt") from None
    where = address or os.environ.get("RAY_ADDRESS")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _, _, head = (where or "").rpartition("//")
        if ":" in head:
            host, _, port = head.partition(":")
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        ray.init(
            address,
            runtime_env={"working_dir": str(SOURCES), "excludes": ["__pycache__"]},
            logging_level="error",
            log_to_driver=False,  # errors of machines are printed here, one line each
        )
        # Otherwise Ray prints a page of log for each lost machine; there is no option for it.
        ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"Ray at {where}: {reason}; allowed: its head, as host:6379, with its RAY_AUTH_MODE"
        ) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)  # Ray installs its own handlers
    return ray


def installed_versions() -> dict[str, str]:
    """Package -> version, for the packages that results depend on."""
    found = dict.fromkeys(PACKAGES, "nowhere")
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def differing_versions(expected: dict[str, str]) -> str:
    """Packages whose version here differs from `expected`."""
    return "; ".join(
        f"found {name} {found}; allowed: {expected[name]}, as here"
        for name, found in installed_versions().items()
        if found != expected[name]
    )


def summarize(error: Exception) -> str:
    """One line about an exception on a machine: its address, and the last line of the message."""
    text = str(error).strip()
    machine = re.search(r"\bip=([^,)\s]+)", text)
    return f"{machine[1] if machine else 'a machine'}: {text.splitlines()[-1].strip()}"
