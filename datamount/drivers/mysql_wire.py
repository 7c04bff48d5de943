"""A query's rows as Arrow arrays, taken from the wire without making a Python object of any value.

PyMySQL opens the connection, logs in and sends the query; the rows are then read here, since its row reader costs
several microseconds a value and ours some tens of nanoseconds (docs/decisions/mysql-to-parquet.md). The text protocol
is simple enough (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_com_query_response.html): a packet a
row, which is a three-byte length, a number and the values, each behind its own length. The packets' starts are found
one by one; the values of a column are then found for all rows at once, and Arrow gets a view of each in the buffer.
"""

from __future__ import annotations

import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pymysql
from pymysql.constants import COMMAND, CR
from pymysql.protocol import FieldDescriptorPacket

ROW_GROUP_BYTES = 16 * 2**20
"""A group of rows ends with the row that reaches this size on the wire: the rows alone decide, not the network."""

_HEADER = 4
_WHOLE = 0xFFFFFF
"""Length of a packet that goes on in the next one."""
_PADDING = 16
"""Bytes that may be read (never used) behind the last row."""
_INLINE = 12
"""Arrow keeps values up to this length in the view itself."""
_NULL, _TWO, _THREE, _EIGHT = 251, 252, 253, 254
_EOF, _ERROR = 0xFE, 0xFF
_KEEP = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF], np.uint32)

T = TypeVar("T")
Offsets = npt.NDArray[np.int64]


def row_groups(connection: Any, sql: str) -> Iterator[list[pa.Array]]:
    """The rows of a query in groups, each as one binary array a column.

    Raises PyMySQL's errors. Closed before its end, it leaves the connection in the middle of a result.
    """
    connection._execute_command(COMMAND.COM_QUERY, sql)
    width = connection._read_packet().read_length_encoded_integer()
    for _ in range(width):
        connection._read_packet(FieldDescriptorPacket)
    connection._read_packet()
    # The next group is read while this one is converted and written, or server and client would take turns.
    with _ahead(_packets(connection), stop=partial(_hang_up, connection)) as groups:
        for buffer, starts in groups:
            yield _columns(buffer, np.array(starts, np.int64), width)


@contextmanager
def _ahead(source: Iterator[T], stop: Callable[[], None]) -> Iterator[Iterator[T]]:
    """`source`, run by a thread that is one item ahead. `stop` ends a blocked `source` when the block is left early."""
    ready: queue.Queue[T | None] = queue.Queue(maxsize=1)
    failures: list[BaseException] = []
    left = False

    def work() -> None:
        try:
            for item in source:
                ready.put(item)
                if left:
                    return
        except BaseException as error:
            failures.append(error)
        ready.put(None)

    thread = threading.Thread(target=work, name="mysql-rows", daemon=True)
    thread.start()
    try:
        yield iter(ready.get, None)
        if failures:
            raise failures[0]
    except BaseException:
        left = True
        stop()
        while thread.is_alive():
            with suppress(queue.Empty):
                ready.get(timeout=0.1)
        raise
    finally:
        thread.join()


def _hang_up(connection: Any) -> None:
    with suppress(OSError):
        connection._sock.shutdown(socket.SHUT_RDWR)


def _packets(connection: Any) -> Iterator[tuple[bytearray, list[int]]]:
    """Buffers full of whole rows, with the place where each row's values start."""
    # What PyMySQL's reader has read ahead; from here on the socket is read past it, straight into our buffer.
    left = bytearray(_received(lambda: connection._rfile.read1(2**16)))
    while True:
        buffer, filled = left + bytearray(ROW_GROUP_BYTES + 2**18 + _PADDING - len(left)), len(left)
        starts: list[int] = []
        end = 0
        while True:
            end, filled = _walk(buffer, end, filled, starts)
            if starts and _is_last(buffer, starts[-1], end):
                if len(starts) > 1:
                    yield buffer, starts[:-1]
                return
            if end >= ROW_GROUP_BYTES:
                break
            if len(buffer) - filled - _PADDING < 2**16:
                buffer += bytearray(len(buffer))
            with memoryview(buffer)[filled:-_PADDING] as space:
                filled += _received(partial(connection._rfile.raw.readinto, space))
        left = buffer[end:filled]
        yield buffer, starts


