"""A Mosquitto of a test, on a free port of loopback; stopped with everything that it was told."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from admin.spawn import pause


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """Started when made. Kill it and start it again at will; its port stays the same."""

    def __init__(
        self,
        directory: Path,
        *,
        user: str = "",
        password: str = "",
        certificates: Path | None = None,  # a directory with ca.pem, broker.pem, broker.key
    ) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "mosquitto.log"
        self._config = directory / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "persistence false",
            "set_tcp_nodelay true",
            "max_queued_messages 0",
            *(["user root"] if os.getuid() == 0 else []),  # else it gives root up, and its files
        ]
        if user:
            passwords = directory / "passwords"
            passwords.write_text(f"{user}:{password}\n")
            passwords.chmod(0o600)
            subprocess.run(
                ["mosquitto_passwd", "-U", str(passwords)],
                check=True, timeout=20, capture_output=True,
            )  # fmt: skip
            lines += ["allow_anonymous false", f"password_file {passwords}"]
        else:
            lines.append("allow_anonymous true")
        if certificates is not None:
            lines += [
                f"cafile {certificates / 'ca.pem'}",
                f"certfile {certificates / 'broker.pem'}",
                f"keyfile {certificates / 'broker.key'}",
            ]
        self._config.write_text("\n".join(lines) + "\n")
        self.start()

    def start(self) -> None:
        """Until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["mosquitto", "-c", str(self._config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        for _ in range(200):
            assert self._process.poll() is None, self._log.read_text()
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
            except OSError:
                pause(0.05)
            else:
                return
        raise AssertionError(self._log.read_text())

    def kill(self) -> None:
        """As a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None
