"""shell: keeps real time, real randomness, threads and sockets out while a simulation runs.

Only what is reached through its module at the time of the call is fenced: a name that was imported
before (`from time import monotonic`) escapes, which the import rules of the pure floors and the
banned calls of the linter take care of.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NoReturn

# Tools around a run that stamp or time things for people; nothing of a simulation depends on them.
_LET_THROUGH: Final = ("logging", "_pytest", "pytest_timeout", "hypothesis", "xdist", "execnet")

_MODULE_RANDOM: Final = (
    "betavariate", "choice", "choices", "expovariate", "gammavariate", "gauss", "getrandbits",
    "lognormvariate", "normalvariate", "paretovariate", "randbytes", "randint", "random",
    "randrange", "sample", "seed", "shuffle", "triangular", "uniform", "vonmisesvariate",
    "weibullvariate",
)  # fmt: skip

_FENCED: Final[tuple[tuple[Any, str, str], ...]] = (
    (time, "time", "time.time"),
    (time, "time_ns", "time.time_ns"),
    (time, "monotonic", "time.monotonic"),
    (time, "monotonic_ns", "time.monotonic_ns"),
    (time, "sleep", "time.sleep"),
    (os, "urandom", "os.urandom"),
    (random, "_urandom", "random.SystemRandom"),
    (uuid, "uuid1", "uuid.uuid1"),
    (uuid, "uuid4", "uuid.uuid4"),
    (threading.Thread, "start", "threading.Thread.start"),
    *((random, name, f"random.{name}") for name in _MODULE_RANDOM),
)


class SimulationFenceError(RuntimeError):
    """Code inside a simulation reached for the real world; the text says what it called."""


def refuse(name: str) -> NoReturn:
    """Raise the error that names what was called and what to use instead."""
    raise SimulationFenceError(
        f"{name} was called inside a simulation: use the Clock, the random.Random, the device or "
        "the bus that was passed in"
    )


def _guard(name: str, real: Callable[..., Any], thread: int) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        # Threads that the simulation did not start (of a test runner, say) live in the real world.
        if threading.get_ident() == thread:
            caller = str(sys._getframe(1).f_globals.get("__name__", ""))
            if caller.partition(".")[0] not in _LET_THROUGH:
                refuse(name)
        return real(*args, **kwargs)

    return guarded


def _guard_socket(real: type[socket.socket], thread: int) -> type[socket.socket]:
    class GuardedSocket(real):  # type: ignore[misc, valid-type]
        """Stays a class, so that isinstance checks go on working."""

        def __new__(cls, *args: Any, **kwargs: Any) -> GuardedSocket:
            if threading.get_ident() == thread:
                refuse("socket.socket")
            made: GuardedSocket = super().__new__(cls, *args, **kwargs)
            return made

    return GuardedSocket


@contextmanager
def fence() -> Iterator[None]:
    """Within it, reaching for the real world from this thread raises `SimulationFenceError`.

    Fences may be nested. Everything is put back at the end, also after an error.
    """
    thread = threading.get_ident()
    saved: list[tuple[Any, str, Any]] = []
    try:
        for owner, attribute, name in _FENCED:
            real = getattr(owner, attribute)
            saved.append((owner, attribute, real))
            setattr(owner, attribute, _guard(name, real, thread))
        saved.append((socket, "socket", socket.socket))
        socket.socket = _guard_socket(socket.socket, thread)  # type: ignore[misc]
        yield
    finally:
        for owner, attribute, real in reversed(saved):
            setattr(owner, attribute, real)


def refuse_calls(of: type[Any], prefix: str, names: Sequence[str]) -> None:
    """Put a method in place of each of those names that refuses the call."""
    for name in names:
        setattr(of, name, _refusal(name, prefix))


def _refusal(name: str, prefix: str) -> Callable[..., NoReturn]:
    def method(self: object, *args: Any, **kwargs: Any) -> NoReturn:
        refuse(f"{prefix}.{name}")

    method.__name__ = name
    return method


# Of an event loop: all that has to do with sockets, pipes, processes, signals and threads.
CALLS_OF_THE_WORLD: Final = (
    "add_reader", "add_signal_handler", "add_writer", "connect_accepted_socket",
    "connect_read_pipe", "connect_write_pipe", "create_connection", "create_datagram_endpoint",
    "create_server", "create_unix_connection", "create_unix_server", "getaddrinfo", "getnameinfo",
    "remove_reader", "remove_signal_handler", "remove_writer", "run_in_executor", "sendfile",
    "set_default_executor", "sock_accept", "sock_connect", "sock_recv", "sock_recv_into",
    "sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_sendfile", "sock_sendto",
    "start_tls", "subprocess_exec", "subprocess_shell",
)  # fmt: skip
