"""The heap and the links of level 1: order, sessions, cuts, and the hash over all of it."""

from __future__ import annotations

import zlib

from sim.kernel_network import KernelNetwork


class End:
    """One end of links: what it was told."""

    def __init__(self) -> None:
        self.alive = True
        self.life = 1
        self.heard: list[object] = []

    def deliver(self, life: int, sender: int, message: object) -> None:
        self.heard.append(message)

    def deliver_link(self, life: int, peer: int, session: int) -> None:
        pass


def network() -> tuple[KernelNetwork, End]:
    made = KernelNetwork(1, delay_ns=150_000, delay_tail_ns=2_000_000, keep_trace=False)
    made.endpoints = {0: End(), 1: End()}
    made.connect(0, 1)
    return made, made.endpoints[1]


def test_the_hash_is_that_of_each_event_and_note_in_its_turn() -> None:
    """Whole batches are hashed at once: of any length, and with notes anywhere between."""
    net = KernelNetwork(1, delay_ns=1, delay_tail_ns=1, keep_trace=False)
    expected, number = 0, 0

    def told(text: str) -> None:
        net.note(0, text, 0)

    for burst in (1, 2, 15, 16, 17, 1023, 1024, 1025, 5000):
        began_ns = net.now_ns
        for at in range(burst):
            number += 1
            when_ns, noted = began_ns + at * 7, at == burst // 2
            net.at(when_ns, *((told, "noted") if noted else (int,)))
            expected = (expected * 0x100000001B3 + when_ns) & (1 << 64) - 1
            if noted:
                crc = zlib.crc32(f"{when_ns} 0 noted 0".encode())
                expected = (expected * 0x100000001B3 + crc) & (1 << 64) - 1
        net.run_until(began_ns + burst * 7)
        assert (net.events, net.trace_hash) == (number, expected)


def test_messages_of_a_session_arrive_in_order() -> None:
    net, end = network()
    for number in range(200):
        net.send(0, 1, number)
    net.run_until(net.now_ns + 50_000_000)
    assert end.heard == list(range(200))


def test_what_is_on_its_way_when_a_session_ends_is_lost() -> None:
    net, end = network()
    net.send(0, 1, "old")
    net.disconnect(0, 1)
    net.connect(0, 1)
    net.send(0, 1, "new")
    net.run_until(net.now_ns + 50_000_000)
    assert end.heard == ["new"]
    assert "a message of an old session was dropped" in net.goals


def test_a_cut_of_one_way_leaves_the_other() -> None:
    net, end = network()
    net.cut(0, 1, one_way=True, heard=False)
    net.send(0, 1, "lost")
    net.send(1, 0, "heard")
    net.run_until(net.now_ns + 50_000_000)
    assert (end.heard, net.endpoints[0].heard) == ([], ["heard"])
    assert not net.reachable(1, 0)


def test_nothing_is_delivered_to_who_is_not_alive() -> None:
    net, end = network()
    net.send(0, 1, "late")
    end.alive = False
    net.run_until(net.now_ns + 50_000_000)
    assert end.heard == []
