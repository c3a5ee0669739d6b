"""codec: an entry of an exception table: 8 bytes, where older contents of a page are [0078].

Bits 60–63 are the kind, bits 32–59 a volume, bits 0–31 an offset in pages.

| kind | volume | offset | the page of this view |
|---|---|---|---|
| NULL | 0 | 0 | is where the parent of the view has it |
| PAGE | snapshot data space | page there | was copied out to it, or written by an RWSS |
| ZERO | 0 | 0 | reads as zeros: it had never been written, or was given back |
| REDIRECT | 0 | 0 | is where the parent ROSS of the whole branch has it (ruling R4) |
| SKIP | view | 0 | a search found it in that newer view of the branch (ruling R10) |
| BASE | 0 | page | only as an answer: the base volume's own page; never in a table |
"""

from __future__ import annotations

from typing import Final

NULL: Final = 0
PAGE: Final = 1
ZERO: Final = 2
REDIRECT: Final = 3
SKIP: Final = 4
BASE: Final = 5

KIND_SHIFT: Final = 60
VOLUME_SHIFT: Final = 32
VOLUME_MAX: Final = (1 << 28) - 1
OFFSET_MAX: Final = (1 << 32) - 1

ZERO_ENTRY: Final = ZERO << KIND_SHIFT
REDIRECT_ENTRY: Final = REDIRECT << KIND_SHIFT
BASE_ENTRY: Final = BASE << KIND_SHIFT


def page_entry(space: int, page: int) -> int:
    """A page of a snapshot data space."""
    assert 0 <= space <= VOLUME_MAX, space
    assert 0 <= page <= OFFSET_MAX, page
    return PAGE << KIND_SHIFT | space << VOLUME_SHIFT | page


def skip_entry(view: int) -> int:
    """Search on in that view."""
    assert 0 < view <= VOLUME_MAX, view
    return SKIP << KIND_SHIFT | view << VOLUME_SHIFT


def base_entry(page: int) -> int:
    """The base volume's own page."""
    assert 0 <= page <= OFFSET_MAX, page
    return BASE_ENTRY | page


def kind_of(entry: int) -> int:
    """NULL, PAGE, ZERO, REDIRECT, SKIP or BASE."""
    return entry >> KIND_SHIFT


def volume_of(entry: int) -> int:
    """The space of a PAGE, the view of a SKIP."""
    return entry >> VOLUME_SHIFT & VOLUME_MAX


def offset_of(entry: int) -> int:
    """The page of a PAGE or BASE."""
    return entry & OFFSET_MAX
