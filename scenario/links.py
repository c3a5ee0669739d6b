"""shell: the links between the nodes of a real cluster, in the hands of a test or a scenario.

The relay (`scenario.link_proxy`) is a process of its own, so that it goes on while whoever uses
this waits, and so that it costs the hosts in this process nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

from base.errors import InvalidRequest, LinkLost
from base.place import LOOPBACK

END_SECONDS: Final = 10.0

Ways = list[tuple[int, int]]


class Links:
    """A relay and what it was told. Close it at the end.

    `addresses` of a node are its `peer_addresses` in the configuration: start nodes with them.
    """

    def __init__(self, nodes: Mapping[int, tuple[str, int]]) -> None:
        """nodes: where each listens for the others."""
        self._nodes = sorted(nodes)
        self._relay = subprocess.Popen(
            [sys.executable, "-m", "scenario.link_proxy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for whoever started us
        )
        try:
            listed = [[node, *nodes[node]] for node in self._nodes]
            self._ports = self._ask(action="listen", nodes=listed)["ports"]
        except BaseException:
            self.close()
            raise

    def addresses(self, node: int) -> dict[int, str]:
        """Where it is to dial the nodes of higher ids."""
        return {high: f"{LOOPBACK[0]}:{port}" for low, high, port in self._ports if low == node}

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._relay.stdin is not None
        assert self._relay.stdout is not None
        try:
            self._relay.stdin.write(json.dumps(command).encode() + b"\n")
            self._relay.stdin.flush()
            line = self._relay.stdout.readline()
        except OSError:
            line = b""
        if not line:
            raise LinkLost("the relay between the nodes has ended")
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise InvalidRequest(answer["refused"])
        return answer

    # ------------------------------------------------------------------ faults

    def cut_one_way(self, sender: int, receivers: Iterable[int]) -> None:
        """Nothing that it sends arrives at them; what they send arrives at it."""
        self._ask(action="cut", ways=[(sender, receiver) for receiver in receivers])

    def cut(self, one: int, *others: int) -> None:
        """Both ways, between the first and each of the others."""
        self._ask(action="cut", ways=both_ways([one], others))

    def isolate(self, node: int) -> None:
        """From all others."""
        self.part([node])

    def part(self, side: Iterable[int]) -> None:
        """Cut every link between one of these nodes and one of the rest."""
        inside = sorted(set(side))
        rest = [node for node in self._nodes if node not in inside]
        self._ask(action="cut", ways=both_ways(inside, rest))

    def reset(self, one: int, *others: int) -> None:
        """Connections end at once, and new ones are refused."""
        self._ask(action="reset", ways=both_ways([one], others))

    def delay(self, ways: Ways, delay_ms: int) -> None:
        """Everything on these ways comes so much later."""
        self._ask(action="delay", ways=ways, delay_ms=delay_ms)

    def stand(self, name: int, action: str, ways: Ways, for_ms: int) -> None:
        """Cut or reset these ways until `lift`, and no longer than for_ms: the relay keeps the
        time. Not to be mixed with the others."""
        self._ask(action=action, name=name, ways=ways, for_ms=for_ms)

    def lift(self, name: int) -> None:
        """It stands no longer."""
        self._ask(action="lift", name=name)

    def heal(self) -> None:
        """Every way passes again."""
        self._ask(action="heal", ways=both_ways(self._nodes, self._nodes))

    def close(self) -> None:
        """End the relay, and with it all links that lead through it."""
        for pipe in (self._relay.stdin, self._relay.stdout):
            assert pipe is not None
            pipe.close()
        try:
            self._relay.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._relay.kill()
            self._relay.wait()


def both_ways(some: Iterable[int], others: Iterable[int]) -> Ways:
    """From each of some to each of the others, and back."""
    found = dict.fromkeys((one, other) for one in some for other in others if one != other)
    return [*found, *((other, one) for one, other in found if (other, one) not in found)]
