"""codec: every constant and fixed layout of the NBD wire, once.

Source: the NBD protocol document, `doc/proto.md` of the NetworkBlockDevice project; its section
names stand above each group. All integers travel big-endian.
"""

from __future__ import annotations

import struct
from typing import Final

from base.errors import (
    AccessDenied,
    DeviceFailed,
    InvalidRequest,
    NoSpace,
    Overloaded,
    RequestTimeout,
    Stopping,
    StorageError,
)
from base.units import MiB

# "Newstyle negotiation", "Fixed newstyle negotiation"
GREETING_MAGIC: Final = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC: Final = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x3E889045565A9

# "Handshake flags", "Client flags": the same two bits in both directions
FLAG_FIXED_NEWSTYLE: Final = 1 << 0
FLAG_NO_ZEROES: Final = 1 << 1
EXPORT_NAME_ZEROES: Final = bytes(124)

# "Option types"
OPT_EXPORT_NAME: Final = 1
OPT_ABORT: Final = 2
OPT_LIST: Final = 3
OPT_STARTTLS: Final = 5
OPT_INFO: Final = 6
OPT_GO: Final = 7
OPT_STRUCTURED_REPLY: Final = 8
OPT_LIST_META_CONTEXT: Final = 9
OPT_SET_META_CONTEXT: Final = 10

# "Option reply types"
REP_ACK: Final = 1
REP_SERVER: Final = 2
REP_INFO: Final = 3
REP_META_CONTEXT: Final = 4
REP_FLAG_ERROR: Final = 1 << 31
REP_ERR_UNSUP: Final = REP_FLAG_ERROR | 1
REP_ERR_POLICY: Final = REP_FLAG_ERROR | 2
REP_ERR_INVALID: Final = REP_FLAG_ERROR | 3
REP_ERR_TLS_REQD: Final = REP_FLAG_ERROR | 5
REP_ERR_UNKNOWN: Final = REP_FLAG_ERROR | 6
REP_ERR_SHUTDOWN: Final = REP_FLAG_ERROR | 7

# "NBD_OPT_INFO and NBD_OPT_GO": information types
INFO_EXPORT: Final = 0
INFO_NAME: Final = 1
INFO_DESCRIPTION: Final = 2
INFO_BLOCK_SIZE: Final = 3

# "Transmission flags"
EXPORT_HAS_FLAGS: Final = 1 << 0
EXPORT_READ_ONLY: Final = 1 << 1
EXPORT_SEND_FLUSH: Final = 1 << 2
EXPORT_SEND_FUA: Final = 1 << 3
EXPORT_SEND_TRIM: Final = 1 << 5
EXPORT_SEND_WRITE_ZEROES: Final = 1 << 6
EXPORT_SEND_DF: Final = 1 << 7
EXPORT_CAN_MULTI_CONN: Final = 1 << 8

# "Request types"
CMD_READ: Final = 0
CMD_WRITE: Final = 1
CMD_DISC: Final = 2
CMD_FLUSH: Final = 3
CMD_TRIM: Final = 4
CMD_CACHE: Final = 5  # not offered: refused like every command that we do not know
CMD_WRITE_ZEROES: Final = 6
CMD_BLOCK_STATUS: Final = 7

# "Command flags"
CMD_FLAG_FUA: Final = 1 << 0
CMD_FLAG_NO_HOLE: Final = 1 << 1
CMD_FLAG_DF: Final = 1 << 2
CMD_FLAG_REQ_ONE: Final = 1 << 3
CMD_FLAG_FAST_ZERO: Final = 1 << 4  # not offered, so refused with EINVAL as its section asks

# "Request message", "Simple reply message", "Structured reply chunk message"
REQUEST_MAGIC: Final = 0x25609513
SIMPLE_REPLY_MAGIC: Final = 0x67446698
STRUCTURED_REPLY_MAGIC: Final = 0x668E33EF
CHUNK_FLAG_DONE: Final = 1 << 0

# "Structured reply types"
CHUNK_NONE: Final = 0
CHUNK_OFFSET_DATA: Final = 1
CHUNK_OFFSET_HOLE: Final = 2
CHUNK_BLOCK_STATUS: Final = 5
CHUNK_FLAG_ERROR: Final = 1 << 15
CHUNK_ERROR: Final = CHUNK_FLAG_ERROR | 1
CHUNK_ERROR_OFFSET: Final = CHUNK_FLAG_ERROR | 2

