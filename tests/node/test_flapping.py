from __future__ import annotations

from base.units import NS_PER_S
from node.flapping import APART_NS, Flapping, FlapPolicy

MINUTE = 60 * NS_PER_S
POLICY = FlapPolicy(flaps_max=3, window_ns=10 * MINUTE, hold_ns=MINUTE, hold_max_ns=8 * MINUTE)


def lose(flapping: Flapping, times: int, first_ns: int = 0, every_ns: int = 10 * NS_PER_S) -> int:
    """It goes down and up so often; when it came back last."""
    now_ns = first_ns
    for _ in range(times):
        flapping.lost(5, now_ns)
        now_ns += every_ns
        flapping.back(5, now_ns)
    return now_ns


def test_a_few_losses_damp_nobody() -> None:
    flapping = Flapping(POLICY)
    now_ns = lose(flapping, POLICY.flaps_max)
    assert flapping.damped_nodes(now_ns) == 0


def test_one_loss_too_many_damps_a_node_until_it_stayed_up() -> None:
    flapping = Flapping(POLICY)
    up_ns = lose(flapping, POLICY.flaps_max + 1)
    assert flapping.damped_nodes(up_ns + POLICY.hold_ns - 1) == 1 << 5
    assert flapping.damped_nodes(up_ns + POLICY.hold_ns) == 0


def test_each_further_loss_doubles_the_time_up_to_a_limit() -> None:
    flapping = Flapping(POLICY)
    now_ns = lose(flapping, POLICY.flaps_max + 1)
    holds = []
    for _ in range(5):
        now_ns = lose(flapping, 1, now_ns + NS_PER_S)
        holds.append(flapping.hold_left_ns(5, now_ns) // MINUTE)
    assert holds == [2, 4, 8, 8, 8]


def test_a_node_that_is_down_is_damped_for_as_long_as_it_will_have_to_wait() -> None:
    flapping = Flapping(POLICY)
    now_ns = lose(flapping, POLICY.flaps_max)
    flapping.lost(5, now_ns)
    assert flapping.hold_left_ns(5, now_ns + 100 * MINUTE) == POLICY.hold_ns


def test_losses_far_apart_count_for_nothing() -> None:
    flapping = Flapping(POLICY)
    now_ns = lose(flapping, 20, every_ns=6 * MINUTE)
    assert flapping.damped_nodes(now_ns) == 0


def test_a_full_window_without_a_loss_is_a_new_beginning() -> None:
    flapping = Flapping(POLICY)
    now_ns = lose(flapping, 8)
    now_ns = lose(flapping, POLICY.flaps_max, now_ns + 20 * MINUTE)
    assert flapping.damped_nodes(now_ns) == 0


def test_losses_that_a_node_hears_of_at_once_after_a_cut_count_once() -> None:
    flapping = Flapping(POLICY)
    now_ns = lose(flapping, 10, every_ns=APART_NS // 2 // 10)
    assert flapping.damped_nodes(now_ns) == 0


def test_a_pair_is_damped_like_a_node() -> None:
    flapping = Flapping(POLICY)
    for at in range(POLICY.flaps_max + 1):
        flapping.lost((2, 6), at * NS_PER_S)
        flapping.back((2, 6), at * NS_PER_S)
    assert flapping.damped_pairs(4 * NS_PER_S) == [(2, 6)]
    assert flapping.damped_nodes(4 * NS_PER_S) == 0


def test_damping_can_be_switched_off() -> None:
    flapping = Flapping(FlapPolicy(flaps_max=0))
    assert flapping.damped_nodes(lose(flapping, 50)) == 0


def test_whoever_flaps_for_an_hour_is_let_back_a_few_times_only() -> None:
    policy = FlapPolicy(flaps_max=3)
    flapping = Flapping(policy)
    trusted = 0
    now_ns = 0
    while now_ns < 3_600 * NS_PER_S:
        flapping.lost(5, now_ns)
        now_ns += NS_PER_S
        flapping.back(5, now_ns)
        now_ns += 9 * NS_PER_S  # it stays up for nine seconds
        trusted += not flapping.damped_nodes(now_ns)
    assert trusted == policy.flaps_max
