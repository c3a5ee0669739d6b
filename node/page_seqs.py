"""codec: the newest record of each page of a region: in memory, and in a checkpoint.

In memory a page has the seq of the last committed record that touched it, exactly: 8 bytes, in an
`array`, because that is what one store into it costs least in. In a checkpoint it has two bytes:
its distance from the commit point as a floating-point number of 8 bits of exponent and 7 of
mantissa, rounded towards the commit point. So a page may come back as changed later than it was, by
less than one part in 128 of its age, and never as changed earlier: who asks for the pages that
changed since some record gets all of them, and few others.
"""

from __future__ import annotations

from array import array
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SEQ_BYTES: Final = 2  # of a page in a checkpoint
_NEVER: Final = 0xFFFF  # no record ever touched the page

Seqs = array  # of type code Q
Bools = NDArray[np.bool_]


def no_seqs(pages: int) -> array[int]:
    """Of a region that no record touched."""
    return array("Q", bytes(8 * pages))


def newer_than(seqs: array[int], since: int) -> Bools:
    """Pages that a record behind `since` touched."""
    return np.frombuffer(seqs, dtype=np.uint64) > since


def pack_seqs(seqs: array[int], committed: int) -> bytes:
    """SEQ_BYTES a page, as seen from the commit point. A page that is ahead of it already, as those
    of a joiner may be, counts as touched by the last committed record: the records behind that one
    come again and say so themselves."""
    values = np.frombuffer(seqs, dtype=np.uint64)
    distance = np.uint64(committed) - np.minimum(values, np.uint64(committed))
    codes = (distance.astype("<f4").view("<u4") >> 16).astype("<u2")
    # The conversion rounds to the nearest: where that was up, one step down is below again.
    codes[_distance_of(codes) > distance] -= np.uint16(1)
    codes[values == 0] = _NEVER
    return codes.tobytes()


def _distance_of(codes: NDArray[Any]) -> NDArray[np.uint64]:
    return (codes.astype("<u4") << 16).view("<f4").astype(np.uint64)


def unpack_seqs(packed: bytes, committed: int) -> array[int]:
    """Inverse of pack_seqs with the same commit point, but for the rounding."""
    codes = np.frombuffer(packed, dtype="<u2")
    never = codes == _NEVER
    distance = _distance_of(np.where(never, np.uint16(0), codes))
    values = np.where(never, 0, committed - np.minimum(distance, np.uint64(committed)))
    return array("Q", values.astype(np.uint64).tobytes())


def bits_of(pages: Bools) -> bytes:
    """A bitmap, bit 0 of byte 0 is page 0."""
    return np.packbits(pages, bitorder="little").tobytes()


def bools_of(bitmap: bytes | memoryview, pages: int) -> Bools:
    """Inverse of bits_of."""
    bits = np.frombuffer(bitmap, dtype=np.uint8)
    return np.unpackbits(bits, count=pages, bitorder="little").astype(np.bool_)


def bitmap_bytes(pages: int) -> int:
    """Length of a bitmap of that many pages."""
    return (pages + 7) // 8