# "Metadata querying", "The base: metadata namespace"
CONTEXT_ALLOCATION: Final = "base:allocation"
STATE_HOLE: Final = 1 << 0
STATE_ZERO: Final = 1 << 1

# "Error values"
NBD_EPERM: Final = 1
NBD_EIO: Final = 5
NBD_ENOMEM: Final = 12
NBD_EINVAL: Final = 22
NBD_ENOSPC: Final = 28
NBD_EOVERFLOW: Final = 75
NBD_ENOTSUP: Final = 95
NBD_ESHUTDOWN: Final = 108

# "Block size constraints"; the bounds below them are ours
BLOCK_PREFERRED_BYTES: Final = 4096
REQUEST_BYTES_MAX: Final = 32 * MiB
STRING_BYTES_MAX: Final = 4096  # "Values": strings
OPTION_BYTES_MAX: Final = 64 * 1024  # longest option that we read; longer ends the connection
OPTIONS_MAX: Final = 256  # options in one handshake
STATUS_EXTENTS_MAX: Final = 32 * 1024  # extents in one block status reply

GREETING: Final = struct.Struct(">QQH")  # magic, option magic, handshake flags
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION: Final = struct.Struct(">QII")  # magic, option, length
OPTION_REPLY: Final = struct.Struct(">QIII")  # magic, option, reply type, length
EXPORT_INFO: Final = struct.Struct(">QH")  # size, transmission flags
INFO_EXPORT_REPLY: Final = struct.Struct(">HQH")  # type, size, transmission flags
INFO_BLOCK_SIZE_REPLY: Final = struct.Struct(">HIII")  # type, minimum, preferred, maximum
REQUEST: Final = struct.Struct(">IHHQQI")  # magic, flags, command, cookie, offset, length
SIMPLE_REPLY: Final = struct.Struct(">IIQ")  # magic, error, cookie
CHUNK: Final = struct.Struct(">IHHQI")  # magic, flags, type, cookie, length
CHUNK_DATA: Final = struct.Struct(">IHHQIQ")  # the same, then the offset of the data
CHUNK_HOLE: Final = struct.Struct(">IHHQIQI")  # the same, then offset and length of the hole
CHUNK_ERROR_HEAD: Final = struct.Struct(">IHHQIIH")  # the same, then error, length of the text
STATUS_EXTENT: Final = struct.Struct(">II")  # length, flags
U16: Final = struct.Struct(">H")
U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")

# What a host hears for each of our errors; the others are EIO.
_ERRNO_OF_CODE: Final[dict[str, int]] = {
    "invalid": NBD_EINVAL,
    "no_space": NBD_ENOSPC,
    "stopping": NBD_ESHUTDOWN,
    "denied": NBD_EPERM,
    "overloaded": NBD_ENOMEM,
}

_ERROR_OF_ERRNO: Final[dict[int, type[StorageError]]] = {
    NBD_EPERM: AccessDenied,
    NBD_EIO: DeviceFailed,
    NBD_ENOMEM: Overloaded,
    NBD_EINVAL: InvalidRequest,
    NBD_ENOSPC: NoSpace,
    NBD_EOVERFLOW: InvalidRequest,
    NBD_ENOTSUP: InvalidRequest,
    NBD_ESHUTDOWN: Stopping,
    110: RequestTimeout,  # not of the protocol, but some servers pass the kernel's number on
}

ERRNO_NAMES: Final[dict[int, str]] = {
    NBD_EPERM: "EPERM",
    NBD_EIO: "EIO",
    NBD_ENOMEM: "ENOMEM",
    NBD_EINVAL: "EINVAL",
    NBD_ENOSPC: "ENOSPC",
    NBD_EOVERFLOW: "EOVERFLOW",
    NBD_ENOTSUP: "ENOTSUP",
    NBD_ESHUTDOWN: "ESHUTDOWN",
}


def errno_of(error: StorageError) -> int:
    """The NBD error value that a host hears for one of our errors."""
    return _ERRNO_OF_CODE.get(error.code, NBD_EIO)


def error_of(errno: int, text: str) -> StorageError:
    """Our error for an NBD error value, with the value's name in front of the text."""
    name = ERRNO_NAMES.get(errno, f"error {errno}")
    return _ERROR_OF_ERRNO.get(errno, DeviceFailed)(f"{name}: {text}" if text else name)
