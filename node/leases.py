"""step: leases between nodes, carried by beacons (section 5, P4–P6).

A beacon that another node has acknowledged is a lease from that node, for `lease_ns` from the
moment at which the beacon was *sent*, on this node's clock. The acknowledgement rides on the other
node's next beacon. A node that acknowledges notes until when the lease may be used, on its own
clock and with its own longer time: `grace_ns` from the acknowledgement. Since lease × (1 + drift)
is less than grace × (1 − drift), whoever waits for `granted_until_ns` waits long enough.

A lease is between nodes and covers every region that the two share. It is granted only to a beacon
of the life that the catalog knows, whose sender has applied the last change of owners that this
node has applied (`floor`), and never while this node accuses the sender (P5).
"""

from __future__ import annotations

from transport.messages import Beacon

SENT_MAX = 128  # beacons whose send time is remembered per peer: 10 s at 80 ms
FORGOTTEN = 64  # of those at a time
_NOTHING_HEARD = (0, 0, 0, False)


class LeaseTable:
    """Leases held from and granted to each peer. Times are integer ns of this node's clock.

    granting: False until the catalog has taken in this life of the node. What an earlier life had
    applied, a takeover from that very peer perhaps, is not known again before that (P6, P7).
    """

    __slots__ = (
        "_heard",
        "_number",
        "_sent_ns",
        "_withheld",
        "floor",
        "grace_ns",
        "granted_until_ns",
        "granting",
        "incarnation",
        "lease_ns",
        "lease_until_ns",
    )

    def __init__(
        self, *, incarnation: int, lease_ns: int, grace_ns: int, drift_ppm: int, now_ns: int
    ) -> None:
        assert lease_ns * (1_000_000 + drift_ppm) < grace_ns * (1_000_000 - drift_ppm)
        self.incarnation = incarnation
        self.lease_ns = lease_ns
        self.grace_ns = grace_ns
        self.lease_until_ns: dict[int, int] = {}
        # An earlier life of this node may have granted leases until just before it ended.
        self.granted_until_ns: dict[int, int] = {-1: now_ns + grace_ns}
        self.granting = False
        self.floor = 0  # catalog version of the last change of owners that this node applied
        self._number = 0
        self._sent_ns: dict[int, dict[int, int]] = {}
        self._heard: dict[int, tuple[int, int, int, bool]] = {}
        self._withheld: dict[int, int] = {}

    def beacon(self, peer: int, now_ns: int, catalog_version: int) -> Beacon:
        """The next beacon for this peer; it acknowledges the last one heard, if it may."""
        own = self._number = self._number + 1
        sent = self._sent_ns.get(peer)
        if sent is None:
            sent = self._sent_ns[peer] = {}
        sent[own] = now_ns
        if len(sent) > SENT_MAX:
            for oldest in list(sent)[:FORGOTTEN]:
                del sent[oldest]
        incarnation, number, version, acknowledged = self._heard.get(peer, _NOTHING_HEARD)
        lease = (
            self.granting
            and number > 0
            and peer not in self._withheld
            and version >= self.floor
        )  # fmt: skip
        if lease and not acknowledged:
            self._heard[peer] = (incarnation, number, version, True)
            self.granted_until_ns[peer] = now_ns + self.grace_ns
        return Beacon(self.incarnation, own, incarnation, number, lease, catalog_version)

    def heard(self, peer: int, beacon: Beacon, *, known: bool) -> None:
        """A beacon of the peer. known: it is the life of the peer that the catalog says is up."""
        if known:
            incarnation, number = beacon.incarnation, beacon.number
            last = self._heard.get(peer)
            if (
                last is None
                or incarnation > last[0]
                or (incarnation == last[0] and number > last[1])
            ):
                self._heard[peer] = (incarnation, number, beacon.catalog_version, False)
        if beacon.heard_incarnation != self.incarnation or not beacon.lease:
            return  # meant for an earlier life of this node, or no lease (P6)
        sent = self._sent_ns.get(peer)
        sent_ns = sent.get(beacon.heard_number) if sent is not None else None
        if sent_ns is not None:
            until_ns = sent_ns + self.lease_ns
            if until_ns > self.lease_until_ns.get(peer, 0):
                self.lease_until_ns[peer] = until_ns

    def acts_on(self, peer: int) -> int:
        """The version of the catalog that a life of the peer which the catalog knew had applied
        when it was last heard; 0: it was not heard."""
        return self._heard.get(peer, (0, 0, 0, False))[2]

    def holds(self, peers: tuple[int, ...], now_ns: int) -> bool:
        """Whether there is a lease from each of these nodes at this moment."""
        lease_until_ns = self.lease_until_ns
        return all(now_ns < lease_until_ns.get(peer, 0) for peer in peers)

    def withhold(self, peer: int, catalog_version: int) -> None:
        """This node has accused the peer: no lease until the catalog has answered (P5)."""
        self._withheld.setdefault(peer, catalog_version)

    def answered(self, peer: int) -> None:
        """The catalog has answered the accusation, whatever it said."""
        self._withheld.pop(peer, None)

    def withheld(self) -> list[int]:
        """Peers that this node grants nothing, ascending."""
        return sorted(self._withheld)

    def all_granted_until_ns(self) -> int:
        """The end of every lease that this node ever granted to anyone."""
        return max(self.granted_until_ns.values())

    def renew(self, incarnation: int, now_ns: int) -> None:
        """This node begins a new life without a restart: leases of the last one are void, those
        that it granted still run."""
        self.incarnation = incarnation
        self.lease_until_ns.clear()
        self._sent_ns.clear()
        self.granted_until_ns[-1] = now_ns + self.grace_ns
