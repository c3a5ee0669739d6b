from __future__ import annotations

from typing import Any

import pytest

from base.errors import NoQuorum, Overloaded, RequestTimeout, StorageError
from base.units import NS_PER_S
from host.export import HostRequest, RequestKind
from host.router import RETRY_NS, Piece, Router, merge_runs, pack_runs
from transport import operation as op
from transport.messages import HostBatch, HostReplies, SyncReply, SyncRequest

NOBODY = 255
REGION = 4 << 20
TIMEOUT = 10 * NS_PER_S


class FakeWays:
    """Owners by region; what was sent, by peer. `broken`: peers without a link."""

    def __init__(self) -> None:
        self.owners: dict[int, int] = {}
        self.up: tuple[int, ...] = (1, 2)
        self.sent: list[tuple[int, object]] = []
        self.here: list[Piece] = []
        self.broken: set[int] = set()

    def owner_of(self, volume: int, region: int) -> int:
        return self.owners.get(region, 1)

    def up_nodes(self) -> tuple[int, ...]:
        return self.up

    def send(self, peer: int, message: object) -> bool:
        if peer in self.broken:
            return False
        self.sent.append((peer, message))
        return True

    def local(self, piece: Piece) -> None:
        self.here.append(piece)

    def why(self, volume: int, region: int) -> StorageError:
        return NoQuorum(f"region {region} has no owner")


class World:
    """The router of client 9 on node n0, and what its requests were answered."""

    def __init__(self, self_id: int = 0) -> None:
        self.ways = FakeWays()
        self.router = Router(
            client=9, self_id=self_id, ways=self.ways, timeout_ns=TIMEOUT, local_sync=None
        )
        self.answers: list[tuple[StorageError | None, Any]] = []

    def submit(
        self, kind: RequestKind, offset: int = 0, length: int = 4096, now_ns: int = 0
    ) -> None:
        data = b"x" * length if kind is RequestKind.WRITE else b""

        def reply(_request: HostRequest, error: StorageError | None, result: Any) -> None:
            self.answers.append((error, result))

        request = HostRequest(kind, offset, length, reply, data)
        self.router.submit(1, REGION, request, now_ns)
        self.router.flush_out(now_ns)

    def write(self, offset: int = 0, length: int = 4096, now_ns: int = 0) -> None:
        self.submit(RequestKind.WRITE, offset, length, now_ns)

    def reply(
        self, peer: int, number: int, outcome: int = op.OK, data: bytes = b"", client: int = 9
    ) -> None:
        packed = op.pack_reply(client, number, outcome, 0, 0, len(data)) + data
        self.router.replies(peer, HostReplies(1, packed), 0)

    def operations(self) -> list[tuple[int, int, int, int]]:
        """(peer, number, region, low) of every operation that was sent."""
        found = []
        for peer, message in self.ways.sent:
            if isinstance(message, HostBatch):
                view = memoryview(b"".join(message.data))
                at = 0
                for _ in range(message.count):
                    record, at = op.unpack_request(view, at)
                    found.append((peer, record.number, record.region, record.low))
        return found

    @property
    def errors(self) -> list[str]:
        return ["ok" if error is None else type(error).__name__ for error, _ in self.answers]


def test_a_request_goes_to_the_owner_of_its_region() -> None:
    world = World()
    world.ways.owners[1] = 5
    world.write(REGION)
    assert world.operations() == [(5, 1, 1, 1)]


def test_a_request_for_a_region_of_this_node_is_served_here() -> None:
    world = World(self_id=1)
    world.write()
    assert [piece.record.number for piece in world.ways.here] == [1]
    assert world.operations() == []


def test_a_request_is_cut_at_the_edge_of_a_region() -> None:
    world = World()
    world.write(REGION - 4096, 8192)
    assert [region for _, _, region, _ in world.operations()] == [0, 1]


def test_a_request_is_cut_at_the_largest_operation() -> None:
    world = World()
    world.write(0, 2 * op.OPERATION_BYTES_MAX)
    assert len(world.operations()) == 2


