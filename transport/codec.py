"""codec: frames. A fixed header with two CRCs, the msgpack body, and bulk data beside it.

    offset  0  u32  CRC32C of the rest of the header and of the body
            4  u16  magic
            6  u8   protocol version
            7  u8   tag of the message
            8  u32  length of the body in bytes, at most BODY_BYTES_MAX
           12  u32  length of the data in bytes, at most DATA_BYTES_MAX
           16  u32  CRC32C of the data
           20       body, then data

All little-endian. The lengths are checked before anything is allocated for them, and the header's
own CRC before bulk data is awaited. Whatever is wrong is a RemoteProtocolError and the end of the
connection: there is no way to find the next frame in a stream that lied once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np

from base.device import Buffer
from base.errors import InvalidRequest, RemoteProtocolError
from base.units import KiB, MiB
from transport.wire import BODY_BYTES_MAX, decode_body, encode_body, tag_of

PROTOCOL_VERSION = 2
MAGIC = 0x8F1D
DATA_BYTES_MAX = 33 * MiB  # the largest host request, 32 MiB, and what is packed around it
HEADER_BYTES = 20
FRAME_BYTES_MAX = HEADER_BYTES + BODY_BYTES_MAX + DATA_BYTES_MAX

_HEADER = struct.Struct("<IHBBIII")
_CHECKED = struct.Struct("<HBBIII")  # the header without its CRC
_CRC = struct.Struct("<I")
_CHECKED_BYTES = _CHECKED.size
_BYTE = np.dtype(np.uint8)

JOIN_BYTES_MAX = 16 * KiB  # data up to this is gathered: one copy is cheaper than many buffers
_COPY_BYTES_MAX = 2 * KiB  # for the CRC of something that is not bytes: copy or wrap, measured
RECEIVE_BYTES = 256 * KiB
DIRECT_BYTES_MIN = 32 * KiB  # data from this size on is received into a buffer of its own

_value = google_crc32c.value
_extend = google_crc32c.extend


def crc32c(buffer: Buffer, crc: int = 0) -> int:
    """CRC32C of any contiguous buffer of bytes, going on from `crc`. Does not copy large ones.

    The C function takes read-only objects without a release hook, which bytearray and memoryview
    have: a NumPy wrapper has none.
    """
    if type(buffer) is bytes:
        return _extend(crc, buffer)  # type: ignore[no-any-return]
    if len(buffer) <= _COPY_BYTES_MAX:
        return _extend(crc, bytes(buffer))  # type: ignore[no-any-return]
    return _extend(crc, np.frombuffer(buffer, _BYTE))  # type: ignore[no-any-return]


def _byte_buffers(buffers: Sequence[Buffer]) -> tuple[list[Buffer], int]:
    """The same buffers in units of bytes, and their sum."""
    total = 0
    same: list[Buffer] = []
    for buffer in buffers:
        if type(buffer) is memoryview and (buffer.itemsize != 1 or buffer.ndim != 1):
            buffer = buffer.cast("B")
        total += len(buffer)
        same.append(buffer)
    return same, total


def encode_into(out: list[Buffer], message: object) -> int:
    """Append the frame of a message to `out` and return its length in bytes.

    Large data is not copied: its buffers must not change until the frame has left. InvalidRequest
    when the message is larger than a frame can be; `out` is unchanged then.
    """
    body, buffers = encode_body(message)
    body_bytes = len(body)
    data_bytes = data_crc = 0
    data: list[Buffer] | None = None
    if buffers:
        if len(buffers) == 1 and type(buffers[0]) is bytes:
            whole = buffers[0]
            data_bytes = len(whole)
            data = [whole]
            data_crc = _value(whole)
        else:
            data, data_bytes = _byte_buffers(buffers)
            if data_bytes <= JOIN_BYTES_MAX:
                joined = b"".join(data)
                data = [joined]
                data_crc = _value(joined)
            else:
                for buffer in data:
                    data_crc = crc32c(buffer, data_crc)
    if data_bytes > DATA_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
        raise InvalidRequest(
            f"{type(message).__name__} of {body_bytes} and {data_bytes} bytes: a frame holds "
            f"{BODY_BYTES_MAX} and {DATA_BYTES_MAX}"
        )
    tag = tag_of(message)
    checked = _CHECKED.pack(MAGIC, PROTOCOL_VERSION, tag, body_bytes, data_bytes, data_crc) + body
    out.append(_CRC.pack(_value(checked)) + checked)
    if data_bytes:
        assert data is not None
        out += data
    return HEADER_BYTES + body_bytes + data_bytes


def encode(message: object) -> list[Buffer]:
    """The frame of a message as buffers to be written one behind the other."""
    out: list[Buffer] = []
    encode_into(out, message)
    return out


class FrameDecoder:
    """Bytes of one connection → messages, by way of `asyncio.BufferedProtocol`'s two calls.

    Small frames are parsed many to a read out of one reused buffer, with one copy of their data;
    large data is received straight into a buffer of its own, which the message keeps. So `data` of
    a message stays valid for as long as somebody holds it. `error` is set once the stream broke the
    protocol; messages before that are still returned, nothing after it is looked at.

    With `one_at_a_time` each call returns at most one message, so that the caller can change the
    rules by `widen` before the next one is judged; `buffer_updated(0)` goes on.
    """

    def __init__(
        self,
        *,
        body_bytes_max: int = BODY_BYTES_MAX,
        data_bytes_max: int = DATA_BYTES_MAX,
        receive_bytes: int = RECEIVE_BYTES,
        tags: range = range(1, 256),
        one_at_a_time: bool = False,
    ) -> None:
        assert receive_bytes >= HEADER_BYTES
        self._body_bytes_max = body_bytes_max
        self._data_bytes_max = data_bytes_max
        self._tags = tags
        self._one_at_a_time = one_at_a_time
        self.error: RemoteProtocolError | None = None
        self._receive_bytes = receive_bytes
        self._buffer = bytearray(receive_bytes)
        self._view = memoryview(self._buffer)
        self._end = 0  # what was received and not parsed lies in [0, _end) between two calls
        self._direct: memoryview | None = None  # own buffer of the data that is being received
        self._direct_end = 0
        self._direct_head: tuple[int, bytes, int] = (0, b"", 0)  # tag, body, CRC of the data

    def widen(self, tags: range) -> None:
        """From now on: frames of full size, of these tags, as many to a call as there are."""
        self._body_bytes_max = BODY_BYTES_MAX
        self._data_bytes_max = DATA_BYTES_MAX
        self._tags = tags
        self._one_at_a_time = False
        self._receive_bytes = RECEIVE_BYTES
        self._resize(RECEIVE_BYTES)

    def get_buffer(self, sizehint: int = -1) -> memoryview:
        """Where the next bytes of the connection go; never empty."""
        if self._direct is not None:
            return self._direct[self._direct_end :]
        return self._view[self._end :]

    def buffer_updated(self, count: int) -> list[Any]:
        """`count` bytes arrived in the last `get_buffer`: the messages that are now complete."""
        if self.error is not None:
            return []
        messages: list[Any] = []
        try:
            if self._direct is None:
                self._end += count
                self._parse(messages)
            else:
                self._direct_end += count
                if self._direct_end == len(self._direct):
                    self._finish_direct(messages)
        except RemoteProtocolError as error:
            self.error = error
            self._direct = None
            self._end = 0
        return messages

    def receive_data(self, data: Buffer) -> list[Any]:
        """For bytes that already lie elsewhere: copies them in, then as `buffer_updated`."""
        messages: list[Any] = []
        source = memoryview(data)
        while len(source) and self.error is None:
            target = self.get_buffer()
            count = min(len(target), len(source))
            target[:count] = source[:count]
            messages += self.buffer_updated(count)
            source = source[count:]
        return messages

    def _parse(self, messages: list[Any]) -> None:
        view, start, end = self._view, 0, self._end
        unpack_from, buffer = _HEADER.unpack_from, self._buffer
        while end - start >= HEADER_BYTES:
            head_crc, magic, version, tag, body_bytes, data_bytes, data_crc = unpack_from(
                buffer, start
            )
            if magic != MAGIC or version != PROTOCOL_VERSION:
                raise RemoteProtocolError(
                    f"not a frame: magic {magic:#06x}, protocol version {version}; "
                    f"wanted {MAGIC:#06x}, {PROTOCOL_VERSION}"
                )
            if body_bytes > self._body_bytes_max or data_bytes > self._data_bytes_max:
                raise RemoteProtocolError(
                    f"frame of {body_bytes} and {data_bytes} bytes: at most "
                    f"{self._body_bytes_max} and {self._data_bytes_max} are taken here"
                )
            if tag not in self._tags:
                raise RemoteProtocolError(f"tag {tag:#x} is not expected here")
            body_end = start + HEADER_BYTES + body_bytes
            data_end = body_end + data_bytes
            if data_end > end and (body_end > end or data_bytes < DIRECT_BYTES_MIN):
                break
            checked = bytes(view[start + 4 : body_end])
            if _value(checked) != head_crc:
                raise RemoteProtocolError(f"header or body of tag {tag:#x} has a wrong CRC")
            body = checked[_CHECKED_BYTES:]
            if data_end > end:
                self._begin_direct(tag, body, data_bytes, data_crc, view[body_end:end])
                return
            data = b""
            if data_bytes:
                data = bytes(view[body_end:data_end])
                if _value(data) != data_crc:
                    raise RemoteProtocolError(f"data of tag {tag:#x} has a wrong CRC")
            elif data_crc:
                raise RemoteProtocolError(f"no data of tag {tag:#x} but a CRC of it")
            messages.append(decode_body(tag, body, data))
            start = data_end
            if self._one_at_a_time:
                break
        self._keep(start)

    def _keep(self, start: int) -> None:
        """Move the beginning of an unfinished frame to the front, and make room for the rest."""
        rest = self._end - start
        if rest and start:
            self._view[:rest] = self._view[start : self._end]
        self._end = rest
        size = self._receive_bytes
        if rest >= HEADER_BYTES:
            _, _, _, _, body_bytes, data_bytes, _ = _HEADER.unpack_from(self._buffer)
            if body_bytes <= self._body_bytes_max:  # else refused when it is looked at
                size = HEADER_BYTES + body_bytes
                if data_bytes < DIRECT_BYTES_MIN:
                    size += data_bytes
                size = max(size, self._receive_bytes)
        if size > len(self._buffer) or (size < len(self._buffer) and not rest):
            self._resize(size)  # for a long body; given back as soon as it was parsed

    def _resize(self, size: int) -> None:
        size = max(size, self._end)
        larger = bytearray(size)
        larger[: self._end] = self._view[: self._end]
        self._buffer = larger
        self._view = memoryview(larger)

    def _begin_direct(
        self, tag: int, body: bytes, data_bytes: int, data_crc: int, begun: memoryview
    ) -> None:
        self._direct = np.empty(data_bytes, _BYTE).data  # not zeroed: all of it is received
        self._direct[: len(begun)] = begun
        self._direct_end = len(begun)
        self._direct_head = (tag, body, data_crc)
        self._end = 0

    def _finish_direct(self, messages: list[Any]) -> None:
        data = self._direct
        assert data is not None
        tag, body, data_crc = self._direct_head
        self._direct = None
        if crc32c(data) != data_crc:
            raise RemoteProtocolError(f"data of tag {tag:#x} has a wrong CRC")
        messages.append(decode_body(tag, body, data.toreadonly()))


def decode(frame: Buffer) -> Any:
    """The one message of one whole frame, or RemoteProtocolError."""
    frame = bytes(frame)
    if len(frame) >= HEADER_BYTES:
        head_crc, magic, version, tag, body_bytes, data_bytes, data_crc = _HEADER.unpack_from(frame)
        body_end = HEADER_BYTES + body_bytes
        if (
            magic == MAGIC
            and version == PROTOCOL_VERSION
            and body_bytes <= BODY_BYTES_MAX
            and data_bytes <= DATA_BYTES_MAX
            and body_end + data_bytes == len(frame)
        ):
            checked = frame[4:body_end]
            data = frame[body_end:]
            if _value(checked) == head_crc and _value(data) == data_crc:
                return decode_body(tag, checked[_CHECKED_BYTES:], data)
    # Something is wrong with it: the decoder of connections says what.
    decoder = FrameDecoder(receive_bytes=max(len(frame), HEADER_BYTES))
    messages = decoder.receive_data(frame)
    if decoder.error is not None:
        raise decoder.error
    if len(messages) != 1 or decoder._end:
        raise RemoteProtocolError("not exactly one whole frame")
    return messages[0]
