from __future__ import annotations

from base.errors import StorageError
from base.units import NS_PER_S
from host.export import HostRequest, RequestKind
from host.router import Router
from tests.host.test_router import REGION, FakeWays
from transport import operation as op
from transport.messages import HostBatch, HostReplies


class World:
    """A router that may have two requests or 8 KiB on their way to one owner."""

    def __init__(self) -> None:
        self.ways = FakeWays()
        self.router = Router(
            client=9, self_id=0, ways=self.ways, timeout_ns=NS_PER_S, local_sync=None,
            requests_max=2, bytes_max=8192,
        )  # fmt: skip
        self.answers: list[StorageError | None] = []

    def write(self, offset: int, length: int = 512) -> None:
        request = HostRequest(
            RequestKind.WRITE, offset, length, lambda _r, error, _x: self.answers.append(error),
            bytes(length),
        )  # fmt: skip
        self.router.submit(1, REGION, request, 0)
        self.router.flush_out(0)

    def ended(self, number: int, peer: int = 1) -> None:
        self.router.replies(peer, HostReplies(1, op.pack_reply(9, number, op.OK, 0, 0, 0)), 0)
        self.router.flush_out(0)

    def on_their_way(self) -> list[int]:
        return [message.count for _, message in self.ways.sent if isinstance(message, HostBatch)]


def test_a_request_beyond_the_permits_of_its_owner_waits_here() -> None:
    world = World()
    for at in range(3):
        world.write(at * 512)
    assert world.on_their_way() == [1, 1]


def test_an_answer_lets_the_next_request_go() -> None:
    world = World()
    for at in range(3):
        world.write(at * 512)
    world.ended(1)
    assert world.on_their_way() == [1, 1, 1]
    world.ended(2)
    world.ended(3)
    assert world.answers == [None, None, None]


def test_bytes_count_as_well_as_requests() -> None:
    world = World()
    world.write(0, 8192)
    world.write(8192, 512)
    assert world.on_their_way() == [1]
    world.ended(1)
    assert world.on_their_way() == [1, 1]


def test_the_permits_of_one_owner_do_not_hold_back_another() -> None:
    world = World()
    world.ways.owners = {1: 2}
    for at in range(3):
        world.write(at * 512)
    world.write(REGION)
    assert [peer for peer, _ in world.ways.sent] == [1, 1, 2]


def test_a_lost_link_frees_the_permits_that_were_held_over_it() -> None:
    world = World()
    for at in range(3):
        world.write(at * 512)
    world.ways.owners, world.ways.broken = {0: 2}, {1}
    world.router.link_changed(1, 0, 0)
    world.router.topology_changed(0)
    world.router.flush_out(0)
    world.router.tick(NS_PER_S // 2)
    world.router.flush_out(NS_PER_S // 2)
    for number in (1, 2, 3):
        world.ended(number, peer=2)
    assert world.answers == [None, None, None]
