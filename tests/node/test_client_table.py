from __future__ import annotations

from node.client_table import CLIENTS_MAX, PRUNE_ABOVE, ClientTable


def test_an_operation_that_took_effect_is_known() -> None:
    table = ClientTable()
    table.add(1, 5, 5)
    assert (1, 5) in table
    assert (1, 6) not in table
    assert (2, 5) not in table


def test_what_lies_below_the_lowest_open_number_is_known_to_be_over() -> None:
    table = ClientTable()
    table.add(1, 9, 8)
    table.add(1, 10, 8)
    assert (1, 8) not in table
    assert (1, 7) in table


def test_the_lowest_open_number_never_falls() -> None:
    table = ClientTable()
    table.add(1, 9, 8)
    table.add(1, 10, 3)
    assert (1, 7) in table


def test_answered_numbers_are_dropped_when_they_are_many() -> None:
    table = ClientTable()
    for number in range(PRUNE_ABOVE + 1):
        table.add(1, number, number)
    assert table.state() == ((1, PRUNE_ABOVE, (PRUNE_ABOVE,)),)


def test_the_client_that_wrote_longest_ago_is_forgotten_first() -> None:
    table = ClientTable()
    for client in range(CLIENTS_MAX):
        table.add(client, 1, 0)
    table.add(0, 2, 0)
    table.add(CLIENTS_MAX, 1, 0)
    assert (1, 1) not in table
    assert (0, 1) in table


def test_a_table_made_from_the_state_of_another_goes_on_like_it() -> None:
    one = ClientTable()
    for client in (3, 1, 2):
        one.add(client, 4, 2)
    other = ClientTable(one.state())
    for table in (one, other):
        for client in range(10, 10 + CLIENTS_MAX - 2):
            table.add(client, 1, 0)
    assert one.state() == other.state()
    assert (3, 4) not in other
    assert (1, 4) in other


def test_two_copies_that_pruned_at_different_times_have_the_same_state() -> None:
    one = ClientTable()
    for number in range(50):
        one.add(1, number, number)
    other = ClientTable(one.state())
    for number in range(50, 70):
        one.add(1, number, number)
        other.add(1, number, number)
    assert one.state() == other.state()
