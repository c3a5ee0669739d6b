"""codec: the server's side of the NBD fixed newstyle handshake, without I/O.

`greeting` goes out first. Then: `feed` what arrives, call `take` until it returns None, send every
`Send`, and go over to transmission on `Selected` (its bytes are sent first; `unused` holds what
arrived behind the last option) or close on `Ended`. `take` answers one option a call, so a shell
that cannot send can stop there: what is held is bounded by one option and what one read brought.
Sections named in comments are those of the NBD protocol document.
"""

from __future__ import annotations

from dataclasses import dataclass

from base.errors import NotFound, RemoteProtocolError, Stopping, StorageError
from host import nbd_wire as wire
from host.export import ExportTable, VolumeView, answers_context, contexts_of


@dataclass(frozen=True, slots=True)
class Session:
    """What a handshake agreed: all that transmission needs to know."""

    view: VolumeView
    structured: bool
    contexts: tuple[tuple[int, str], ...]  # (id, name) of the selected status contexts


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes for the client."""

    buffer: bytes


@dataclass(frozen=True, slots=True)
class Selected:
    """The handshake is over and transmission begins, once `buffer` is on its way."""

    buffer: bytes
    session: Session


@dataclass(frozen=True, slots=True)
class Ended:
    """The client wants, or gets, no transmission: send `buffer` and close."""

    buffer: bytes
    reason: str


Event = Send | Selected | Ended


class _Malformed(Exception):
    """An option's body breaks its layout. Answered with ERR_INVALID; never leaves this module."""


