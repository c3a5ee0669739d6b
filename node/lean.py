"""shell: starts `node.zygote` without what only terminals need.

structlog imports Rich when it finds it, and Rich costs every node process 5 MiB for tables that a
node never draws. The name is blocked before anything else is imported.
"""

from __future__ import annotations

import sys


def without_terminal() -> None:
    """From now on `import rich` fails in this process, as if it were not installed."""
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]


def main() -> int:
    """As `python -m node.zygote`."""
    without_terminal()
    from node.zygote import main as zygote

    return zygote()


if __name__ == "__main__":
    sys.exit(main())
