"""shell: reports and records of runs as files: `NAME-WORLD-SEED.html`, and `.json` beside it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from base.errors import InvalidRequest, NotFound
from scenario.faults import nearest
from scenario.files.verdict import Result
from scenario.report.record import RECORD_BYTES_MAX, decode, encode

DIRECTORY: Final = Path("eightfold-reports")


def name_of(result: Result) -> str:
    """Of the files of a run, without their ends."""
    parts = [result.scenario, result.world, str(result.seed), result.mutation]
    return "-".join(part for part in parts if part)


def prepare(directory: Path) -> None:
    """Make it, so that a run is not made in vain. InvalidRequest: it cannot be written to."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidRequest(f"{directory}: no place for reports: {error.strerror}") from None


def write(result: Result, directory: Path, *, others: Sequence[tuple[int, str, str]] = ()) -> Path:
    """The report, and the record that it can be drawn from again. The path of the report."""
    # What draws is imported here: it takes most of a second.
    from scenario.report.charts import draw
    from scenario.report.page import page

    # It would tell users of a cache of fonts that it builds once.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    made = directory / f"{name_of(result)}.html"
    prepare(directory)
    try:
        made.with_suffix(".json").write_text(encode(result), encoding="utf-8")
        made.write_text(page(result, draw, others=others), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{made}: cannot be written: {error.strerror}") from None
    return made


def find(what: str, directory: Path) -> Path:
    """A record, by its path or by the name of its run in the directory. NotFound: the nearest."""
    for path in (Path(what), directory / f"{what}.json"):
        if path.is_file():
            return path.with_suffix(".json") if path.suffix == ".html" else path
    known = sorted(path.stem for path in directory.glob("*.json"))
    hint = f": {nearest(what, known)}" if known else ", which has no records: run a scenario first"
    raise NotFound(f"{what} is neither a file nor a run in {directory}{hint}")


def read(path: Path) -> Result:
    """A record. InvalidRequest names the file and what is wrong with it."""
    try:
        if path.stat().st_size > RECORD_BYTES_MAX:
            raise InvalidRequest(f"{path}: more than {RECORD_BYTES_MAX} bytes: no record of a run")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path}: no record of a run: it is not UTF-8") from None
    return decode(text, source=str(path))
