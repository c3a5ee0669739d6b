"""Own random numbers: right, unbiased, the same everywhere, one stream per purpose."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sim.random import SeedStreams, SimRandom


def test_the_generator_is_pcg64() -> None:
    ours = SimRandom(12345)
    state, increment = ours.getstate()
    theirs = np.random.PCG64()
    full = theirs.state
    full["state"] = {"state": state, "inc": increment}
    theirs.state = full
    assert [ours.next64() for _ in range(100)] == [int(word) for word in theirs.random_raw(100)]


def test_what_is_drawn_ahead_is_what_one_step_at_a_time_gives() -> None:
    ahead, steps = SimRandom(1 << 200 | 77), SimRandom(1 << 200 | 77)
    assert [ahead.next64() for _ in range(1000)] == [steps._step() for _ in range(1000)]


def test_a_stream_goes_on_from_where_it_was_amid_what_it_has_drawn_ahead() -> None:
    rng = SimRandom(9)
    for _ in range(300):
        kept = rng.getstate()
        after = [rng.next64() for _ in range(3)]
        rng.setstate(kept)
        assert [rng.next64() for _ in range(3)] == after


def test_the_draws_of_a_seed_never_change() -> None:
    rng = SeedStreams(1).stream("disk")
    drawn = [rng.next64(), rng.below(1000), rng.exponential(10**6), rng.randbytes(5).hex()]
    assert drawn == [699728771108311651, 688, 696322, "7d96cb7251"]


def test_streams_of_different_purposes_differ_and_do_not_move_each_other() -> None:
    streams = SeedStreams(7)
    alone = [streams.stream("disk").next64() for _ in range(2)]
    net = streams.stream("net")
    for _ in range(10):
        net.next64()
    assert alone == [streams.stream("disk").next64()] * 2
    assert streams.stream("net").next64() != alone[0]


def test_children_and_seeds_give_different_streams() -> None:
    words = {
        SeedStreams(1).stream("a").next64(),
        SeedStreams(2).stream("a").next64(),
        SeedStreams(1).child("n0").stream("a").next64(),
        SeedStreams(1).child("n1").stream("a").next64(),
    }
    assert len(words) == 4


def test_below_is_even() -> None:
    rng = SimRandom(3)
    counts = Counter(rng.below(6) for _ in range(60_000))
    assert sorted(counts) == list(range(6))
    assert max(abs(count - 10_000) for count in counts.values()) < 500


def test_below_reaches_beyond_64_bits() -> None:
    rng = SimRandom(4)
    bound = 3 << 70
    drawn = [rng.below(bound) for _ in range(200)]
    assert all(0 <= draw < bound for draw in drawn)
    assert max(drawn) > 2 << 70


def test_exponential_delays_have_their_mean_and_spread() -> None:
    rng = SimRandom(5)
    drawn = [rng.exponential(1_000_000) for _ in range(20_000)]
    assert abs(sum(drawn) / len(drawn) - 1_000_000) < 30_000
    above = sum(draw > 1_000_000 for draw in drawn) / len(drawn)
    assert abs(above - 0.3679) < 0.015
    assert max(drawn) > 6_000_000


def test_shuffle_and_sample_keep_every_element_once() -> None:
    rng = SimRandom(6)
    deck = list(range(50))
    rng.shuffle(deck)
    assert deck != list(range(50))
    assert sorted(deck) == list(range(50))
    assert sorted(rng.sample(range(50), 50)) == list(range(50))


def test_weights_of_zero_are_never_drawn() -> None:
    rng = SimRandom(7)
    assert {rng.weighted((0, 3, 0, 1)) for _ in range(200)} == {1, 3}


def test_ranges_are_kept() -> None:
    rng = SimRandom(8)
    assert {rng.randint(-1, 1) for _ in range(100)} == {-1, 0, 1}
    assert {rng.randrange(10, 20, 5) for _ in range(100)} == {10, 15}
    assert all(0 <= rng.random() < 1 for _ in range(100))
    assert rng.getrandbits(0) == 0
    assert all(rng.getrandbits(65) < 1 << 65 for _ in range(100))


def test_a_state_can_be_kept_and_put_back() -> None:
    rng = SimRandom(9)
    state = rng.getstate()
    drawn = rng.randbytes(16)
    rng.setstate(state)
    assert rng.randbytes(16) == drawn


@pytest.mark.parametrize("seed", [None, "text", -1, 1.5])
def test_only_integers_are_seeds(seed: object) -> None:
    with pytest.raises(TypeError, match="integer"):
        SimRandom(seed)  # type: ignore[arg-type]


def test_nothing_is_below_nothing() -> None:
    rng = SimRandom(1)
    with pytest.raises(ValueError, match="empty range"):
        rng.below(0)
    with pytest.raises(IndexError):
        rng.choice([])
