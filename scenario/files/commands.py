"""shell: `eightfold scenario …`: list, show, check, explain, run and report scenario files.

Exit codes of `run`: 0 pass; 1 an invariant failed; 2 an objective was missed; 3 inconclusive, for
example because a fault has no receipt; 4 error, also for a file that is refused; 130 interrupted.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import typer

from admin import output
from base.errors import InvalidRequest, StorageError
from scenario.faults import nearest
from scenario.files import library
from scenario.files.amounts import time_text
from scenario.files.explain import explain
from scenario.files.junit import junit
from scenario.files.loader import read
from scenario.files.models import EVENTS, Scenario, schema
from scenario.files.runner import Line
from scenario.files.steps import VERBS
from scenario.files.targets import FORMS
from scenario.files.triggers import CONDITIONS
from scenario.files.verdict import Result
from scenario.files.world import WORLDS, cannot
from scenario.mutations import mutation_of
from scenario.report import files

P = ParamSpec("P")
T = TypeVar("T")
ERROR, INTERRUPTED = 4, 130
HELP: Final = "Run scenario files: break a cluster on purpose and prove what happened."

scenario_app = typer.Typer(
    name="scenario", no_args_is_help=True, pretty_exceptions_enable=False, help=HELP
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too (on standard error).")]
File = Annotated[
    str,
    typer.Argument(metavar="FILE|NAME", help="A file, or a name that `scenario list` shows."),
]
Reports = Annotated[
    Path, typer.Option("--reports", help="The directory of reports and records of runs.")
]


def refusing(command: Callable[P, T]) -> Callable[P, T]:
    """Run a command; what is refused is told with exit code 4."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except StorageError as error:
            output.fail(error, as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(ERROR) from None
        except KeyboardInterrupt:
            output.warn("interrupted: what stood was undone")
            raise typer.Exit(INTERRUPTED) from None

    return run


def _worlds_of(scenario: Scenario) -> list[str]:
    return [world.name for world in WORLDS.values() if not cannot(scenario, world)]


@scenario_app.command("list")
@refusing
def list_all(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the files are; by default the library.")
    ] = library.LIBRARY,
    as_json: Json = False,
) -> None:
    """List the scenarios of the library: what each shows, how long it takes and where it runs."""
    rows = []
    for name in library.names(directory):
        scenario = read(directory / f"{name}.yaml")
        about = " ".join(scenario.about.split()).partition(". ")[0]
        worlds = " ".join(_worlds_of(scenario))
        rows.append((name, time_text(scenario.lasts_ms), worlds, about))
    columns = ("scenario", "lasts", "worlds", "shows")
    if as_json:
        output.emit([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        output.table("", columns, rows)


@scenario_app.command("show")
@refusing
def show(file: File, as_json: Json = False) -> None:
    """Print a scenario as it is written, or with every default filled in as JSON."""
    path = library.find(file)
    scenario = read(path)
    if as_json:
        output.emit(_written(scenario))
    else:
        output.say(path.read_text(encoding="utf-8").rstrip())


def _written(scenario: Scenario) -> dict[str, Any]:
    """Plain values; targets and triggers as their texts."""
    found = scenario.model_dump(by_alias=True)
    for step, plain in zip(scenario.timeline, found["timeline"], strict=True):
        for key, targets in step.target_fields().items():
            texts = [target.text for target in targets]
            plain[key] = texts if key == "groups" else texts[0]
        plain["after"] = step.after.text if step.after is not None else None
        plain["when"] = step.when.text if step.when is not None else None
    return found


@scenario_app.command("check")
@refusing
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE|NAME…", help="What to check.")],
    on: Annotated[
        str, typer.Option(help="Also whether this world can run it: sim, processes, compose.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check files without running them. A mistake is told with file, line and what was meant.

    Exit code 0 when all can run, 4 when one cannot.
    """
    if on:
        _world(on)
    wrong: list[str] = []
    for file in files:
        try:
            scenario = read(library.find(file))
        except StorageError as error:
            wrong += str(error).splitlines()
            continue
        wrong += cannot(scenario, WORLDS[on]) if on else []
    if as_json:
        output.emit({"files": len(files), "wrong": wrong})
    for line in [] if as_json else wrong:
        output.warn(line)
    if not wrong and not as_json:
        output.say(f"{len(files)} files are in order")
    raise typer.Exit(ERROR if wrong else 0)


@scenario_app.command("explain")
@refusing
def explained(file: File, as_json: Json = False) -> None:
    """Tell in sentences what a scenario does, when, to whom, and what must be seen."""
    lines = explain(read(library.find(file)))
    if as_json:
        output.emit({"lines": lines})
    else:
        output.say("\n".join(lines))


@scenario_app.command("words")
@refusing
def words(as_json: Json = False) -> None:
    """List the words of scenario files: faults, operations, targets, events and conditions."""
    rows: list[tuple[str, str, str]] = []
    for verb, model in VERBS.items():
        means = " ".join((model.__doc__ or "").split())
        rows.append(("fault" if model.fault else "operation", verb, means))
    for kind, table in (("target", FORMS), ("event", EVENTS), ("condition", CONDITIONS)):
        rows += [(kind, word, means) for word, means in table.items()]
    columns = ("kind", "word", "means")
    if as_json:
        output.emit([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        output.table("", columns, rows)


@scenario_app.command("schema")
@refusing
def print_schema(as_json: Json = False) -> None:
    """Print the JSON schema of scenario files, for editors; it is JSON with or without --json."""
    output.say(json.dumps(schema(), indent=1))


@scenario_app.command("run")
@refusing
def run(
    file: File,
    on: Annotated[str, typer.Option(help="The world: sim, processes or compose.")] = "sim",
    seed: Annotated[
        int | None, typer.Option(min=0, help="In place of the seed of the file.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, max=10_000, help="So many seeds, counted up from the first.")
    ] = 1,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only verdicts.")] = False,
    junit_file: Annotated[
        Path | None, typer.Option("--junit", help="Also write a JUnit XML file, for a CI server.")
    ] = None,
    reports: Reports = files.DIRECTORY,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.")] = False,
    mutation: Annotated[
        str, typer.Option(help="Put a deliberate bug in; `eightfold sim mutants` lists them.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Run a scenario: print what happens as it happens, the receipts of its faults, the verdict.

    The report is one HTML file that needs no network; the record beside it can draw it again. Of
    several seeds the last run gets the report: that is the first that failed.

    Exit code 0 pass, 1 an invariant failed, 2 an objective was missed, 3 inconclusive (a fault
    without a receipt, a step that never ran), 4 error, 130 interrupted.
    """
    from scenario.files.one_run import perform

    path = library.find(file)
    scenario = read(path)
    _world(on)
    if mutation:
        mutation_of(mutation)  # one that there is not is refused
    if not no_report:
        files.prepare(reports)
    first = scenario.seed if seed is None else seed
    loud = not (quiet or as_json)
    results = list[Result]()
    for number in range(first, first + seeds):
        command = f"eightfold scenario run {file} --on {on} --seed {number}"
        command += f" --mutation {mutation}" if mutation else ""
        result = perform(
            scenario, on=on, seed=number, command=command, mutation=mutation,
            on_line=_say_line if loud else None,
        )  # fmt: skip
        results.append(result)
        last = bool(result.verdict.code) or number == first + seeds - 1
        others = [(each.seed, each.verdict.word, each.verdict.reason) for each in results[:-1]]
        made = files.write(result, reports, others=others) if last and not no_report else None
        _show(result, loud=loud, as_json=as_json, report=made)
        if last:
            break
    if junit_file is not None:
        _write(junit_file, junit(results))
    raise typer.Exit(results[-1].verdict.code)


@scenario_app.command("report")
@refusing
def report(
    run: Annotated[
        str,
        typer.Argument(metavar="FILE|RUN", help="A record, or the name of a run, as x-sim-1."),
    ],
    reports: Reports = files.DIRECTORY,
    as_json: Json = False,
) -> None:
    """Draw the report of a run again, from the record that `scenario run` left beside it.

    Exit code 0 when it was written, whatever the verdict of the run; 4 when it could not be.
    """
    found = files.find(run, reports)
    result = files.read(found)
    made = files.write(result, found.parent)
    _show(result, loud=False, as_json=as_json, report=made)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be written: {error.strerror}") from None


def _world(on: str) -> None:
    if on not in WORLDS:
        raise InvalidRequest(f"there is no world {on}: {nearest(on, WORLDS)}")


def _say_line(line: Line) -> None:
    output.say(f"{line.at_ms / 1000:9.3f}s  {line.event:<18} {line.text}".rstrip())


def _show(result: Result, *, loud: bool, as_json: bool, report: Path | None) -> None:
    from scenario.files import one_run as tell

    if as_json:
        output.emit({**tell.plain(result), "report": str(report) if report else None})
        return
    if loud:
        output.table("", tell.RECEIPT_COLUMNS, tell.receipt_rows(result.receipts))
        rows = [
            (each.name, each.detected_ms, each.fenced_ms, each.taken_over_ms,
             each.acknowledged_ms, each.redundant_ms, each.moved)
            for each in result.failovers
        ]  # fmt: skip
        if rows:
            shown = [tuple("-" if cell is None else cell for cell in row) for row in rows]
            output.table(
                "milliseconds after",
                ("loss", "detect#", "fence#", "takeover#", "first answer#", "redundant#", "moved#"),
                shown,
            )
        output.table(
            "", ("expected", "wanted", "seen", ""),
            [(each.what, each.wanted, each.seen, "" if each.held else "missed")
             for each in result.verdict.expected],
        )  # fmt: skip
    output.say(
        f"{result.verdict.word}  {result.scenario} on {result.world}, seed {result.seed}:"
        f" {result.verdict.reason}"
    )
    if result.verdict.code:
        output.say(f"repeat it: {result.command}")
    if report is not None:
        output.say(f"report: {report}")
