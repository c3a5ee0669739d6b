"""plan: how to reach the broker of a cluster, from the section `mqtt` of its configuration."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from base.errors import ConfigError, InvalidRequest
from base.place import others_may_read
from transport.broker import BrokerAddress, tls_context

PORT_DEFAULT: Final = 1883
PASSWORD_BYTES_MAX: Final = 4096


def broker_address(directory: Path, options: Mapping[str, Any]) -> BrokerAddress:
    """Files are relative to `directory`. InvalidRequest: the cluster has no broker; ConfigError."""
    if not options.get("enabled"):
        raise InvalidRequest("this cluster has no broker: mqtt.enabled is false in cluster.yaml")
    context = None
    if options.get("tls"):
        ca, cert, key = (
            _file(directory, options, name) for name in ("ca_file", "cert_file", "key_file")
        )
        context = tls_context(ca, cert, key)
    return BrokerAddress(
        host=str(options.get("host", "127.0.0.1")),
        port=int(options.get("port", PORT_DEFAULT)),
        user=str(options.get("user", "")),
        password=password_of(directory, options),
        tls=context,
    )


def password_of(directory: Path, options: Mapping[str, Any]) -> str:
    """Of the user of the broker; empty when it asks for nobody. ConfigError names the file."""
    path = _file(directory, options, "password_file")
    if path is None:
        return ""
    try:
        with path.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            password = stream.read(PASSWORD_BYTES_MAX).strip().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mqtt.password_file: {path}: cannot be read: {error}") from None
    if others_may_read(path, mode):
        raise ConfigError(
            f"mqtt.password_file: {path}: others may read it (mode {mode:04o}); run chmod 600 on it"
        )
    if not password:
        raise ConfigError(f"mqtt.password_file: {path}: is empty")
    return password


def _file(directory: Path, options: Mapping[str, Any], name: str) -> Path | None:
    given = str(options.get(name) or "")
    return directory / given if given else None
