"""When a state transfer is begun again."""

from types import SimpleNamespace
from typing import Any

import pytest

from base.units import NS_PER_S
from node.joins import TRANSFER_RETRY_NS, Joins
from node.roles import OWNER, TRANSFER_COPYING


class Copy:
    """A region whose pages are on their way to n3. It has no more than that: a session that began
    again would want to know more, and fail."""

    role = OWNER
    joiner = 3
    transfer = TRANSFER_COPYING
    admitting = admission_out = False
    serving = True


def joins_of(copy: Any, since_ns: int) -> Joins:
    core: Any = SimpleNamespace(settings=SimpleNamespace(joins_max=1))
    joins = Joins(core, 0)
    joins.wanted = False
    joins.running[copy] = since_ns
    return joins


def test_a_session_that_does_not_get_on_is_begun_again() -> None:
    joins = joins_of(Copy(), 0)
    joins.drive(TRANSFER_RETRY_NS - 1)
    with pytest.raises(AttributeError):
        joins.drive(TRANSFER_RETRY_NS)


def test_a_session_that_waits_for_its_rate_is_not_begun_again() -> None:
    """Below two batches a second, none would ever have ended."""
    copy: Any = Copy()
    joins = joins_of(copy, 0)
    joins.waits_until(copy, 10 * NS_PER_S)
    joins.drive(10 * NS_PER_S + TRANSFER_RETRY_NS - 1)
    with pytest.raises(AttributeError):
        joins.drive(10 * NS_PER_S + TRANSFER_RETRY_NS)
