"""plan: the charts of a report as one SVG per width: lanes over one axis of time.

Drawn by matplotlib without its state machine; text stays text, colours become CSS variables. Dots
and bars of thousands of operations are one path, so that the file stays small.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from scenario.files import receipts as rc
from scenario.files.receipts import Receipt
from scenario.files.seen import KINDS, OUTCOMES, spans_with_ends
from scenario.files.verdict import Result
from scenario.files.view import ALIVE, DEAD, PAUSED
from scenario.report import figures
from scenario.report.palette import family, named, node, sign

OPERATIONS_MAX: Final = 6000  # drawn; of more, the slowest and every so-manieth of the others
REGIONS_MAX: Final = 48
FAULTS_MAX: Final = 24
LABEL_MAX: Final = 64  # letters
STALLS_MARKED: Final = 3
BUCKETS: Final = 120
_DECIMALS: Final = re.compile(r"(-?\d+\.\d\d)\d+")
_STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": 8,
    "axes.linewidth": 0.6,
    "path.simplify": False,
    "hatch.linewidth": 0.8,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Panel:
    """One lane of the figure. name: of its group in the SVG. inches: how high."""

    name: str
    title: str
    short: str  # where there is little room
    inches: float
    draw: Callable[[_Sheet, Axes], None]


@dataclass(slots=True)
class _Sheet:
    """What is drawn. tips: texts that a pointer shows, by the id of what they belong to."""

    result: Result
    end_ms: int
    wide: bool
    tips: dict[str, str]
    chosen: list[int]  # operations that are drawn

    def tip(self, text: str) -> str:
        """The id to give to what has this text."""
        name = f"tip{'w' if self.wide else 'n'}{len(self.tips)}"
        self.tips[name] = text
        return name


def draw(result: Result, *, wide: bool) -> str:
    """An `<svg>` element. wide: for a window, else for a telephone."""
    sheet = _Sheet(result, figures.until_ms(result), wide, {}, _chosen(result))
    panels = _panels(result)
    width, left = (10.6, 0.62) if wide else (4.0, 0.42)
    gap, top, bottom = 0.3, 0.22, 0.24
    height = sum(panel.inches + gap for panel in panels) - gap + top + bottom
    salt = "w" if wide else "n"
    with mpl.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(width, height))
        figure.patch.set_alpha(0)
        y = height - top
        for place, panel in enumerate(panels):
            y -= panel.inches
            axes = figure.add_axes(
                (left / width, y / height, (width - left - 0.12) / width, panel.inches / height)
            )
            y -= gap
            axes.set_gid(f"{panel.name}-{salt}")
            _frame(axes, sheet, last=place == len(panels) - 1)
            axes.set_title(
                panel.title if wide else panel.short,
                loc="left",
                fontsize=8.5,
                color=sign("ink"),
                pad=3,
            )
            panel.draw(sheet, axes)
            axes.set_xlim(0, sheet.end_ms / 1000)
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    return _finished(written.getvalue(), sheet)


def _finished(svg: str, sheet: _Sheet) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = _DECIMALS.sub(r"\1", svg)
    for name, text in sheet.tips.items():
        svg = svg.replace(f'<g id="{name}">', f'<g id="{name}"><title>{escape(text)}</title>', 1)
    name = f"{sheet.result.scenario}: what was broken, and what hosts saw"
    label = f'<svg role="img" aria-label="{escape(name)}"'
    return named(svg.replace("<svg", label, 1))


def _panels(result: Result) -> list[Panel]:
    track, answers = result.track, result.figures.answers
    faults = [each for each in result.receipts if rc.REQUESTED in each.at_ms]
    regions = sum(len(rows) for rows in track.regions.values())
    hosts = len(set(answers.host))
    made = []
    if faults:
        title = "What was broken, and what was done"
        made.append(Panel("faults", title, title, 0.2 * len(faults[:FAULTS_MAX]), _faults))
    if track.nodes:
        title = "Nodes: how they were, and how many regions each owned"
        made.append(
            Panel("nodes", title, "Nodes and what they own", 0.2 * len(track.nodes), _nodes)
        )
    if regions:
        each = 0.17 if regions <= 16 else 0.11
        title = "Who owned each region (thin: a copy was missing; red: nobody could serve it)"
        high = each * min(regions, REGIONS_MAX)
        made.append(Panel("regions", title, "Owner of each region", high, _regions))
        title = "Regions that lacked a copy"
        made.append(Panel("exposed", title, title, 0.4, _exposed))
    if len(answers):
        title = "How long each operation waited, in ms; stalls are marked in red"
        made.append(Panel("latency", title, "Waits, in ms; stalls in red", 1.7, _latency))
        title = "Answers per second"
        made.append(Panel("throughput", title, title, 0.8, _throughput))
        title = "What each host waited for"
        made.append(Panel("hosts", title, title, 0.26 * min(hosts, 16), _hosts))
    return made


def _frame(axes: Axes, sheet: _Sheet, *, last: bool) -> None:
    """One axis of time for all; faults as shades behind everything."""
    axes.patch.set_alpha(0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(sign("line"))
    axes.tick_params(colors=sign("soft"), length=2, width=0.6, labelsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=sign("line"), linewidth=0.4)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(12 if sheet.wide else 5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g} s"))
    axes.tick_params(axis="x", labelbottom=last)
    for receipt in sheet.result.receipts:
        if receipt.fault and rc.APPLIED in receipt.at_ms:
            since, until = _stood(receipt, sheet.end_ms)
            colour = sign(family(receipt.verb))
            axes.axvspan(since / 1000, until / 1000, color=colour, alpha=0.07, linewidth=0)
            axes.axvline(since / 1000, color=colour, linewidth=0.7, alpha=0.7)
    if sheet.result.figures.broken:
        axes.axvline(sheet.end_ms / 1000, color=sign("bad"), linewidth=2.5)


def _stood(receipt: Receipt, end_ms: int) -> tuple[int, int]:
    """From when to when; to the end where nothing shows that it healed."""
    since = receipt.at_ms.get(rc.APPLIED, receipt.at_ms[rc.REQUESTED])
    done = receipt.at_ms.get(rc.HEALED if receipt.fault else rc.DONE, end_ms)
    return since, max(since, done)


def _bar(
    axes: Axes, sheet: _Sheet, from_ms: float, to_ms: float, y: float, tip: str, **look: Any
) -> None:
    """A box around y, at least so wide that it can be seen."""
    high = look.pop("high", 0.8)
    wide = max(to_ms - from_ms, sheet.end_ms / 500) / 1000
    box = Rectangle((from_ms / 1000, y - high / 2), wide, high, linewidth=0, **look)
    box.set_gid(sheet.tip(tip))
    axes.add_patch(box)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(range(len(labels)), labels)


def _text(axes: Axes, at_ms: float, y: float, text: str, colour: str, **more: Any) -> None:
    more.setdefault("fontsize", 7)
    axes.text(at_ms / 1000, y, text, color=sign(colour), va="center", clip_on=True, **more)


# ---------------------------------------------------------------------------------- lanes


def _faults(sheet: _Sheet, axes: Axes) -> None:
    shown = [each for each in sheet.result.receipts if rc.REQUESTED in each.at_ms][:FAULTS_MAX]
    _rows(axes, [""] * len(shown))
    for y, receipt in enumerate(shown):
        since, until = _stood(receipt, sheet.end_ms)
        colour = family(receipt.verb) if receipt.fault else "soft"
        text = receipt.verb.replace("_", " ")
        whom = receipt.target if receipt.verb == "partition" else receipt.places.text()
        if not sheet.wide and receipt.verb != "partition":
            whom = " ".join(f"n{number}" for number in receipt.places.nodes)
        text += f" {whom}" if receipt.fault else f" ({receipt.name})"
        if not receipt.complete:
            text += f": not {receipt.missing}"
        tip = f"{receipt.name}: {text}, {since} to {until} ms"
        look = {"facecolor": sign(colour), "alpha": 1.0 if receipt.complete else 0.45}
        _bar(axes, sheet, since, until, y, tip, **look)
        most = LABEL_MAX if sheet.wide else LABEL_MAX // 2
        text = text if len(text) < most else text[: most - 1] + "…"
        long_ms = sheet.end_ms * (0.0065 if sheet.wide else 0.018) * len(text)
        edge_ms = sheet.end_ms * 0.006
        if until - since > long_ms:
            _text(axes, since + edge_ms, y, text, "on-fault")
        elif sheet.end_ms - until > long_ms or sheet.end_ms - until > since:
            _text(axes, until + edge_ms, y, text, "ink")
        else:
            _text(axes, since - edge_ms, y, text, "ink", ha="right")


# By (process, up by the catalog): colour, strength, and what is written.
_STATES: Final = {
    (ALIVE, True): ("good", 0.2, ""),
    (ALIVE, False): ("warn", 0.5, "called down"),
    (PAUSED, True): ("warn", 0.9, "paused"),
    (PAUSED, False): ("warn", 0.9, "paused, called down"),
    (DEAD, True): ("bad", 0.9, "gone"),
    (DEAD, False): ("bad", 0.9, "gone, called down"),
}


def _nodes(sheet: _Sheet, axes: Axes) -> None:
    track = sheet.result.track
    _rows(axes, [f"n{number}" for number in range(len(track.nodes))])
    letter_ms = sheet.end_ms * (0.006 if sheet.wide else 0.016)
    for number, spans in enumerate(track.nodes):
        for span, end_ms in spans_with_ends(spans, sheet.end_ms):
            colour, alpha, word = _STATES[span.process, span.up]
            tip = f"n{number} {word or 'serves'}, {span.at_ms} to {end_ms} ms"
            look = {"facecolor": sign(colour), "alpha": alpha}
            _bar(axes, sheet, span.at_ms, end_ms, number, tip, high=0.84, **look)
            if word and end_ms - span.at_ms > letter_ms * len(word):
                at_ms = span.at_ms + letter_ms / 2
                _text(axes, at_ms, number, word, "on-node", fontsize=6.5)
    _owned(sheet, axes)
    _leaders(sheet, axes)


def _owned(sheet: _Sheet, axes: Axes) -> None:
    """So high a bar on the lower edge of a node as it owns regions."""
    owned = figures.owned(sheet.result.track)
    most = max((count for runs in owned for _, _, count in runs), default=1)
    for number, runs in enumerate(owned):
        for from_ms, to_ms, count in runs:
            high = 0.42 * count / most
            tip = f"n{number} owns {count} regions, {from_ms} to {to_ms} ms"
            y = number + 0.42 - high / 2
            _bar(axes, sheet, from_ms, to_ms, y, tip, high=high, facecolor=sign(node(number)))


def _leaders(sheet: _Sheet, axes: Axes) -> None:
    """A line over who leads the catalog."""
    leaders = sheet.result.track.leaders
    ends = [*(at_ms for at_ms, _ in leaders[1:]), sheet.end_ms]
    for (at_ms, leader), until in zip(leaders, ends, strict=True):
        if leader >= 0:
            axes.plot(
                [at_ms / 1000, until / 1000], [leader - 0.42] * 2, color=sign("ink"),
                linewidth=1.2, solid_capstyle="butt",
            )  # fmt: skip
            if until - at_ms > sheet.end_ms * 0.12:
                at_ms = (at_ms + until) // 2
                _text(axes, at_ms, leader - 0.12, "leads", "ink", fontsize=6.5, ha="center")


def _regions(sheet: _Sheet, axes: Axes) -> None:
    track = sheet.result.track
    rows = [(name, number, spans) for name, found in track.regions.items()
            for number, spans in enumerate(found)][:REGIONS_MAX]  # fmt: skip
    several = len(track.regions) > 1
    every = 1 if len(rows) <= 16 else 4
    labels = [
        (f"{name[:6]} {number}" if several else str(number)) if place % every == 0 else ""
        for place, (name, number, _) in enumerate(rows)
    ]
    _rows(axes, labels)
    for y, (name, number, spans) in enumerate(rows):
        last = -2
        for span, end_ms in spans_with_ends(spans, sheet.end_ms):
            whole = span.copies >= track.wanted.get(name, 2)
            owner = f"n{span.owner}" if span.owner >= 0 else "nobody"
            colour = node(span.owner) if span.owner >= 0 else "bad"
            state = "with all copies" if whole else f"{span.copies} copies"
            tip = f"{name} region {number}: {owner}, {state}, {span.at_ms} to {end_ms} ms"
            high = 0.86 if whole or span.owner < 0 else 0.4
            _bar(axes, sheet, span.at_ms, end_ms, y, tip, high=high, facecolor=sign(colour))
            room = sheet.end_ms * (0.03 if sheet.wide else 0.07)
            if span.owner != last and end_ms - span.at_ms > room and len(rows) <= 24 and whole:
                at_ms = span.at_ms + sheet.end_ms * 0.004
                _text(axes, at_ms, y, owner, "on-node", fontsize=6.5)
                last = span.owner


def _exposed(sheet: _Sheet, axes: Axes) -> None:
    steps = figures.exposed_steps(sheet.result.track)
    times = [at_ms / 1000 for at_ms, _ in steps] + [sheet.end_ms / 1000]
    counts = [count for _, count in steps]
    axes.fill_between(
        times, [*counts, counts[-1]], step="post", color=sign("warn"), alpha=0.75, linewidth=0
    )
    axes.set_ylim(0, max(1, *counts) * 1.1)
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))


# ---------------------------------------------------------------------------------- hosts


def _chosen(result: Result) -> list[int]:
    """Places of the operations that are drawn: all, or the slowest and some of the rest."""
    answers = result.figures.answers
    everyone = range(len(answers))
    if len(answers) <= OPERATIONS_MAX:
        return list(everyone)
    order = sorted(everyone, key=lambda place: _wait_us(result, place), reverse=True)
    slow, rest = order[: OPERATIONS_MAX // 4], sorted(order[OPERATIONS_MAX // 4 :])
    every = -(-len(rest) // (OPERATIONS_MAX * 3 // 4))
    return sorted([*slow, *rest[::every]])


def _end_us(result: Result, place: int) -> int:
    end_us = result.figures.answers.end_us[place]
    return end_us if end_us >= 0 else figures.until_ms(result) * 1000


def _wait_us(result: Result, place: int) -> int:
    return _end_us(result, place) - result.figures.answers.start_us[place]


def _dashes(
    axes: Axes, dashes: Iterable[tuple[float, float, float]], colour: str, **look: Any
) -> None:
    """(from s, to s, y) as one path; a round end makes a dot of one without length."""
    points: list[tuple[float, float]] = []
    for from_s, to_s, y in dashes:
        points += [(from_s, y), (to_s, y)]
    if points:
        codes = [Path.MOVETO, Path.LINETO] * (len(points) // 2)
        path = PathPatch(
            Path(points, codes), facecolor="none", edgecolor=sign(colour), capstyle="round", **look
        )
        axes.add_patch(path)


def _latency(sheet: _Sheet, axes: Axes) -> None:
    result, answers = sheet.result, sheet.result.figures.answers
    axes.set_yscale("log")
    waits = {place: max(0.05, _wait_us(result, place) / 1000) for place in sheet.chosen}
    for number, kind in enumerate(KINDS):
        dots = [
            (_end_us(result, place) / 1e6,) * 2 + (waits[place],)
            for place in sheet.chosen
            if answers.kind[place] == number and OUTCOMES[answers.outcome[place]] == "ok"
        ]
        _dashes(axes, dots, kind, linewidth=1.9, alpha=0.75)
    wrong = [
        (_end_us(result, place) / 1e6,) * 2 + (waits[place],)
        for place in sheet.chosen
        if OUTCOMES[answers.outcome[place]] != "ok"
    ]
    _dashes(axes, wrong, "bad", linewidth=3.4)
    least, most = min(waits.values()), max(waits.values())
    axes.set_ylim(least / 1.6, most * 3.5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=sign("line"), linewidth=0.4)
    _mark_stalls(sheet, axes)


def _mark_stalls(sheet: _Sheet, axes: Axes) -> None:
    found = figures.stalls(sheet.result.figures.answers, sheet.end_ms)
    marked = sorted(found, key=lambda each: each.longest_ms, reverse=True)[:STALLS_MARKED]
    for stall in found:
        axes.axvspan(
            stall.from_ms / 1000, stall.to_ms / 1000, ymin=0.93, color=sign("bad"), linewidth=0
        )
    taken: list[tuple[float, float]] = []
    for stall in marked:
        text = f"{stall.longest_ms:.0f} ms"
        text += f", {stall.operations} operations" * sheet.wide
        long_ms = sheet.end_ms * len(text) * (0.0078 if sheet.wide else 0.02)
        right = stall.to_ms + long_ms > sheet.end_ms
        since = stall.to_ms - long_ms * right
        if any(since < to and since + long_ms > from_ms for from_ms, to in taken):
            continue  # it would be written over another; the table has them all
        taken.append((since, since + long_ms))
        axes.annotate(
            text, (stall.to_ms / 1000, stall.longest_ms), (-5 if right else 5, 3),
            textcoords="offset points", color=sign("bad"), fontsize=7.5, fontweight="bold",
            ha="right" if right else "left",
        )  # fmt: skip


def _throughput(sheet: _Sheet, axes: Axes) -> None:
    bucket_ms = max(50, -(-sheet.end_ms // BUCKETS // 50) * 50)
    good, bad = figures.per_second(sheet.result.figures.answers, sheet.end_ms, bucket_ms)
    times = [place * bucket_ms / 1000 for place in range(len(good) + 1)]
    axes.fill_between(
        times, [*good, good[-1]], step="post", color=sign("read"), alpha=0.25, linewidth=0
    )
    axes.step(times, [*good, good[-1]], where="post", color=sign("read"), linewidth=1)
    if any(bad):
        axes.step(times, [*bad, bad[-1]], where="post", color=sign("bad"), linewidth=1)
    for stall in figures.stalls(sheet.result.figures.answers, sheet.end_ms):
        axes.axvspan(
            stall.from_ms / 1000, stall.to_ms / 1000, ymin=0.9, color=sign("bad"), linewidth=0
        )
    axes.set_ylim(0, max(1.0, *good, *bad) * 1.2)
    axes.yaxis.set_major_locator(MaxNLocator(2, integer=True))


def _hosts(sheet: _Sheet, axes: Axes) -> None:
    answers = sheet.result.figures.answers
    hosts = sorted(set(answers.host))[:16]
    rows = {host: y for y, host in enumerate(hosts)}
    _rows(axes, [f"h{host}" for host in hosts])
    looks: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in (*KINDS, "bad")}
    for place in sheet.chosen:
        host = answers.host[place]
        if host in rows:
            ok = OUTCOMES[answers.outcome[place]] == "ok"
            kind = KINDS[answers.kind[place]]
            y = rows[host] + {"write": -0.22, "read": 0.0, "flush": 0.22}[kind]
            dash = (answers.start_us[place] / 1e6, _end_us(sheet.result, place) / 1e6, y)
            looks[kind if ok else "bad"].append(dash)
    for colour, dashes in looks.items():
        _dashes(axes, dashes, colour, linewidth=1.5, alpha=0.8)
