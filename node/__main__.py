"""shell: `python -m node --dir DIR --id N` runs one node process."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from base.errors import StorageError
from node.lean import without_terminal


def main() -> int:
    """Exit code: 0 stopped in order, 1 failed while running, 2 refused to start."""
    parser = argparse.ArgumentParser(prog="python -m node", description="Run one Eightfold node.")
    parser.add_argument("--dir", type=Path, required=True, help="directory of the cluster")
    parser.add_argument("--id", type=int, required=True, help="number of the node, 0 to 7")
    parser.add_argument("--config", type=Path, help="take this configuration into the directory")
    parser.add_argument(
        "--blank", action="store_true", help="the node has lost all it had; its cluster goes on"
    )
    options = parser.parse_args()
    # NumPy's arrays here are small: its thread pool would only cost memory.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    without_terminal()
    from node.cluster_directory import adopt, run_claimed
    from node.daemon import FORMED_MARK, run_process

    try:
        if options.config is not None:
            adopt(options.dir, options.config)
        if options.blank:
            # Else an empty store would pass for one that has never promised anything.
            (options.dir / FORMED_MARK).touch()
        return run_claimed(options.dir, options.id, run_process)
    except StorageError as error:
        sys.stderr.write(f"eightfold: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
