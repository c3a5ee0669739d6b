"""Text files of commands with expected output. `pytest tests/interactions --rewrite` writes what
comes out into the files; read the difference before you keep it.

A file is a list of blocks: `> command`, then its output, then an empty line. Lines that begin with
`#` say why, and stay.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[[str], list[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite", action="store_true", help="write the actual output into interaction files"
    )


def replayed(text: str, run: Run) -> str:
    """The text with the output of each command as it is now."""
    lines: list[str] = []
    in_output = False
    for line in text.splitlines():
        if line.startswith("> "):
            in_output = True
            lines += [line, *run(line[2:])]
        elif not line or line.startswith("#"):
            in_output = False
            lines.append(line)
        elif not in_output:
            raise AssertionError(f"{line!r} is no command, no comment and no output")
    return "\n".join(lines) + "\n"


@pytest.fixture
def check_interaction(request: pytest.FixtureRequest) -> Callable[[Path, Run], None]:
    """Replay a file through a runner of commands; compare, or rewrite it."""
    rewrite = bool(request.config.getoption("--rewrite", default=False))

    def check(path: Path, run: Run) -> None:
        expected = path.read_text()
        actual = replayed(expected, run)
        if rewrite:
            path.write_text(actual)
        else:
            assert actual.splitlines() == expected.splitlines()

    return check
