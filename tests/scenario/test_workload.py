"""Seeded hosts: what they send, how they repeat, and that their history convicts a bad store."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from scenario.checkers import check_history
from scenario.history import History, Kind, Outcome
from scenario.workload import (
    BadPayload,
    Host,
    HostConfig,
    HostOperation,
    OperationKind,
    Stamp,
    parse,
    payload,
)
from sim.random import SeedStreams, SimRandom

VOLUMES = ((1, 64), (2, 32))
Answer = tuple[Outcome, bytes]


class Store:
    """Volumes in memory that answer at once; `fault` may spoil an answer."""

    def __init__(self) -> None:
        self.volumes = {volume: bytearray(blocks * 4096) for volume, blocks in VOLUMES}
        self.seen: set[tuple[int, int]] = set()

    def perform(self, operation: HostOperation) -> Answer:
        contents = self.volumes[operation.volume]
        place = slice(operation.offset, operation.offset + operation.length)
        if operation.kind is OperationKind.READ:
            return Outcome.OK, bytes(contents[place])
        if (operation.host, operation.number) not in self.seen:
            self.seen.add((operation.host, operation.number))
            contents[place] = operation.data or bytes(operation.length)
        return Outcome.OK, b""


def run(
    perform: Callable[[HostOperation], Answer],
    *,
    seed: int = 1,
    operations: int = 400,
    hosts: int = 4,
    **options: int,
) -> tuple[History, list[Host], list[HostOperation]]:
    """Drive hosts by a random schedule: effects happen between sending and answering."""
    streams = SeedStreams(seed)
    rng, history = streams.stream("schedule"), History()
    config = HostConfig(volumes=VOLUMES, operations_max=operations // hosts, **options)  # type: ignore[arg-type]
    party = [Host(n, config, streams.stream(f"host/{n}"), history) for n in range(hosts)]
    sent: list[HostOperation] = []
    flying: list[HostOperation] = []
    answers: list[tuple[HostOperation, Answer]] = []
    now_ns = 0
    while not all(host.finished for host in party):
        now_ns += 1_000_000
        host = party[rng.below(hosts)]
        operation = host.next_operation(now_ns)
        if operation is not None:
            sent.append(operation)
            flying.append(operation)
        if flying and rng.chance(2, 3):
            operation = flying.pop(rng.below(len(flying)))
            answers.append((operation, perform(operation)))
        if answers and rng.chance(2, 3):
            operation, (outcome, data) = answers.pop(rng.below(len(answers)))
            party[operation.host].completed(operation, outcome, data, now_ns=now_ns)
    return history, party, sent


def test_a_payload_says_who_wrote_it_where() -> None:
    assert parse(payload(3, 9, 2, 77)) == Stamp(volume=3, block=9, writer=2, number=77)


def test_zeros_have_no_writer() -> None:
    assert parse(bytes(4096)) is None


def test_payloads_of_different_operations_differ_in_every_sector() -> None:
    one, other = payload(1, 1, 1, 1), payload(1, 1, 1, 2)
    assert all(one[at : at + 512] != other[at : at + 512] for at in range(0, 4096, 512))


def test_a_block_mixed_of_two_writes_is_no_payload() -> None:
    mixed = payload(1, 1, 1, 1)[:1024] + payload(1, 1, 2, 5)[1024:]
    with pytest.raises(BadPayload, match=r"sector 0: h1#1 .*; sector 2: h2#5"):
        parse(mixed)


def test_a_flipped_bit_is_noise() -> None:
    block = bytearray(payload(1, 1, 1, 1))
    block[700] ^= 4
    with pytest.raises(BadPayload, match="sector 1: noise"):
        parse(block)


def test_sectors_in_the_wrong_order_are_no_payload() -> None:
    block = payload(1, 1, 1, 1)
    with pytest.raises(BadPayload):
        parse(block[512:] + block[:512])


def test_a_right_store_is_acquitted() -> None:
    store = Store()
    history, party, _ = run(store.perform, trim_weight=5, zero_weight=5)
    assert check_history(history) == []
    assert sum(host.done for host in party) == 400


def test_the_same_seed_gives_the_same_operations() -> None:
    assert run(Store().perform, seed=3)[2] == run(Store().perform, seed=3)[2]
    assert run(Store().perform, seed=3)[2] != run(Store().perform, seed=4)[2]


def test_a_store_that_loses_a_write_is_convicted() -> None:
    store = Store()

    def lossy(operation: HostOperation) -> Answer:
        if operation.kind is OperationKind.WRITE and operation.number % 20 == 7:
            return Outcome.OK, b""
        return store.perform(operation)

    assert any("lost write" in str(found) for found in check_history(run(lossy)[0]))


def test_a_store_that_answers_with_another_block_is_convicted_of_phantoms() -> None:
    store = Store()

    def confused(operation: HostOperation) -> Answer:
        outcome, data = store.perform(operation)
        return outcome, data[4096:] + data[:4096]

    found = check_history(run(confused)[0])
    assert any("the contents belong to volume" in violation.text for violation in found)


def test_a_short_read_is_a_phantom() -> None:
    store = Store()

    def short(operation: HostOperation) -> Answer:
        outcome, data = store.perform(operation)
        return outcome, data[:-1]

    assert "4095 bytes" in check_history(run(short)[0])[0].text


def unsure(store: Store, rng: SimRandom) -> Callable[[HostOperation], Answer]:
    """Performs or does not perform, and says neither."""

    def perform(operation: HostOperation) -> Answer:
        if rng.chance(1, 4):
            if rng.chance(1, 2):
                store.perform(operation)
            return Outcome.INDEFINITE, b""
        return store.perform(operation)

    return perform


def test_indefinite_operations_are_repeated_unchanged_until_they_are_settled() -> None:
    history, party, sent = run(unsure(Store(), SimRandom(5)))
    assert check_history(history) == []
    assert sum(host.done for host in party) == 400
    first = {(op.host, op.number): op for op in sent if op.attempt == 1}
    again = [op for op in sent if op.attempt > 1]
    assert len(again) > 50
    for op in again:
        original = first[op.host, op.number]
        assert (op.kind, op.offset, op.data) == (original.kind, original.offset, original.data)


def test_a_store_that_does_repeats_twice_is_convicted() -> None:
    store, rng = Store(), SimRandom(6)
    doubtful = unsure(store, rng)

    def forgetful(operation: HostOperation) -> Answer:
        store.seen.clear()
        return doubtful(operation)

    convicted = sum(
        bool(check_history(run(forgetful, seed=seed, operations=2_000, read_weight=90)[0]))
        for seed in range(3)
    )
    assert convicted > 0


def test_no_write_overtakes_an_uncertain_one_of_the_same_host() -> None:
    config = HostConfig(volumes=((1, 1),), read_weight=0, flush_weight=0, queue_depth=2)
    host = Host(0, config, SimRandom(1), History())
    first = host.next_operation(0)
    assert first is not None
    host.completed(first, Outcome.INDEFINITE, now_ns=10)
    assert host.next_operation(11) is None
    assert host.wake_ns() == 10 + config.retry_after_ns
    again = host.next_operation(10 + config.retry_after_ns)
    assert again is not None
    assert (again.number, again.attempt) == (first.number, 2)
    assert host.next_operation(20_000_000) is None
    host.completed(again, Outcome.OK, now_ns=20_000_001)
    following = host.next_operation(20_000_001)
    assert following is not None
    assert following.number == 2


def test_a_host_gives_up_after_its_attempts_and_the_outcome_stays_unknown() -> None:
    config = HostConfig(volumes=((1, 1),), read_weight=0, flush_weight=0, attempts_max=2)
    history = History()
    host = Host(0, config, SimRandom(1), history)
    for now_ns in (0, 10_000_000):
        operation = host.next_operation(now_ns)
        assert operation is not None
        host.completed(operation, Outcome.INDEFINITE, now_ns=now_ns + 1)
    assert host.given_up == 1
    assert history.outcome[0] == Outcome.INDEFINITE


def test_a_definite_refusal_after_an_uncertain_attempt_leaves_it_uncertain() -> None:
    config = HostConfig(volumes=((1, 1),), read_weight=0, flush_weight=0, attempts_max=2)
    history = History()
    host = Host(0, config, SimRandom(1), history)
    first = host.next_operation(0)
    assert first is not None
    host.completed(first, Outcome.INDEFINITE, now_ns=1)
    again = host.next_operation(10_000_000)
    assert again is not None
    host.completed(again, Outcome.FAILED, now_ns=10_000_001)
    assert (host.refused, history.outcome[0]) == (0, Outcome.INDEFINITE)


def test_a_definite_refusal_ends_an_operation() -> None:
    history, party, _ = run(lambda operation: (Outcome.FAILED, b""), operations=40)
    assert sum(host.refused for host in party) == 40
    assert set(history.outcome) == {Outcome.FAILED}


def test_a_host_never_has_more_under_way_than_its_queue_depth() -> None:
    config = HostConfig(volumes=VOLUMES, queue_depth=3)
    host = Host(0, config, SimRandom(1), History())
    assert [host.next_operation(0) is None for _ in range(5)] == [False, False, False, True, True]
    assert host.outstanding == 3


def test_a_paced_host_names_the_time_of_its_next_operation() -> None:
    config = HostConfig(volumes=VOLUMES, interval_ns=1_000_000)
    host = Host(0, config, SimRandom(1), History())
    assert host.next_operation(5) is not None
    wake_ns = host.wake_ns()
    assert wake_ns is not None
    assert host.next_operation(wake_ns - 1) is None
    assert host.next_operation(wake_ns) is not None


def test_extents_lie_inside_their_volume_and_on_blocks() -> None:
    for operation in run(Store().perform, operations=2_000)[2]:
        blocks = dict(VOLUMES)[operation.volume]
        assert operation.offset % 4096 == operation.length % 4096 == 0
        assert operation.offset + operation.length <= blocks * 4096


def test_a_flush_has_one_row_and_no_block() -> None:
    history, _, _ = run(Store().perform, flush_weight=50)
    flushes = [row for row in range(len(history)) if history.kind[row] == Kind.FLUSH]
    assert flushes
    assert {history.registers[history.register[row]][1] for row in flushes} == {-1}


def test_a_host_without_weights_is_refused() -> None:
    config = HostConfig(volumes=VOLUMES, read_weight=0, write_weight=0, flush_weight=0)
    with pytest.raises(ValueError, match="weights"):
        Host(0, config, SimRandom(1), History())


@pytest.mark.parametrize(
    "options", [{"block_bytes": 100}, {"queue_depth": 0}, {"volumes": ()}, {"volumes": ((1, 0),)}]
)
def test_impossible_habits_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        HostConfig(**{"volumes": VOLUMES, **options})  # type: ignore[arg-type]
