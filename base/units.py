"""plan: sizes and times, always with their unit in the name."""

from __future__ import annotations

from typing import Final

KiB: Final = 1024
MiB: Final = 1024 * KiB
GiB: Final = 1024 * MiB
TiB: Final = 1024 * GiB

SECTOR_BYTES: Final = 512  # the smallest thing a host can address
BLOCK_BYTES: Final = 4 * KiB  # what hosts are told to prefer
PAGE_BYTES_DEFAULT: Final = 16 * KiB  # unit of mapping and copy-on-write [0042]
NODES_MAX: Final = 8  # a full mesh of eight controller nodes [0029]

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000

_SUFFIXES: Final = (("TiB", TiB), ("GiB", GiB), ("MiB", MiB), ("KiB", KiB))
_SCALE: Final = {
    "": 1, "B": 1,
    "K": KiB, "KB": 1000, "KIB": KiB,
    "M": MiB, "MB": 1000**2, "MIB": MiB,
    "G": GiB, "GB": 1000**3, "GIB": GiB,
    "T": TiB, "TB": 1000**4, "TIB": TiB,
}  # fmt: skip


def parse_size(text: str) -> int:
    """Bytes of "64", "4K", "16MiB", "1.5 TiB". ValueError names the text and the rule."""
    stripped = text.strip().replace(" ", "")
    digits = stripped.rstrip("BbIiKkMmGgTt")
    suffix = stripped[len(digits) :].upper()
    try:
        scale = _SCALE[suffix]
        size = int(digits) * scale if digits.isdigit() else round(float(digits) * scale)
    except (KeyError, ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a size: use a number with K, M, G or T") from None
    if size < 0:
        raise ValueError(f"{text!r} is not a size: it is negative")
    return size


def format_size(size_bytes: int) -> str:
    """Short form for people: 16 MiB, 1.5 TiB."""
    for suffix, scale in _SUFFIXES:
        if size_bytes >= scale:
            whole = size_bytes / scale
            return f"{whole:.0f} {suffix}" if whole == int(whole) else f"{whole:.1f} {suffix}"
    return f"{size_bytes} B"
