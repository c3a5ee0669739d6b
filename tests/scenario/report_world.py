"""A small record of a run, by hand: one node is killed, its region moves, hosts wait."""

from __future__ import annotations

from scenario.files.failovers import failovers
from scenario.files.receipts import Receipt
from scenario.files.runner import Line
from scenario.files.seen import Answers, Note, Track
from scenario.files.targets import Places
from scenario.files.verdict import Expected, Figures, Result, Verdict
from scenario.files.view import DEAD, ClusterView, NodeNow, RegionNow, VolumeNow

ALL_OF_IT = {"requested": 1000, "applied": 1000, "observed": 1010, "healed": 4000}


def view(gone: bool, regions: tuple[RegionNow, ...]) -> ClusterView:
    nodes = (NodeNow(0, DEAD, False) if gone else NodeNow(0), NodeNow(1), NodeNow(2))
    return ClusterView(nodes, (VolumeNow("vol0", regions),), 1)


def track() -> Track:
    """n0 owns region 0 until it is gone at 1050 ms; region 0 has both copies again at 2000 ms."""
    found = Track()
    other = RegionNow(2, (1,))
    found.look(0, view(False, (RegionNow(0, (1,)), other)))
    found.look(1050, view(True, (RegionNow(1, ()), other)))
    found.look(2000, view(True, (RegionNow(1, (2,)), other)))
    found.look(6000, view(False, (RegionNow(1, (2,)), other)))
    return found


def answers() -> Answers:
    """Twenty of one millisecond, one of h1 that waits over the takeover, one that is refused."""
    found = Answers([(7, "vol0")])
    rows = [(n % 2, 300_000 * n, 300_000 * n + 1000, n % 2, 0, 1) for n in range(20)]
    rows += [(1, 1_020_000, 1_520_000, 0, 0, 0), (0, 1_200_000, 1_201_000, 0, 1, 1)]
    for host, start_us, end_us, kind, outcome, region in sorted(rows, key=lambda row: row[1]):
        found.host.append(host)
        found.start_us.append(start_us)
        found.end_us.append(end_us)
        found.kind.append(kind)
        found.outcome.append(outcome)
        found.volume.append(0)
        found.region.append(region)
    return found


NOTES = (
    Note(1003, 1, "node.suspected", {"node": 0, "silent_ms": 3}),
    Note(1009, 2, "node.declared_down", {"node": 0}),
    Note(1410, 1, "region.opened", {"volume": 7, "region": 0, "epoch": 2}),
    Note(1990, 1, "copy.joined", {"mode": "full", "pages": 3, "bytes": 12_288, "took_ms": 20}),
)


def result(code: int = 0, reason: str = "every invariant held", *, broken: str = "") -> Result:
    receipt = Receipt(
        0, 0, "first", "kill", True, "owner of vol0", 3000, Places((0,)), dict(ALL_OF_IT),
        {"observed": "process <1> is gone"},
    )  # fmt: skip
    log = (Line(1050, "node down", 0, "n0"), Line(2000, "redundant again"), Line(6000, "run ended"))
    figures = Figures(22, 1, 0, 500, broken=broken, answers=answers(), notes=NOTES)
    expected = (Expected("invariants", "all hold", "none broken", not broken),)
    met = failovers((receipt,), log, NOTES, figures.answers, track())
    return Result(
        "small", "sim", 7, Verdict(code, reason, expected), figures, (receipt,), log, met,
        "eightfold scenario run small --seed 7", "Look at <b>it</b>.", "", track(),
    )  # fmt: skip
