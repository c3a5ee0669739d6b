"""Copies of one region on three nodes, driven by hand: see `scenario.copies_by_hand`."""

from __future__ import annotations

from scenario.copies_by_hand import NOBODY, Copies, clone, operation, pair

__all__ = ["NOBODY", "Copies", "clone", "operation", "pair"]