def _received(read: Callable[[], T]) -> T:
    try:
        got = read()
    except OSError as error:
        raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, "lost connection while reading rows") from error
    if not got:
        raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, "the server closed the connection")
    return got


def _walk(buffer: bytearray, place: int, filled: int, starts: list[int]) -> tuple[int, int]:
    """Add the starts of the whole packets from `place`; where they end, and what is filled (joining packets moves it).

    Stops at the row that makes the group.
    """
    length_at, append = struct.Struct("<I").unpack_from, starts.append
    while place <= filled - _HEADER and place < ROW_GROUP_BYTES:
        length = length_at(buffer, place)[0] & _WHOLE
        following = place + _HEADER + length
        if following > filled:
            break
        if length == _WHOLE:
            inner = []
            while length == _WHOLE and following <= filled - _HEADER:
                inner.append(following)
                length = length_at(buffer, following)[0] & _WHOLE
                following += _HEADER + length
            if length == _WHOLE or following > filled:
                break
            for header in reversed(inner):
                del buffer[header : header + _HEADER]
            filled -= _HEADER * len(inner)
            following -= _HEADER * len(inner)
        append(place + _HEADER)
        place = following
    return place, filled


def _is_last(buffer: bytearray, start: int, end: int) -> bool:
    """Whether this packet ends the result; raises the server's error where it is one. Nothing can follow either."""
    if buffer[start] == _ERROR:
        pymysql.err.raise_mysql_exception(bytes(buffer[start:end]))
    return buffer[start] == _EOF and end - start < 9


def _columns(buffer: bytearray, place: Offsets, width: int) -> list[pa.Array]:
    data = np.frombuffer(buffer, np.uint8)
    shared = pa.py_buffer(buffer)
    arrays = []
    for _ in range(width):
        lengths = data[place].astype(np.int64)
        place = place + 1
        null: npt.NDArray[np.bool_] | None = None
        if lengths.max() >= _NULL:
            prefix = lengths
            null = prefix == _NULL
            lengths = np.where(null, 0, prefix)
            for mark, size in ((_TWO, 2), (_THREE, 3), (_EIGHT, 8)):
                rows = np.flatnonzero(prefix == mark)
                if len(rows):
                    at = place[rows]
                    lengths[rows] = sum(data[at + i].astype(np.int64) << 8 * i for i in range(size))
                    place[rows] += size
        arrays.append(_array(data, shared, place, lengths, null))
        place = place + lengths
    return arrays


def _array(
    data: npt.NDArray[np.uint8],
    shared: pa.Buffer,
    place: Offsets,
    lengths: Offsets,
    null: npt.NDArray[np.bool_] | None,
) -> pa.Array:
    """A binary array of the values, through Arrow's view layout: 16 bytes a value, of which the first four are its
    length; then comes either the value itself or its first four bytes, the number of the buffer and the offset there.
    """
    longest = int(lengths.max())
    words = np.ndarray((len(data) - 3,), "<u4", data.data, strides=(1,))  # overlapping: a word at every byte
    views = np.zeros((len(place), 4), np.uint32)
    views[:, 0] = lengths
    for word in range(3):
        if longest > 4 * word:
            views[:, word + 1] = words[place + 4 * word] & _KEEP[np.clip(lengths - 4 * word, 0, 4)]
    if longest > _INLINE:
        rows = np.flatnonzero(lengths > _INLINE)
        views[rows, 2] = 0
        views[rows, 3] = place[rows]
    validity = None if null is None else pa.py_buffer(np.packbits(~null, bitorder="little"))
    return pa.Array.from_buffers(pa.binary_view(), len(place), [validity, pa.py_buffer(views), shared]).cast(
        pa.binary()
    )