class _Body:
    """Reads one option's body front to back."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self._take(width), "big")

    def text(self) -> str:
        length = self.unsigned(4)
        if length > wire.STRING_BYTES_MAX:
            raise _Malformed(f"a string of {length} bytes: {wire.STRING_BYTES_MAX} are allowed")
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            raise _Malformed("a string that is not UTF-8") from None

    def end(self) -> None:
        if self._at != len(self._body):
            raise _Malformed(f"{len(self._body) - self._at} bytes too many")

    def _take(self, length: int) -> bytes:
        piece = self._body[self._at : self._at + length]
        if len(piece) != length:
            raise _Malformed("the body is too short")
        self._at += length
        return piece


def transmission_flags(view: VolumeView, *, structured: bool) -> int:
    """What the export can do ("Transmission flags")."""
    flags = (
        wire.EXPORT_HAS_FLAGS
        | wire.EXPORT_SEND_FLUSH
        | wire.EXPORT_SEND_FUA
        | wire.EXPORT_CAN_MULTI_CONN
    )
    if structured:
        flags |= wire.EXPORT_SEND_DF
    if view.read_only:
        return flags | wire.EXPORT_READ_ONLY
    return flags | wire.EXPORT_SEND_TRIM | wire.EXPORT_SEND_WRITE_ZEROES


def option_reply(option: int, kind: int, body: bytes = b"") -> bytes:
    """One option reply ("Fixed newstyle negotiation")."""
    return wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, kind, len(body)) + body


def _matches(query: str, context: str, *, listing: bool) -> bool:
    # "Metadata querying": when listing, a namespace with its colon alone stands for all of it.
    if listing and query.endswith(":"):
        return context.startswith(query)
    return query == context


class Handshake:
    """One client's handshake. Raises RemoteProtocolError where the connection must end."""

    def __init__(self, exports: ExportTable) -> None:
        self._exports = exports
        self._buffer = bytearray()
        self._flags_seen = False
        self._no_zeroes = False
        self._structured = False
        self._selected: tuple[str, tuple[tuple[int, str], ...]] = ("", ())
        self._options = 0
        self._over = False
        self._refusal: tuple[int, str] | None = None

    @staticmethod
    def greeting() -> bytes:
        """What the server says first."""
        flags = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES
        return wire.GREETING.pack(wire.GREETING_MAGIC, wire.OPTION_MAGIC, flags)

    def refuse(self, text: str, *, shutting_down: bool = False) -> None:
        """Answer the next option with a refusal that says why, then end."""
        self._refusal = (wire.REP_ERR_SHUTDOWN if shutting_down else wire.REP_ERR_POLICY, text)

    def feed(self, received: bytes | bytearray | memoryview) -> None:
        """Add what arrived."""
        self._buffer += received

    @property
    def unused(self) -> bytes:
        """What was fed and not used yet; after `Selected` it belongs to transmission."""
        return bytes(self._buffer)

    def receive_data(self, received: bytes | bytearray | memoryview) -> list[Event]:
        """Feed, and take everything that is complete."""
        self.feed(received)
        events: list[Event] = []
        while (event := self.take()) is not None:
            events.append(event)
        return events

    def take(self) -> Event | None:
        """The answer to the next complete option, or None until more is fed."""
        if self._over:
            return None
        if not self._flags_seen and not self._take_flags():
            return None
        buffer = self._buffer
        if len(buffer) < wire.OPTION.size:
            return None
        magic, option, length = wire.OPTION.unpack_from(buffer)
        if magic != wire.OPTION_MAGIC:
            raise RemoteProtocolError(f"option magic {magic:#x}: IHAVEOPT belongs there")
        if length > wire.OPTION_BYTES_MAX:
            raise RemoteProtocolError(
                f"option {option} with {length} bytes: {wire.OPTION_BYTES_MAX} are allowed"
            )
        end = wire.OPTION.size + length
        if len(buffer) < end:
            return None
        self._options += 1
        if self._options > wire.OPTIONS_MAX:
            raise RemoteProtocolError(f"more than {wire.OPTIONS_MAX} options in one handshake")
        body = bytes(buffer[wire.OPTION.size : end])
        del buffer[:end]
        event = self._answer(option, body)
        self._over = not isinstance(event, Send)
        return event

    def _take_flags(self) -> bool:
        if len(self._buffer) < wire.CLIENT_FLAGS.size:
            return False
        (flags,) = wire.CLIENT_FLAGS.unpack_from(self._buffer)
        if flags & ~(wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES):
            raise RemoteProtocolError(f"client flags {flags:#x}: only bits 0 and 1 are known")
        del self._buffer[: wire.CLIENT_FLAGS.size]
        self._no_zeroes = bool(flags & wire.FLAG_NO_ZEROES)
        self._flags_seen = True
        return True

    def _answer(self, option: int, body: bytes) -> Event:
        if self._refusal is not None:
            return self._answer_refusal(option)
        try:
            match option:
                case wire.OPT_EXPORT_NAME:
                    return self._answer_export_name(body)
                case wire.OPT_ABORT:
                    return Ended(option_reply(option, wire.REP_ACK), "the client aborted")
                case wire.OPT_LIST:
                    return self._answer_list(body)
                case wire.OPT_INFO | wire.OPT_GO:
                    return self._answer_go(option, body)
                case wire.OPT_STRUCTURED_REPLY:
                    _Body(body).end()
                    self._structured = True
                    return Send(option_reply(option, wire.REP_ACK))
                case wire.OPT_LIST_META_CONTEXT | wire.OPT_SET_META_CONTEXT:
                    return self._answer_meta_context(option, body)
                case _:  # STARTTLS too: this server offers no TLS
                    return Send(option_reply(option, wire.REP_ERR_UNSUP))
        except _Malformed as malformed:
            if option == wire.OPT_EXPORT_NAME:  # an option without an answer of its own
                raise RemoteProtocolError(f"export name: {malformed}") from None
            return Send(option_reply(option, wire.REP_ERR_INVALID, str(malformed).encode()))

    def _answer_refusal(self, option: int) -> Event:
        assert self._refusal is not None
        kind, text = self._refusal
        if option == wire.OPT_EXPORT_NAME:
            return Ended(b"", text)
        if option == wire.OPT_ABORT:
            return Ended(option_reply(option, wire.REP_ACK), "the client aborted")
        return Ended(option_reply(option, kind, text.encode()), text)

    def _open(self, name: str) -> VolumeView:
        # "Export name ''": the default export, which is ours when there is no other.
        if name == "":
            names = self._exports.names()
            if len(names) == 1:
                name = names[0]
        return self._exports.open(name)

    def _session(self, name: str, view: VolumeView) -> Session:
        # "NBD_OPT_SET_META_CONTEXT": a selection made for another export does not count.
        selected_for, contexts = self._selected
        return Session(view, self._structured, contexts if selected_for == name else ())

    def _answer_export_name(self, body: bytes) -> Event:
        try:
            name = body.decode()
            view = self._open(name)
        except UnicodeDecodeError:
            raise RemoteProtocolError("export name: not UTF-8") from None
        except StorageError as error:
            # "NBD_OPT_EXPORT_NAME" has no way to say no: the connection ends.
            return Ended(b"", str(error))
        flags = transmission_flags(view, structured=self._structured)
        reply = wire.EXPORT_INFO.pack(view.size_bytes, flags)
        if not self._no_zeroes:
            reply += wire.EXPORT_NAME_ZEROES
        return Selected(reply, self._session(name, view))

    def _answer_list(self, body: bytes) -> Event:
        _Body(body).end()
        replies: list[bytes] = []
        for name in self._exports.names():
            try:
                description = self._exports.open(name).description.encode()
            except StorageError:
                continue  # it went away between the two calls
            encoded = name.encode()
            server = wire.U32.pack(len(encoded)) + encoded + description[: wire.STRING_BYTES_MAX]
            replies.append(option_reply(wire.OPT_LIST, wire.REP_SERVER, server))
        replies.append(option_reply(wire.OPT_LIST, wire.REP_ACK))
        return Send(b"".join(replies))

    def _answer_go(self, option: int, body: bytes) -> Event:
        fields = _Body(body)
        name = fields.text()
        asked = [fields.unsigned(2) for _ in range(fields.unsigned(2))]
        fields.end()
        try:
            view = self._open(name)
        except StorageError as error:
            return Send(_export_refused(option, error))
        flags = transmission_flags(view, structured=self._structured)
        infos = [wire.INFO_EXPORT_REPLY.pack(wire.INFO_EXPORT, view.size_bytes, flags)]
        if wire.INFO_NAME in asked:
            infos.append(wire.U16.pack(wire.INFO_NAME) + view.name.encode())
        if wire.INFO_DESCRIPTION in asked and view.description:
            text = view.description.encode()[: wire.STRING_BYTES_MAX]
            infos.append(wire.U16.pack(wire.INFO_DESCRIPTION) + text)
        # Said also when not asked for: it is true either way, and a client may skip what it
        # does not know.
        infos.append(
            wire.INFO_BLOCK_SIZE_REPLY.pack(
                wire.INFO_BLOCK_SIZE,
                view.block_min_bytes,
                max(wire.BLOCK_PREFERRED_BYTES, view.block_min_bytes),
                wire.REQUEST_BYTES_MAX,
            )
        )
        reply = b"".join(option_reply(option, wire.REP_INFO, info) for info in infos)
        reply += option_reply(option, wire.REP_ACK)
        if option == wire.OPT_INFO:
            return Send(reply)
        return Selected(reply, self._session(name, view))

    def _answer_meta_context(self, option: int, body: bytes) -> Event:
        fields = _Body(body)
        name = fields.text()
        queries = [fields.text() for _ in range(fields.unsigned(4))]
        fields.end()
        listing = option == wire.OPT_LIST_META_CONTEXT
        if not self._structured:
            text = b"status contexts need structured replies: ask for those first"
            return Send(option_reply(option, wire.REP_ERR_INVALID, text))
        if not listing:
            self._selected = ("", ())  # a failed SET leaves nothing selected
        try:
            view = self._open(name)
        except StorageError as error:
            return Send(_export_refused(option, error))
        offered = contexts_of(view)
        more = [each for each in dict.fromkeys(queries) if each not in offered]
        offered += tuple(each for each in more if answers_context(view, each))
        chosen = tuple(
            (number, context)
            for number, context in enumerate(offered, start=1)
            if (listing and not queries)
            or any(_matches(query, context, listing=listing) for query in queries)
        )
        if not listing:
            self._selected = (name, chosen)
        replies = [
            option_reply(
                option,
                wire.REP_META_CONTEXT,
                wire.U32.pack(0 if listing else number) + context.encode(),
            )
            for number, context in chosen
        ]
        replies.append(option_reply(option, wire.REP_ACK))
        return Send(b"".join(replies))


def _export_refused(option: int, error: StorageError) -> bytes:
    if isinstance(error, NotFound):
        kind = wire.REP_ERR_UNKNOWN
    elif isinstance(error, Stopping):
        kind = wire.REP_ERR_SHUTDOWN
    else:
        kind = wire.REP_ERR_POLICY
    return option_reply(option, kind, str(error).encode()[: wire.STRING_BYTES_MAX])
