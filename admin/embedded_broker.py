"""shell: the broker that `eightfold up` runs beside its nodes: amqtt, in a process of its own.

A process of its own, so that it can be killed like anything else here, and so that nodes do not
import it. It takes one user, or anybody on a loopback address when the cluster names none.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import logging
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
from amqtt.broker import Broker
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from admin.broker_process import PID_FILE
from admin.local import read_cluster, running_pid, write_pid_file
from admin.mqtt_access import password_of
from base.errors import ConfigError, InvalidRequest, StorageError
from base.log import configure
from base.place import LOOPBACK

CONNECTIONS_MAX: Final = 256

log = structlog.get_logger()


class OneUser(BaseAuthPlugin):  # type: ignore[misc] # amqtt has no types
    """Lets in who knows name and password of the cluster's user."""

    async def authenticate(self, *, session: Session) -> bool | None:
        """Compares digests of one length: neither length nor prefix leaks."""
        wanted = _digest(self.config.user, self.config.password)
        given = _digest(session.username or "", session.password or "")
        return hmac.compare_digest(wanted, given)

    @dataclass
    class Config:
        """Of the plugin, as amqtt wants it."""

        user: str = ""
        password: str = field(default="", repr=False)


def _digest(user: str, password: str) -> bytes:
    return hmac.new(b"broker", f"{len(user)}:{user}{password}".encode(), "sha256").digest()


def broker_config(directory: Path, options: dict[str, Any]) -> dict[str, Any]:
    """For amqtt. InvalidRequest: the cluster has no embedded broker; ConfigError."""
    if not options.get("embedded"):
        raise InvalidRequest("this cluster has no broker of its own: mqtt.embedded is false")
    host, user = str(options.get("host", "127.0.0.1")), str(options.get("user", ""))
    if not user and host not in LOOPBACK:
        raise ConfigError(f"mqtt.user: a broker at {host} needs a user: others reach it too")
    shown = f"[{host}]" if ":" in host else host
    listener: dict[str, Any] = {
        "type": "tcp",
        "bind": f"{shown}:{int(options['port'])}",
        "max_connections": CONNECTIONS_MAX,
    }
    if options.get("broker_cert_file"):
        listener["ssl"] = True
        listener["certfile"] = str(directory / options["broker_cert_file"])
        listener["keyfile"] = str(directory / options["broker_key_file"])
    plugins: dict[str, Any] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {}}
    if user:
        password = password_of(directory, options)
        plugins = {"admin.embedded_broker.OneUser": {"user": user, "password": password}}
    return {"listeners": {"default": listener}, "plugins": plugins}


async def _serve(config: dict[str, Any]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    broker = Broker(config)
    await broker.start()
    log.info("broker.started", listen=config["listeners"]["default"]["bind"])
    await stop.wait()
    try:
        async with asyncio.timeout(3):
            await broker.shutdown()
    except TimeoutError:
        log.warning("broker.stop_timed_out")
    log.info("broker.stopped")


def run(directory: Path) -> int:
    """In this process until SIGTERM. Exit code."""
    cluster = read_cluster(directory)
    config = broker_config(directory, cluster.mqtt)
    configure()
    logging.getLogger("amqtt").setLevel(logging.ERROR)
    logging.getLogger("transitions").setLevel(logging.ERROR)
    pid_file = directory / PID_FILE
    if running_pid(pid_file) is not None:
        raise InvalidRequest(f"the broker of {directory} runs already")
    write_pid_file(pid_file, os.getpid())
    try:
        asyncio.run(_serve(config))
    except OSError as error:
        raise ConfigError(f"mqtt.port: the broker cannot listen: {error}") from None
    finally:
        pid_file.unlink(missing_ok=True)
    return 0


def main() -> int:
    """As `python -m admin.embedded_broker --dir DIR`."""
    parser = argparse.ArgumentParser(prog="python -m admin.embedded_broker")
    parser.add_argument("--dir", type=Path, required=True)
    try:
        return run(parser.parse_args().dir)
    except StorageError as error:
        sys.stderr.write(f"eightfold: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
