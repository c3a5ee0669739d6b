"""The core of a scenario: what is due when, what follows what, receipts, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from base.errors import InvalidRequest
from scenario.files.failovers import failovers
from scenario.files.loader import scenario_of
from scenario.files.models import Expect, Scenario
from scenario.files.runner import (
    Abort,
    Failed,
    Finish,
    Heal,
    Perform,
    Reported,
    Runner,
    RunnerAction,
    StopLoad,
    Strike,
    Tick,
    Told,
)
from scenario.files.verdict import (
    ERROR,
    INCONCLUSIVE,
    INVARIANT,
    OBJECTIVE,
    PASS,
    Figures,
    judge,
)
from scenario.files.view import ClusterView, NodeNow, RegionNow, VolumeNow
from scenario.files.world import SIM, cannot, require
from sim.random import SimRandom

NODES = tuple(NodeNow(number) for number in range(4))
WELL = ClusterView(NODES, (VolumeNow("vol0", (RegionNow(0, (1,)), RegionNow(2, (3,)))),), 1)


def down(*nodes: int, view: ClusterView = WELL) -> ClusterView:
    """The catalog calls these nodes down."""
    marked = tuple(replace(node, up=node.number not in nodes) for node in view.nodes)
    return replace(view, nodes=marked)


def scenario(*steps: str, **more: str) -> Scenario:
    head = "scenario: x\nabout: y\ncluster: {nodes: 4}\nlasts: 10s\n"
    head += "".join(f"{key}: {value}\n" for key, value in more.items())
    lines = "".join(f"  - {{{step}}}\n" for step in steps)
    return scenario_of(head + ("timeline:\n" + lines if steps else ""), source="x")


@dataclass(slots=True)
class Run:
    """A world of hands: time goes in steps of 100 ms, faults do what the test says."""

    scenario: Scenario
    silent: tuple[str, ...] = ()  # stations that nothing is seen of
    runner: Runner = field(init=False)
    view: ClusterView = WELL
    now_ms: int = 0
    did: list[tuple[int, RunnerAction]] = field(default_factory=list)
    operations: int = 0

    def __post_init__(self) -> None:
        self.runner = Runner(self.scenario, SimRandom(1))

    def until(self, at_ms: int) -> Run:
        while self.now_ms <= at_ms and not self.runner.finished:
            for action in self.runner.step(Tick(self.now_ms, self.view, self.operations)):
                self.did.append((self.now_ms, action))
                if isinstance(action, Strike):
                    self.report(action.number, "applied", "observed")
                    if not action.step.standing:
                        self.report(action.number, "healed")
                elif isinstance(action, Heal):
                    self.report(action.number, "healed")
                elif isinstance(action, Perform):
                    self.report(action.number, "done")
            self.now_ms += 100
        return self

    def report(self, number: int, *stations: str) -> None:
        for station in stations:
            if station not in self.silent:
                self.runner.step(Reported(self.now_ms, number, station, "seen"))

    def strikes(self) -> list[tuple[int, str]]:
        return [(ms, each.step.do) for ms, each in self.did if isinstance(each, Strike)]

    def judged(self, expect: Expect | None = None, **figures: Any) -> int:
        figures.setdefault("operations", 1)
        return judge(expect or Expect(), self.runner, Figures(**figures)).code


KILL = "do: kill, target: n2, for: 1s"


def test_step_strikes_at_its_time_and_heals_after_its_time_to_live() -> None:
    run = Run(scenario(f"at: 2s, {KILL}")).until(20_000)
    assert run.strikes() == [(2000, "kill")]
    assert [ms for ms, each in run.did if isinstance(each, Heal)] == [3000]
    assert run.runner.receipts[0].at_ms == {
        "requested": 2000, "applied": 2000, "observed": 2000, "healed": 3000,
    }  # fmt: skip


def test_step_repeats_as_often_as_it_says() -> None:
    run = Run(scenario(f"at: 1s, every: 2s, repeat: 3, {KILL}")).until(20_000)
    assert [ms for ms, _ in run.strikes()] == [1000, 3000, 5000]


def test_step_repeats_to_the_end_when_it_does_not_say_how_often() -> None:
    run = Run(scenario(f"every: 3s, {KILL}")).until(20_000)
    assert [ms for ms, _ in run.strikes()] == [3000, 6000, 9000]


def test_step_follows_another() -> None:
    run = Run(
        scenario(
            f"name: a, at: 1s, {KILL}",
            "after: a healed, wait: 500ms, do: pause, target: n1, for: 1s",
            "after: a struck, do: flap, from: n0, to: n1",
        )
    ).until(20_000)
    assert run.strikes() == [(1000, "kill"), (1100, "flap"), (2500, "pause")]


def test_step_follows_the_nth_event_of_the_cluster_and_no_other() -> None:
    run = Run(scenario(f"after: node down, nth: 2, {KILL}"))
    for at_ms, gone in ((500, ()), (1000, (3,)), (2000, ()), (3000, (1,)), (4000, (1, 0))):
        run.view = down(*gone)
        run.until(at_ms)
    assert [ms for ms, _ in run.strikes()] == [2100]


def test_step_whose_trigger_came_late_is_waited_for() -> None:
    late = scenario(
        f"name: a, at: 9s, {KILL}",
        "after: a healed, wait: 5s, do: pause, target: n1, for: 1s",
        "every: 4s, do: flap, from: n0, to: n1",
    )
    run = Run(late).until(30_000)
    assert run.strikes()[-2:] == [(9000, "kill"), (15_000, "pause")]


def test_step_waits_until_its_condition_holds() -> None:
    run = Run(scenario(f"when: 500 operations, {KILL}", "when: not redundant, do: rebalance"))
    run.until(1000)
    assert run.did == []
    run.operations, run.view = 500, down(3)
    run.until(1500)
    assert [type(each) for _, each in run.did] == [Strike, Perform]


def test_condition_that_goes_on_to_hold_strikes_once() -> None:
    run = Run(scenario(f"when: redundant, {KILL}")).until(20_000)
    assert len(run.strikes()) == 1


def test_calm_waits_for_faults_that_stand() -> None:
    run = Run(scenario(f"at: 0s, {KILL}", "when: calm, do: pause, target: n1, for: 1s"))
    assert run.until(20_000).strikes() == [(0, "kill"), (1100, "pause")]


def test_target_is_who_it_is_when_the_fault_strikes() -> None:
    run = Run(scenario("at: 2s, do: kill, target: owner of vol0 region 0, for: 1s")).until(1000)
    moved = VolumeNow("vol0", (RegionNow(3, (1,)), RegionNow(2, (3,))))
    run.view = replace(WELL, volumes=(moved,))
    run.until(20_000)
    assert run.runner.receipts[0].places.nodes == (3,)


def test_step_whose_target_is_nobody_makes_the_run_inconclusive() -> None:
    run = Run(scenario("at: 2s, do: kill, target: joiner of vol0 region 0, for: 1s")).until(20_000)
    assert run.strikes() == []
    assert run.judged() == INCONCLUSIVE


def test_partition_of_drawn_groups_has_everybody_once() -> None:
    run = Run(
        scenario(
            "at: 1s, do: partition, groups: [1 random nodes, 2 random nodes, the rest], for: 1s"
        )
    ).until(2000)
    (strike,) = (each for _, each in run.did if isinstance(each, Strike))
    assert sorted(node for group in strike.groups for node in group) == [0, 1, 2, 3]


def test_target_of_another_step_is_whom_that_hit() -> None:
    run = Run(
        scenario(
            "name: a, at: 1s, do: pause, target: a random node, for: 1s",
            "after: a healed, do: kill, target: the target of a, for: 1s",
        )
    ).until(20_000)
    first, second = run.runner.receipts
    assert first.places.nodes == second.places.nodes


def test_load_stops_once_nothing_stands_and_the_run_ends_when_all_is_redundant() -> None:
    run = Run(scenario("at: 9s, do: kill, target: n2, for: 3s")).until(11_900)
    assert not any(isinstance(each, StopLoad) for _, each in run.did)
    run.view = down(3)
    run.until(15_000)
    assert not run.runner.finished
    run.view = WELL
    run.until(20_000)
    assert [type(each) for _, each in run.did][-2:] == [StopLoad, Finish]
    assert run.runner.redundant_ms == 15_100 - 12_000


@pytest.mark.parametrize("station", ["applied", "observed", "healed"])
def test_fault_without_a_receipt_makes_the_run_inconclusive_never_green(station: str) -> None:
    run = Run(scenario(f"at: 2s, {KILL}"), silent=(station,)).until(200_000)
    assert run.runner.finished
    verdict = judge(Expect(), run.runner, Figures(operations=1))
    assert verdict.code == INCONCLUSIVE
    assert f"was not {station}: nothing shows that it was {station}" in verdict.reason


def test_step_that_never_ran_makes_the_run_inconclusive() -> None:
    run = Run(scenario(f"after: leader changed, {KILL}")).until(200_000)
    assert run.judged() == INCONCLUSIVE


def test_fault_that_the_world_did_not_cause_makes_the_run_inconclusive() -> None:
    run = Run(scenario(f"at: 2s, {KILL}"), silent=("applied", "observed", "healed")).until(2000)
    run.runner.step(Failed(2000, 0, "the budget"))
    assert not run.runner.receipts[0].open
    assert run.until(200_000).judged() == INCONCLUSIVE


def test_abort_undoes_what_stands_the_latest_first() -> None:
    run = Run(
        scenario("at: 1s, do: kill, target: n2, for: 9s", "at: 2s, do: pause, target: n1, for: 9s")
    )
    run.until(3000)
    actions = run.runner.step(Abort(3000, "interrupted"))
    assert actions == [Heal(1), Heal(0), Finish()]
    assert run.judged() == INCONCLUSIVE


def test_worst_decides() -> None:
    run = Run(scenario(f"at: 2s, {KILL}")).until(20_000)
    missed = Expect(operations_min=10)
    assert run.judged() == PASS
    assert run.judged(missed) == OBJECTIVE
    assert run.judged(missed, broken="I1: lost") == INVARIANT
    assert run.judged(missed, broken="I1: lost", failed="no disk") == ERROR


@pytest.mark.parametrize(
    ("expect", "figures", "held"),
    [
        ({"longest_stall": "2s"}, {"longest_stall_ms": 2000}, True),
        ({"longest_stall": "2s"}, {"longest_stall_ms": 2001}, False),
        ({"refused_max": 0}, {"refused": 1}, False),
        ({"unknown_max": 1}, {"unknown": 1}, True),
        ({"redundant_within": "1s"}, {}, True),
        ({"seen": ["node down"]}, {}, False),
        ({"seen": ["page repaired"]}, {}, True),
        ({"unseen": ["page repaired"]}, {}, False),
        ({"owner_moves_max": 0}, {}, True),
        ({"operations_min": 5}, {"operations": 4}, False),
    ],
)
def test_objective_is_held_or_missed(
    expect: dict[str, Any], figures: dict[str, Any], held: bool
) -> None:
    run = Run(scenario()).until(5000)
    run.runner.step(Told(5000, "page repaired"))
    run.until(20_000)
    assert run.judged(Expect(**expect), **figures) == (PASS if held else OBJECTIVE)


def test_failover_is_told_in_milliseconds_after_the_loss() -> None:
    run = Run(scenario("at: 1s, do: kill, target: n0, for: 5s")).until(1400)
    moved = replace(WELL, volumes=(VolumeNow("vol0", (RegionNow(1), RegionNow(2, (3,)))),))
    run.view = down(0, view=moved)
    run.until(2900)
    run.view = down(0)
    run.view = replace(
        run.view, volumes=(VolumeNow("vol0", (RegionNow(1, (3,)), RegionNow(2, (3,)))),)
    )
    run.until(4000)
    (found,) = failovers(run.runner.receipts, run.runner.log)
    assert (found.detected_ms, found.taken_over_ms, found.redundant_ms) == (500, 500, 2000)
    assert (found.nodes, found.moved) == ((0,), 1)


def test_world_refuses_what_it_cannot_do_before_the_start_and_names_those_that_can() -> None:
    least = replace(SIM, name="least", verbs=frozenset(["pause"]), events=frozenset())
    asked = scenario(f"name: a, at: 1s, {KILL}", expect="{seen: [page repaired]}")
    first, second = cannot(asked, least)
    assert first == "x: a: kill cannot be done on least; it can on sim, processes, compose"
    assert "least cannot tell of 'page repaired'; sim can" in second
    with pytest.raises(InvalidRequest, match=r"it can on sim"):
        require(asked, least)
    assert cannot(asked, SIM) == []
