"""shell: `eightfold sim …`: search seeds, replay one, make it smaller, and what there is to break.

Exit codes: 0 everything held; 1 something was found; 2 the request was refused; 3 the run is void,
because the checkers did not see a bug that was put in on purpose; 130 interrupted.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, ParamSpec, TypeVar

import typer

from admin import output
from base.errors import InvalidRequest, StorageError
from scenario import sim_requests as asked

P = ParamSpec("P")
T = TypeVar("T")

FOUND, REFUSED, VOID, INTERRUPTED = 1, 2, 3, 130
FOUND_DIRECTORY: Final = Path("tests/simulation/found")
CANARY_MINUTES: Final = 10  # runs of such a length begin with a canary

sim_app = typer.Typer(
    name="sim",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Search the simulator for seeds that break a rule, replay and shrink them.",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors too (on standard error).")]
Level = Annotated[
    int, typer.Option(help="1: the cores of all nodes on models; 2: whole nodes on virtual time.")
]
Profile = Annotated[str, typer.Option(help="What a seed draws; see `eightfold sim profiles`.")]
Mutation = Annotated[str, typer.Option(help="A bug to put in; see `eightfold sim mutants`.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Replace an option that the profile draws."),
]
Script = Annotated[
    str, typer.Option(help="Faults that follow what the cluster does, in place of drawn ones.")
]
AllowLoss = Annotated[
    bool, typer.Option(help="Allow faults beyond the budget: then it must say what it lost.")
]


def refusing(command: Callable[P, T]) -> Callable[P, T]:
    """Run a command of `sim`; a request that does not apply is told with exit code 2, which is
    never that of a broken rule."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except StorageError as error:
            output.fail(error, as_json=bool(kwargs.get("as_json")))
            raise typer.Exit(REFUSED) from None
        except KeyboardInterrupt:
            output.warn("interrupted")
            raise typer.Exit(INTERRUPTED) from None

    return run