def test_a_cut_request_is_answered_when_its_last_piece_is() -> None:
    world = World()
    world.write(REGION - 4096, 8192)
    world.reply(1, 2)
    assert world.answers == []
    world.reply(1, 1)
    assert world.errors == ["ok"]


def test_the_pieces_of_a_read_are_put_together_in_order() -> None:
    world = World()
    world.submit(RequestKind.READ, REGION - 4096, 8192)
    world.reply(1, 2, data=b"b" * 4096)
    world.reply(1, 1, data=b"a" * 4096)
    assert b"".join(world.answers[0][1]) == b"a" * 4096 + b"b" * 4096


def test_one_failed_piece_fails_the_request() -> None:
    world = World()
    world.write(REGION - 4096, 8192)
    world.reply(1, 1, op.ERROR_DEFINITE, b"no_space\nno room")
    world.reply(1, 2)
    assert world.errors == ["NoSpace"]


def test_a_refused_piece_is_sent_again_under_the_same_number() -> None:
    world = World()
    world.write()
    world.reply(1, 1, op.NOT_OWNER)
    world.ways.owners[0] = 2
    world.router.tick(RETRY_NS)
    world.router.flush_out(RETRY_NS)
    assert [(peer, number) for peer, number, _, _ in world.operations()] == [(1, 1), (2, 1)]


def test_a_piece_whose_region_moved_is_sent_again_under_the_same_number() -> None:
    world = World()
    world.write()
    world.reply(1, 1, op.MOVED)
    world.router.topology_changed(5)
    world.router.flush_out(5)
    assert [number for _, number, _, _ in world.operations()] == [1, 1]


def test_a_piece_whose_link_broke_is_sent_again() -> None:
    world = World()
    world.write()
    world.router.link_changed(1, 0, 0)
    world.router.tick(RETRY_NS)
    world.router.flush_out(RETRY_NS)
    assert [number for _, number, _, _ in world.operations()] == [1, 1]


def test_a_piece_at_an_owner_that_lost_the_region_goes_to_the_next_without_its_answer() -> None:
    world = World()
    world.write()
    world.ways.owners[0] = 2
    world.router.topology_changed(5)
    world.router.flush_out(5)
    assert [peer for peer, _, _, _ in world.operations()] == [1, 2]
    world.reply(2, 1)
    assert world.errors == ["ok"]


def test_a_change_of_other_owners_sends_nothing_again() -> None:
    world = World()
    world.write()
    world.ways.owners[7] = 2
    world.router.topology_changed(5)
    world.router.flush_out(5)
    assert len(world.operations()) == 1


def test_an_answer_of_a_node_that_was_not_asked_last_counts_for_nothing() -> None:
    world = World()
    world.write()
    world.reply(4, 1)
    assert world.answers == []


def test_an_answer_for_another_client_counts_for_nothing() -> None:
    world = World()
    world.write()
    world.reply(1, 1, client=8)
    assert world.answers == []


def test_a_second_answer_counts_for_nothing() -> None:
    world = World()
    world.write()
    world.reply(1, 1)
    world.reply(1, 1)
    assert world.errors == ["ok"]


def test_without_an_owner_a_piece_waits() -> None:
    world = World()
    world.ways.owners[0] = NOBODY
    world.write()
    assert world.operations() == []
    world.ways.owners[0] = 2
    world.router.topology_changed(5)
    world.router.flush_out(5)
    assert [peer for peer, _, _, _ in world.operations()] == [2]


def test_a_piece_that_the_bus_did_not_take_waits() -> None:
    world = World()
    world.ways.broken.add(1)
    world.write()
    world.ways.broken.clear()
    world.router.tick(RETRY_NS)
    world.router.flush_out(RETRY_NS)
    assert len(world.operations()) == 1


