from hypothesis import given, settings
from hypothesis import strategies as st

from transport.permits import Permits


def test_claims_are_refused_beyond_the_number_of_requests() -> None:
    permits = Permits(2, 1000)
    assert [permits.try_claim(1) for _ in range(3)] == [True, True, False]


def test_claims_are_refused_beyond_the_bytes() -> None:
    permits = Permits(10, 1000)
    assert [permits.try_claim(n) for n in (600, 400, 1)] == [True, True, False]


def test_a_claim_larger_than_everything_is_granted_alone() -> None:
    permits = Permits(10, 1000)
    assert permits.try_claim(5000)
    assert not permits.try_claim(0)
    permits.release(5000)
    assert permits.try_claim(1)
    assert not permits.try_claim(5000)


def test_waiters_are_granted_in_order_even_when_a_later_one_would_fit() -> None:
    permits = Permits(10, 100)
    granted: list[str] = []
    assert permits.try_claim(60)
    assert permits.try_claim(30)
    permits.wait(80, lambda: granted.append("large"))
    permits.wait(5, lambda: granted.append("small"))
    permits.release(30)
    assert granted == []
    permits.release(60)
    assert granted == ["large", "small"]


def test_nobody_overtakes_those_who_wait() -> None:
    permits = Permits(10, 100)
    permits.try_claim(90)
    permits.wait(80, lambda: None)
    assert not permits.try_claim(1)


def test_a_forgotten_waiter_is_not_called_and_lets_others_through() -> None:
    permits = Permits(10, 100)
    granted: list[str] = []
    permits.try_claim(90)
    ticket = permits.wait(80, lambda: granted.append("forgotten"))
    permits.wait(5, lambda: granted.append("other"))
    assert permits.forget(ticket)
    assert not permits.forget(ticket)
    assert granted == ["other"]


def test_the_number_of_waiters_is_bounded() -> None:
    permits = Permits(1, 100, waiting_max=1)
    permits.try_claim(1)
    assert permits.wait(1, lambda: None) > 0
    assert permits.wait(1, lambda: None) == 0


def test_a_waiter_that_releases_in_its_callback_grants_the_next() -> None:
    permits = Permits(1, 100)
    granted: list[int] = []

    def grant(number: int) -> None:
        granted.append(number)
        permits.release(1)

    permits.try_claim(1)
    for number in range(500):
        permits.wait(1, lambda number=number: grant(number))
    permits.release(1)
    assert granted == list(range(500))


def test_peaks_are_kept() -> None:
    permits = Permits(2, 100)
    permits.try_claim(40)
    permits.try_claim(50)
    permits.wait(10, lambda: None)
    permits.release(40)
    permits.release(50)
    permits.release(10)
    found = permits.statistics()
    assert (found.requests, found.bytes, found.waiting) == (0, 0, 0)
    assert (found.requests_peak, found.bytes_peak, found.waiting_peak) == (2, 90, 1)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 120)), max_size=60))
def test_bounds_hold_and_everyone_is_served_in_order(steps: list[tuple[bool, int]]) -> None:
    permits = Permits(3, 100)
    held: list[int] = []
    asked: list[int] = []
    granted: list[int] = []
    for is_claim, size in steps:
        if is_claim:
            if permits.try_claim(size):
                held.append(size)
            else:
                number = len(asked)
                asked.append(number)

                def grant(number: int = number, size: int = size) -> None:
                    granted.append(number)
                    held.append(size)

                permits.wait(size, grant)
        elif held:
            permits.release(held.pop(0))
        assert len(held) <= 3
        assert sum(held) <= 100 or len(held) == 1
    while held:
        permits.release(held.pop(0))
    assert granted == asked