@sim_app.command("run")
@refusing
def run_seeds(
    seeds: Annotated[
        str, typer.Option(help="A..B, one seed A, or fresh:N for N seeds that nobody ran before.")
    ] = "",
    minutes: Annotated[
        float, typer.Option(min=0, help="No run begins after that long; 0: all seeds.")
    ] = 0,
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, help="Processes; by default one for each core.")
    ] = os.cpu_count() or 1,
    level: Level = 1,
    profile: Profile = "all",
    mutation: Mutation = "",
    given: Set = None,
    repeat_percent: Annotated[
        int, typer.Option(min=0, max=100, help="Runs that are done twice, to compare traces.")
    ] = 5,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a failure, and list all of them.")
    ] = False,
    scheduler: Annotated[
        str, typer.Option(metavar="tcp://HOST:PORT", help="Run on the machines of a Dask cluster.")
    ] = "",
    canary: Annotated[
        bool | None,
        typer.Option(help="First put in a bug that must be seen; on for runs of 10 minutes up."),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Directory in which every failure is kept as a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run seeds until one breaks a rule, and print the one line that repeats it.

    Some runs are done twice, in processes with different hash seeds; another trace is a failure.
    Exit code 0 when all passed, 1 when one did not, 2 for a request that does not apply, 3 when
    the canary was not seen, 130 when interrupted.
    """
    from scenario.sim_run import SimRun

    if not seeds and not minutes:
        raise InvalidRequest("say how much to run: --seeds A..B, --minutes M or both")
    sweep = asked.sweep(
        seeds=seeds or "fresh:1000000", level=level, profile=profile, mutation=mutation,
        given=given or [], repeat_percent=repeat_percent,
    )  # fmt: skip
    run = SimRun(
        sweep, jobs=jobs, minutes=minutes, keep_going=keep_going, scheduler=scheduler, save=save,
        canary=minutes >= CANARY_MINUTES if canary is None else canary, as_json=as_json,
    )  # fmt: skip
    raise typer.Exit(run.run())


@sim_app.command("replay")
@refusing
def replay(
    what: Annotated[str, typer.Argument(metavar="SEED|FILE", help="A seed, or a kept scenario.")],
    level: Level = 1,
    profile: Profile = "default",
    mutation: Mutation = "",
    given: Set = None,
    allow_loss: AllowLoss = False,
    script: Script = "",
    until: Annotated[
        str,
        typer.Option(
            metavar="EVENT|SECONDS",
            help="Stop at the first event with this text, or at this virtual second.",
        ),
    ] = "",
    trace: Annotated[bool, typer.Option("--trace", help="Print every event.")] = False,
    node: Annotated[str, typer.Option(help="Only events of this node, as n3 or 3.")] = "",
    region: Annotated[
        str, typer.Option(metavar="VOLUME:REGION", help="Only events and state of this region.")
    ] = "",
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Run a kept scenario whose trace is another by now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Repeat one run; with --until, stop there and show what every node holds.

    Exit code 0 when it passes, 1 when a rule is broken, 2 when the request no longer applies.
    """
    from scenario.sim_replay import Replay

    request = asked.request(
        what, level=level, profile=profile, mutation=mutation, given=given or [],
        allow_loss=allow_loss, script=script,
    )  # fmt: skip
    run = Replay(
        request, until=until, trace=trace, node=asked.node(node), region=asked.region(region),
        anyway=anyway, as_json=as_json,
    )  # fmt: skip
    raise typer.Exit(run.run())


@sim_app.command("shrink")
@refusing
def shrink(
    what: Annotated[str, typer.Argument(metavar="SEED|FILE", help="A seed, or a kept scenario.")],
    level: Level = 1,
    profile: Profile = "default",
    mutation: Mutation = "",
    given: Set = None,
    allow_loss: AllowLoss = False,
    script: Script = "",
    minutes: Annotated[float, typer.Option(min=0.01, help="Stop after that long.")] = 10,
    runs: Annotated[int, typer.Option(min=1, help="Stop after so many runs.")] = 2000,
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, help="Processes; by default one for each core.")
    ] = os.cpu_count() or 1,
    save: Annotated[
        Path, typer.Option(help="Directory in which the smaller run is kept as a file.")
    ] = FOUND_DIRECTORY,
    as_json: Json = False,
) -> None:
    """Make a failing run smaller, and keep what is left as a file.

    Fewer faults, shorter ones, fewer hosts, seconds, regions and nodes, as long as it ends with the
    same verdict on the same rule. Exit code 0 when a file was written, 1 when the run passes.
    """
    from scenario.sim_shrink import SimShrink

    kept = asked.request(
        what, level=level, profile=profile, mutation=mutation, given=given or [],
        allow_loss=allow_loss, script=script,
    )  # fmt: skip
    made = SimShrink(
        kept, minutes=minutes, runs_max=runs, jobs=jobs, save=save, as_json=as_json
    )  # fmt: skip
    raise typer.Exit(made.run())


@sim_app.command("mutants")
@refusing
def mutants(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]…", help="Some of them; else all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only those that are cheap to see: for every CI run.")
    ] = False,
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, help="Processes; by default one for each core.")
    ] = os.cpu_count() or 1,
    table: Annotated[
        Path | None,
        typer.Option(help="A document that gets the table between its marks, for mutations."),
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="The code as it is must pass ten times as many seeds.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Put deliberate bugs in, one by one, and run seeds until each is seen by a checker.

    Exit code 0 when every one was seen within its budget of seeds, 1 when one survived, or when
    the code as it is fails where --clean wants it to pass.
    """
    from scenario.sim_mutants import SimMutants

    made = SimMutants(
        tuple(names or ()), quick=quick, jobs=jobs, table=table, clean=clean, as_json=as_json
    )
    raise typer.Exit(made.run())


@sim_app.command("profiles")
@refusing
def profiles(as_json: Json = False) -> None:
    """List the profiles: what a seed draws, by level."""
    rows = asked.profile_rows()
    _show(("level", "profile", "draws"), rows, as_json)


@sim_app.command("faults")
@refusing
def faults(as_json: Json = False) -> None:
    """List the faults: what they do, at which levels, and what they take."""
    rows = asked.fault_rows()
    _show(("fault", "rows", "levels", "does", "takes"), rows, as_json)


@sim_app.command("goals")
@refusing
def goals(as_json: Json = False) -> None:
    """List the coverage goals: rare states that a long search must have reached."""
    rows = asked.goal_rows()
    _show(("level", "goal"), rows, as_json)


def _show(columns: tuple[str, ...], rows: list[tuple[Any, ...]], as_json: bool) -> None:
    if as_json:
        output.emit([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        output.table("", columns, rows)
