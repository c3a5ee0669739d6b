"""plan: coverage goals: rare states that some run of a long search must have reached.

A run reports those that it reached; a search that misses one has not looked everywhere.
"""

from __future__ import annotations

from typing import Final

GOALS: Final[dict[int, tuple[str, ...]]] = {1: (), 2: ()}
