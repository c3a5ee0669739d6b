"""plan: the colours of reports, by name, in light and in dark; charts know only the names."""

from __future__ import annotations

import re
from typing import Final

# name: (light, dark). Nodes after Okabe and Ito (jfly.uni-koeln.de/color), which people with any
# kind of colour vision can tell apart; owners are written into their ribbons all the same.
COLOURS: Final = {
    "page": ("#ffffff", "#14171c"),
    "card": ("#f6f7f9", "#1c2128"),
    "ink": ("#1d2430", "#e4e8ee"),
    "soft": ("#5d6776", "#9aa5b4"),
    "line": ("#d5dae1", "#363e4a"),
    "good": ("#1a7f4b", "#4cc38a"),
    "warn": ("#a15c00", "#f0b429"),
    "bad": ("#c42b2b", "#ff7b72"),
    "unsure": ("#6b4fbb", "#b69cff"),
    "node0": ("#e69f00", "#e69f00"),
    "node1": ("#56b4e9", "#56b4e9"),
    "node2": ("#2aa983", "#17b28a"),
    "node3": ("#e8dc4a", "#d9cd3c"),
    "node4": ("#4a7fd0", "#5b93e8"),
    "node5": ("#e07b39", "#e8823f"),
    "node6": ("#cc79a7", "#d184b0"),
    "node7": ("#a3a9b4", "#8a93a3"),
    "on-node": ("#10131a", "#10131a"),
    "fault-process": ("#c42b2b", "#f0605a"),
    "fault-link": ("#7a4fd0", "#a889f5"),
    "fault-disk": ("#b8651b", "#e39a4c"),
    "fault-clock": ("#1b7f8c", "#4dbccb"),
    "on-fault": ("#ffffff", "#10131a"),
    "read": ("#2f6fd0", "#6ea8ff"),
    "write": ("#c25a12", "#f2994a"),
    "flush": ("#1a7f4b", "#4cc38a"),
    "shade": ("#c42b2b", "#ff7b72"),
}
_FAMILIES: Final = {
    "fault-process": ("kill", "stop", "pause", "power_cut", "slow"),
    "fault-link": (
        "cut", "partition", "flap", "clog", "delay", "loss", "duplicate", "reorder", "corrupt",
    ),
    "fault-clock": ("clock_drift", "clock_jump"),
}  # fmt: skip
_FIRST: Final = 0xFA0100  # no colour of anybody's: what charts are drawn with
_SIGNS: Final = {name: f"#{_FIRST + place:06x}" for place, name in enumerate(COLOURS)}
_NAMES: Final = {sign: name for name, sign in _SIGNS.items()}
_SIGN: Final = re.compile(r"#fa01[0-9a-f]{2}")


def sign(name: str) -> str:
    """What stands for the colour in a drawing until `named`. KeyError: there is no such colour."""
    return _SIGNS[name]


def node(number: int) -> str:
    """The name of the colour of a node."""
    return f"node{number % 8}"


def named(svg: str) -> str:
    """The drawing with CSS variables in place of signs."""
    return _SIGN.sub(lambda match: f"var(--{_NAMES[match[0]]})", svg)


def family(verb: str) -> str:
    """The name of the colour of a fault."""
    return next((name for name, verbs in _FAMILIES.items() if verb in verbs), "fault-disk")


def css() -> str:
    """The variables: light ones, and dark ones for who prefers them."""
    light, dark = (
        "".join(f"--{name}:{pair[place]};" for name, pair in COLOURS.items()) for place in (0, 1)
    )
    return (
        f":root{{color-scheme:light dark;{light}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
    )
