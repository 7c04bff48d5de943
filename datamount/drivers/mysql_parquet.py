"""A query's result as the bytes of a Parquet file, in bounded memory and the same bytes for the same rows.

Rows are gathered into row groups by a rule that looks at the rows alone (never at how the network cut them), each is
written by Arrow into a buffer, and the buffer is handed on and emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pymysql.cursors import SSCursor

from datamount.drivers.mysql_types import Column, convert

ROW_GROUP_BYTES = 32 * 2**20
"""Text on the wire that makes a row group: bounds the memory, and lets readers skip and read in parallel."""
ROW_GROUP_ROWS = 2**20


def parquet(
    connection: Any, sql: str, columns: Sequence[Column], impossible: Callable[[str, int], None]
) -> Iterator[bytes]:
    """The bytes of a Parquet file with the rows of `sql`, whose columns are `columns`.

    `impossible(column, count)` is told of dates that became null. The connection must be unused until the iterator
    is exhausted; when it is closed before, the connection is in the middle of a result and can only be closed.
    """
    schema = pa.schema([column.field for column in columns])
    drain = _Drain()
    with pq.ParquetWriter(pa.PythonFile(drain, mode="w"), schema, compression="zstd", version="2.6") as writer:
        for raw in _row_groups(connection, sql, len(columns)):
            arrays = []
            for column, values in zip(columns, raw, strict=True):
                array, lost = convert(values, column)
                arrays.append(array)
                if lost:
                    impossible(column.name, lost)
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            yield drain.empty()
    yield drain.empty()


def _row_groups(connection: Any, sql: str, width: int) -> Iterator[list[pa.Array]]:
    cursor = connection.cursor(SSCursor)
    cursor.execute(sql)
    rows: list[tuple[bytes | None, ...]] = []
    size = 0
    while row := cursor.fetchone():
        rows.append(row)
        size += sum(len(value) for value in row if value is not None)
        if size >= ROW_GROUP_BYTES or len(rows) >= ROW_GROUP_ROWS:
            yield [pa.array([row[i] for row in rows], pa.binary()) for i in range(width)]
            rows, size = [], 0
    if rows:
        yield [pa.array([row[i] for row in rows], pa.binary()) for i in range(width)]


class _Drain:
    """What Arrow writes to: keeps the bytes until they are taken."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._position = 0

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def empty(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data
