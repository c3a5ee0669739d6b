"""shell: what was asked for on the command line of `eightfold sim`, as requests; files are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from base.clock import RealClock
from base.errors import InvalidRequest
from scenario import run_one as runs_of
from scenario.faults import FAULTS, nearest
from scenario.goals import GOALS
from scenario.kept import Kept, read_kept
from scenario.runs import RunRequest
from scenario.sweep import SEED_MAX, Sweep, parse_seeds

ALL: Final = "all"
NS_PER_DAY: Final = 86_400_000_000_000
LEVELS: Final = (1, 2)


def fresh_number() -> int:
    """Days since 1970, and tenths of minutes within the day: base of seeds that nobody ran."""
    return RealClock().wall_ns() // (6 * 10**9)


def options(given: list[str]) -> tuple[tuple[str, int | bool], ...]:
    """From NAME=VALUE. Values are whole numbers, true or false."""
    found: list[tuple[str, int | bool]] = []
    for text in given:
        name, equals, value = text.partition("=")
        words = {"true": True, "false": False}
        if not equals or not name:
            raise InvalidRequest(f"--set: {text} is not NAME=VALUE")
        if value.lower() in words:
            found.append((name, words[value.lower()]))
        elif value.isascii() and value.isdigit():
            found.append((name, int(value)))
        else:
            raise InvalidRequest(f"--set: {name} is a whole number, true or false, not {value}")
    return tuple(found)


def profiles(level: int, profile: str) -> tuple[str, ...]:
    """One, or `all` of the level."""
    if level not in runs_of.PROFILES:
        raise InvalidRequest(f"--level: there is no level {level}; levels are 1 and 2")
    known = tuple(runs_of.PROFILES[level])
    if profile == ALL:
        return known
    if profile not in known:
        raise InvalidRequest(
            f"--profile: level {level} has no {profile}: {nearest(profile, (*known, ALL))}"
        )
    return (profile,)


def sweep(
    *, seeds: str, level: int, profile: str, mutation: str, given: list[str], repeat_percent: int
) -> Sweep:
    """The runs of `sim run`. InvalidRequest says what does not apply, before anything runs."""
    found = Sweep(
        parse_seeds(seeds, today=fresh_number()),
        level,
        profiles(level, profile),
        mutation,
        options(given),
        repeat_percent,
    )
    for each in range(len(found.profiles)):
        runs_of.run_of(found.request(each))
    return found


def request(
    what: str,
    *,
    level: int,
    profile: str,
    mutation: str,
    given: list[str],
    allow_loss: bool,
    script: str = "",
) -> Kept:
    """One run: of a seed, or of a kept file, in which the file has the last word."""
    if what.isascii() and what.isdigit():
        if int(what) > SEED_MAX:
            raise InvalidRequest(f"a seed is at most {SEED_MAX}")
        (name,) = profiles(level, "default" if profile == ALL else profile)
        found = Kept(
            RunRequest(
                level, name, int(what), mutation, None, options(given), allow_loss=allow_loss,
                script=script,
            )
        )  # fmt: skip
    else:
        path = Path(what)
        if not path.is_file():
            raise InvalidRequest(f"{what} is neither a seed nor a file")
        found = read_kept(path)
    runs_of.run_of(found.request)
    return found


def node(text: str) -> int:
    """-1 for all."""
    if not text:
        return -1
    digits = text.removeprefix("n")
    if not digits.isascii() or not digits.isdigit() or len(digits) > 3:
        raise InvalidRequest(f"--node: {text} is not a node; nodes are called n0 to n7")
    return int(digits)


def region(text: str) -> tuple[int, int] | None:
    """(volume, region); None for all."""
    if not text:
        return None
    volume, _, number = text.partition(":")
    if not volume.isdigit() or not number.isdigit():
        raise InvalidRequest(f"--region: {text} is not VOLUME:REGION, as 1:0")
    return int(volume), int(number)


def profile_rows() -> list[tuple[Any, ...]]:
    """(level, name, what it draws)."""
    return [
        (level, name, (draw.__doc__ or "").strip().rstrip("."))
        for level in LEVELS
        for name, draw in runs_of.PROFILES[level].items()
    ]


def fault_rows() -> list[tuple[Any, ...]]:
    """(name, rows of the table of faults, levels, what it does, what it takes)."""
    rows: list[tuple[Any, ...]] = []
    for kind in FAULTS.values():
        least, most = kind.nodes
        takes = [f"{least} node" if least == most == 1 else f"{least} to {most} nodes"] * (most > 0)
        takes += ["for_ms"] * kind.standing
        for each in kind.parameters:
            bounds = "|".join(each.words) or (f"{each.least}..{each.most}" if each.most else "")
            takes.append(f"{each.name}={bounds}" if bounds else each.name)
        notes = [kind.text]
        notes += ["only while every region has its copies"] * kind.needs_redundancy
        notes += ["only with --allow-loss"] * kind.out_of_contract
        levels = ", ".join(str(level) for level in kind.levels)
        rows.append(
            (kind.name, ", ".join(kind.numbers), levels, "; ".join(notes), ", ".join(takes))
        )
    return rows


def goal_rows() -> list[tuple[Any, ...]]:
    """(level, what must have happened in some run)."""
    return [(level, goal) for level in LEVELS for goal in GOALS[level]]
