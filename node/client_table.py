"""plan: which operations of which clients have taken effect in one region (P10).

Every copy of a region builds the same table from the same committed records, so a repeat that
reaches a new owner after a failover is recognised. A client numbers its operations and says with
each one below which number all are answered: what is below cannot be repeated and is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

CLIENTS_MAX = 256  # per region; the one that wrote longest ago is forgotten first
PRUNE_ABOVE = 64  # numbers of one client before answered ones are dropped

ClientState = tuple[int, int, tuple[int, ...]]  # (client, low, numbers ascending)


class ClientTable:
    """Committed (client, number) pairs of one region."""

    __slots__ = ("_clients",)

    def __init__(self, state: Iterable[ClientState] = ()) -> None:
        self._clients: dict[int, tuple[int, dict[int, None]]] = {
            client: (low, dict.fromkeys(numbers)) for client, low, numbers in state
        }

    def __contains__(self, name: tuple[int, int]) -> bool:
        entry = self._clients.get(name[0])
        return entry is not None and (name[1] < entry[0] or name[1] in entry[1])

    def add(self, client: int, number: int, low: int) -> None:
        """The operation took effect; everything of the client below `low` has been answered."""
        clients = self._clients
        entry = clients.pop(client, None)  # and back in at the end: the order is by last write
        if entry is None:
            if len(clients) >= CLIENTS_MAX:
                del clients[next(iter(clients))]
            clients[client] = (low, {number: None})
            return
        known_low, numbers = entry
        numbers[number] = None
        low = max(low, known_low)
        if len(numbers) > PRUNE_ABOVE and next(iter(numbers)) < low:
            numbers = {kept: None for kept in numbers if kept >= low}
        clients[client] = (low, numbers)

    def state(self) -> tuple[ClientState, ...]:
        """The table as plain values, in the order in which clients wrote."""
        return tuple(
            (client, low, tuple(sorted(kept for kept in numbers if kept >= low)))
            for client, (low, numbers) in self._clients.items()
        )
