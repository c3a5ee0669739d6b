"""shell: whether a node is well, as a container engine asks it: `python -m admin.health ADDRESS`.

An engine asks every node again and again, so this imports next to nothing. It asks whether the
process answers, and not whether the cluster serves: an engine that replaces what is unwell would
else replace nodes for having lost their majority, which no replacement brings back.
"""

from __future__ import annotations

import http.client
import json
import sys
from pathlib import Path
from typing import Final

from base.errors import ConfigError
from base.place import MOUNTED_SECRETS, parse_address

SECONDS: Final = 25.0
ANSWER_BYTES_MAX: Final = 4096


def ask(host: str, port: int, token: str, seconds: float = SECONDS) -> dict[str, object]:
    """What `/v1/ready` says. OSError, ValueError or HTTPException: it is not well."""
    link = http.client.HTTPConnection(host, port, timeout=seconds)
    try:
        link.request("GET", "/v1/ready", headers={"Authorization": f"Bearer {token}"})
        response = link.getresponse()
        answer = json.loads(response.read(ANSWER_BYTES_MAX))
    finally:
        link.close()
    if response.status != 200 or "ready" not in answer:
        raise ValueError(f"it answered {response.status}: {answer.get('text', answer)}")
    return dict(answer)


def main(arguments: list[str]) -> int:
    """Exit code: 0 the process of the node answers, 1 it does not, 2 wrong arguments."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write("usage: python -m admin.health HOST:PORT [TOKEN_FILE]\n")
        return 2
    path = Path(arguments[1]) if len(arguments) == 2 else MOUNTED_SECRETS / "token"
    try:
        address = parse_address(arguments[0], "ADDRESS")
        if isinstance(address, str):
            raise ConfigError(f"ADDRESS: {address!r} is not HOST:PORT")
        answer = ask(*address, path.read_text().strip())
    except (OSError, ValueError, http.client.HTTPException, ConfigError) as error:
        sys.stderr.write(f"{arguments[0]}: {error}\n")
        return 1
    sys.stdout.write("serves hosts\n" if answer["ready"] else "runs, and waits for the cluster\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
