"""Tools of other people that a test needs: it is skipped without them, and they are named at the
end. Where EIGHTFOLD_ALL_TOOLS is set (.ci/run does) a missing tool fails the test instead.

    @pytest.mark.needs_tool("fio")          declares it
    require_tool("nbdcopy", "nbdinfo")      a fixture: asks for them in the middle of a test
    not_installed("libnbd's bindings")      a fixture: the test has looked for itself
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, Final, NoReturn

import pytest

ALL_TOOLS: Final = "EIGHTFOLD_ALL_TOOLS"
NOT_RUN: Final = "EIGHTFOLD_NOT_RUN"  # a file that collects what was left out, for the Makefile
REASON: Final = "not installed: "


def leave_out(tool: str) -> NoReturn:
    """End this test: the tool is not there."""
    if os.environ.get(ALL_TOOLS):
        pytest.fail(f"{REASON}{tool}, but {ALL_TOOLS} says that every tool is there", pytrace=False)
    pytest.skip(REASON + tool)


def require(*tools: str) -> None:
    """Every one of them is on the path, or the test ends here."""
    for tool in tools:
        if shutil.which(tool) is None:
            leave_out(tool)


@pytest.fixture
def require_tool() -> Callable[..., None]:
    return require


@pytest.fixture
def not_installed() -> Callable[[str], NoReturn]:
    return leave_out


def pytest_configure(config: pytest.Config) -> None:
    # xdist hands its workers the width of a terminal; what is printed may not depend on it.
    os.environ.pop("COLUMNS", None)
    config.addinivalue_line("markers", "needs_tool(*names): runs other people's programs")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs_tool"):
        require(*mark.args)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    left_out: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _, marked, tool = reason.partition(REASON)
        if marked:
            left_out.setdefault(tool, []).append(report.nodeid)
    if not left_out:
        return
    terminalreporter.section("not run for lack of tools")
    lines = [f"{tool}: {name}" for tool in sorted(left_out) for name in sorted(left_out[tool])]
    for line in lines:
        terminalreporter.write_line(line)
    if path := os.environ.get(NOT_RUN):
        with open(path, "a") as collected:
            collected.writelines(line + "\n" for line in lines)
