"""The SQL that reads what a manifest asks of a table. Text in, text out; identifiers and values are always quoted."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import pyarrow as pa
from pymysql.converters import escape_string

from datamount.drivers.mysql_types import Column
from datamount.manifest import Table

# ruff: noqa: S608 (what is not quoted here is the author's own SQL, run read-only with the reader's rights)

NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"


def describe(name: str, wanted: Table) -> str:
    """A query of no rows whose columns are those to deliver."""
    if wanted.query:
        return f"SELECT * FROM ({_inner(wanted.query)}) AS result LIMIT 0"
    columns = ", ".join(map(quoted, wanted.columns)) if wanted.columns else "*"
    return f"SELECT {columns} FROM {quoted(name)} LIMIT 0"


def select(name: str, wanted: Table, columns: Sequence[Column], key: Sequence[str], condition: str = "") -> str:
    """All rows to deliver, in the order of `key`."""
    if wanted.query:
        return wanted.query
    table = quoted(name)
    sql = f"SELECT {', '.join(c.selected(quoted(c.name)) for c in columns)} FROM {table}"
    if conditions := [f"({part}\n)" for part in (wanted.where, condition) if part]:
        sql += f" WHERE {' AND '.join(conditions)}"
    if key:
        sql += f" ORDER BY {', '.join(f'{table}.{quoted(part)}' for part in key)}"
    if wanted.limit is not None:
        sql += f" LIMIT {wanted.limit}"
    return sql


def partitions(name: str, wanted: Table, by: Column) -> str:
    """Every value of a column, in order, each told apart by its exact text."""
    value = _exact(by)
    sql = f"SELECT DISTINCT {value} AS value FROM {quoted(name)}"
    if wanted.where:
        sql += f" WHERE ({wanted.where}\n)"
    return f"{sql} ORDER BY value"


def has_value(by: Column, value: str | None) -> str:
    """The condition that a row belongs to a partition; an index on the column serves it."""
    if value is None:
        return f"{quoted(by.name)} IS NULL"
    literal = f"'{escape_string(value)}'"
    condition = f"{quoted(by.name)} = {literal}"
    return f"{condition} AND {_exact(by)} = {literal}" if pa.types.is_string(by.type) else condition


def folder(by: Column, value: str | None) -> str:
    """A partition's folder as Hive, Arrow and DuckDB name it: `category=ECG`, percent-encoded where it must be."""
    return f"{quote(by.name, safe=' ')}={NULL_FOLDER if value is None else quote(value, safe=' ')}"


def can_partition(by: Column) -> bool:
    """Whether a column's values have one exact, readable text each."""
    kind = by.type
    return bool(pa.types.is_integer(kind) or pa.types.is_date(kind) or pa.types.is_string(kind))


def quoted(identifier: str) -> str:
    """An identifier in backticks, whatever it holds."""
    return "`" + identifier.replace("`", "``") + "`"


def _exact(by: Column) -> str:
    """A column as it is compared by its bytes: collations take "ecg" for "ECG", or (utf8mb4_bin too) "x " for "x"."""
    name = quoted(by.name)
    return f"CAST(CONVERT({name} USING utf8mb4) AS BINARY)" if pa.types.is_string(by.type) else name


def _inner(query: str) -> str:
    return f"{query.strip().rstrip(';')}\n"