@pytest.mark.parametrize(
    ("kind", "sent", "error"),
    [
        (RequestKind.WRITE, True, "RequestTimeout"),
        (RequestKind.WRITE, False, "NoQuorum"),
        (RequestKind.READ, True, "NoQuorum"),
    ],
)
def test_at_the_deadline_the_error_says_whether_it_may_have_happened(
    kind: RequestKind, sent: bool, error: str
) -> None:
    world = World()
    world.ways.owners[0] = 1 if sent else NOBODY
    world.submit(kind)
    world.router.tick(TIMEOUT - 1)
    assert world.answers == []
    world.router.tick(TIMEOUT)
    assert world.errors == [error]


def test_every_operation_says_below_which_number_all_is_answered() -> None:
    world = World()
    for _ in range(3):
        world.write()
    world.reply(1, 2)
    world.write()
    world.reply(1, 1)
    world.write()
    assert [low for _, _, _, low in world.operations()] == [1, 1, 1, 1, 3]


def test_an_operation_that_was_given_up_counts_as_over() -> None:
    world = World()
    world.write()
    world.router.tick(TIMEOUT)
    world.write(now_ns=TIMEOUT)
    assert world.operations()[-1][3] == 2


def test_a_flush_asks_every_node_that_is_up() -> None:
    world = World()
    world.submit(RequestKind.FLUSH, 0, 0)
    assert [(peer, type(message)) for peer, message in world.ways.sent] == [
        (1, SyncRequest),
        (2, SyncRequest),
    ]


def test_a_flush_is_answered_when_the_last_node_has_synced() -> None:
    world = World()
    world.submit(RequestKind.FLUSH, 0, 0)
    world.router.sync_reply(1, SyncReply(1))
    assert world.answers == []
    world.router.sync_reply(2, SyncReply(1))
    assert world.errors == ["ok"]


def test_a_flush_does_not_wait_for_a_node_that_is_down() -> None:
    world = World()
    world.submit(RequestKind.FLUSH, 0, 0)
    world.router.sync_reply(1, SyncReply(1))
    world.ways.up = (1,)
    world.router.topology_changed(5)
    assert world.errors == ["ok"]


def test_a_flush_is_asked_again_over_a_new_link() -> None:
    world = World()
    world.submit(RequestKind.FLUSH, 0, 0)
    world.ways.sent.clear()
    world.router.link_changed(2, 7, 0)
    assert world.ways.sent == [(2, SyncRequest(1))]


def test_a_flush_that_a_node_does_not_answer_fails_with_its_name() -> None:
    world = World()
    world.submit(RequestKind.FLUSH, 0, 0)
    world.router.sync_reply(1, SyncReply(1))
    world.router.tick(TIMEOUT)
    error = world.answers[0][0]
    assert isinstance(error, RequestTimeout)
    assert "n2" in str(error)


def test_a_flush_without_any_node_fails() -> None:
    world = World()
    world.ways.up = ()
    world.submit(RequestKind.FLUSH, 0, 0)
    assert isinstance(world.answers[0][0], Overloaded)


def test_a_write_that_was_never_sent_fails_definitely_when_the_router_is_closed() -> None:
    world = World()
    world.ways.owners[0] = NOBODY
    world.write()
    world.router.close()
    assert world.errors == ["Stopping"]


def test_a_router_that_is_closed_fails_what_is_left_and_what_comes() -> None:
    world = World()
    world.write()
    world.submit(RequestKind.FLUSH, 0, 0)
    world.router.close()
    world.write()
    assert world.errors == ["RequestTimeout", "Stopping", "Stopping"]


def test_runs_of_equal_status_are_merged_over_pieces() -> None:
    assert merge_runs([(1, 0), (2, 0), (3, 1), (4, 0)]) == [(3, 0), (3, 1), (4, 0)]


def test_a_status_reply_carries_holes_and_data() -> None:
    world = World()
    world.submit(RequestKind.STATUS, 0, 8192)
    world.reply(1, 1, data=pack_runs([(4096, True), (4096, False)]))
    assert world.answers == [(None, [(4096, 0), (4096, 3)])]
