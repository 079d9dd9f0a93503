"""Count the faults that tests inject, and write them to docs/faults.md: see `make faults`.

Mark a test that injects a fault with the texts for its row of the table:

    @pytest.mark.fault("Network", "connection refused", "a one-line error with the address")

It counts as one injection, or as many as given by `record_property("injections", 20)`.
The cases of a parametrized test may inject different faults: see `faulty`.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"


def faulty(
    area: str, what: str, outcome: str, *values: object, marks: Sequence[pytest.MarkDecorator] = ()
) -> object:
    """A case of a parametrized test that injects a fault; `what` is also the id of the case."""
    return pytest.param(*values, id=what, marks=[pytest.mark.fault(area, what, outcome), *marks])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-table", type=Path, metavar="FILE", help="write the table to this Markdown file"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(area, what, outcome): injects a fault")
    config.addinivalue_line("markers", "slow: run by `make test-full`")
    config.addinivalue_line("markers", "exhaustive: run by `make faults`, `make test-cluster`")
    path = config.getoption("--fault-table")
    if path and not hasattr(config, "workerinput"):  # not in pytest-xdist's worker processes
        config.pluginmanager.register(FaultTable(path))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> pytest.TestReport:
    report = yield
    if report.when == "call" and (mark := item.get_closest_marker("fault")):
        report.user_properties.append(("fault", mark.args))
    return report


class FaultTable:
    """Counts how often each fault was injected, and how often the outcome was as expected."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counts: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if report.when == "call" and "fault" in properties and not report.skipped:
            count = int(properties.get("injections", 1))
            injected = self._counts[tuple(properties["fault"])]
            injected[0] += count
            injected[1] += count if report.passed else 0

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the table, keeping the rows of faults that were not injected this time."""
        before, _, rest = self._path.read_text(encoding="utf-8").partition(BEGIN)
        table, _, after = rest.partition(END)
        counts = _read(table) | self._counts
        rows = [
            f"| {area} | {what} | {injected} | {outcome} | {as_expected} |"
            for (area, what, outcome), (injected, as_expected) in sorted(counts.items())
        ]
        injected, as_expected = (sum(column) for column in zip(*counts.values(), strict=True))
        table = "\n".join(
            [
                "| | fault | injected | outcome | as expected |",
                "|---|---|---:|---|---:|",
                *rows,
                f"| **all** | | **{injected:,}** | | **{as_expected:,}** |",
            ]
        )
        terminalreporter.write_line(table)
        self._path.write_text(f"{before}{BEGIN}\n{table}\n\n{END}{after}", encoding="utf-8")


def _read(table: str) -> dict[tuple[str, str, str], list[int]]:
    """The counts in an existing table."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return {
        (area, what, outcome): [int(injected), int(as_expected)]
        for area, what, injected, outcome, as_expected in (row for row in rows if len(row) == 5)
        if injected.isdecimal()
    }
