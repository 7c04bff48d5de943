"""Every type of MariaDB arrives in Parquet as the value that was stored: a table of cases against a real server."""

from __future__ import annotations

import contextlib
import io
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamount.credentials import Credential
from datamount.drivers.mysql import MySQLDriver
from datamount.manifest import Dataset
from tests.servers import MariaDBServer
from tests.servers.mariadb import numbers


@dataclass(frozen=True)
class Case:
    declared: str
    stored: tuple[str, ...]
    """SQL literals; a NULL row is added to each."""
    type: pa.DataType
    values: tuple[Any, ...]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


LONG = "ab" * 40_000
CASES = {
    "tinyint": Case("TINYINT", ("-128", "127"), pa.int8(), (-128, 127)),
    "tinyint(1) is no boolean": Case("TINYINT(1)", ("-128", "0", "2"), pa.int8(), (-128, 0, 2)),
    "boolean": Case("BOOLEAN", ("TRUE", "FALSE"), pa.int8(), (1, 0)),
    "tinyint unsigned": Case("TINYINT UNSIGNED", ("0", "255"), pa.uint8(), (0, 255)),
    "smallint": Case("SMALLINT", ("-32768", "32767"), pa.int16(), (-32768, 32767)),
    "smallint unsigned": Case("SMALLINT UNSIGNED", ("65535",), pa.uint16(), (65535,)),
    "mediumint": Case("MEDIUMINT", ("-8388608", "8388607"), pa.int32(), (-8388608, 8388607)),
    "mediumint unsigned": Case("MEDIUMINT UNSIGNED", ("16777215",), pa.uint32(), (16777215,)),
    "int": Case("INT", ("-2147483648", "2147483647"), pa.int32(), (-(2**31), 2**31 - 1)),
    "int unsigned": Case("INT UNSIGNED", ("4294967295",), pa.uint32(), (2**32 - 1,)),
    "int zerofill": Case("INT(8) ZEROFILL", ("42",), pa.uint32(), (42,)),
    "bigint": Case("BIGINT", ("-9223372036854775808", "9223372036854775807"), pa.int64(), (-(2**63), 2**63 - 1)),
    "bigint unsigned": Case("BIGINT UNSIGNED", ("18446744073709551615",), pa.uint64(), (2**64 - 1,)),
    "decimal": Case(
        "DECIMAL(12,2)",
        ("-9999999999.99", "0.01", "0"),
        pa.decimal128(12, 2),
        (Decimal("-9999999999.99"), Decimal("0.01"), Decimal("0.00")),
    ),
    "decimal without a fraction": Case("DECIMAL(5,0)", ("-99999",), pa.decimal128(5, 0), (Decimal("-99999"),)),
    "decimal of fractions": Case("DECIMAL(4,4)", ("-0.9999",), pa.decimal128(4, 4), (Decimal("-0.9999"),)),
    "decimal unsigned": Case("DECIMAL(5,2) UNSIGNED", ("999.99",), pa.decimal128(5, 2), (Decimal("999.99"),)),
    "decimal of 38 digits": Case("DECIMAL(38,0)", ("9" * 38,), pa.decimal128(38, 0), (Decimal("9" * 38),)),
    "decimal of 65 digits": Case(
        "DECIMAL(65,30)",
        (f"-{'9' * 35}.{'8' * 30}",),
        pa.decimal256(65, 30),
        (Decimal(f"-{'9' * 35}.{'8' * 30}"),),
    ),
    "float": Case("FLOAT", ("16777215", "0.1", "-3.4e38"), pa.float32(), (16777215.0, 0.1, -3.4e38)),
    "double": Case(
        "DOUBLE", ("0.1e0", "1.7976931348623157e308", "5e-324"), pa.float64(), (0.1, 1.7976931348623157e308, 5e-324)
    ),
    "bit(1)": Case("BIT(1)", ("b'1'", "b'0'"), pa.bool_(), (True, False)),
    "bit(9)": Case("BIT(9)", ("b'100000001'",), pa.uint64(), (257,)),
    "bit(64)": Case("BIT(64)", ("18446744073709551615",), pa.uint64(), (2**64 - 1,)),
    "year": Case("YEAR", ("1901", "2155", "0"), pa.int16(), (1901, 2155, 0)),
    "date": Case("DATE", ("'1000-01-01'", "'9999-12-31'"), pa.date32(), (date(1000, 1, 1), date(9999, 12, 31))),
    "date that is none": Case(
        "DATE",
        ("'0000-00-00'", "'2020-02-00'", "'2020-00-01'", "'2020-02-31'", "'2020-02-29'"),
        pa.date32(),
        (None, None, None, None, date(2020, 2, 29)),
    ),
    "datetime": Case("DATETIME", ("'2020-02-29 23:59:58'",), pa.timestamp("us"), (datetime(2020, 2, 29, 23, 59, 58),)),
    "datetime(6)": Case(
        "DATETIME(6)",
        ("'1000-01-01 00:00:00.000001'", "'9999-12-31 23:59:59.999999'"),
        pa.timestamp("us"),
        (datetime(1000, 1, 1, 0, 0, 0, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)),
    ),
    "datetime that is none": Case(
        "DATETIME(3)",
        ("'0000-00-00 00:00:00'", "'2020-02-31 01:02:03'", "'2020-01-01 01:02:03.456'"),
        pa.timestamp("us"),
        (None, None, datetime(2020, 1, 1, 1, 2, 3, 456000)),
    ),
    "timestamp": Case(  # stored in a session whose zone is +02:00
        "TIMESTAMP(6) NULL",
        ("'2020-06-01 02:00:00.5'", "'0000-00-00 00:00:00'"),
        pa.timestamp("us", tz="UTC"),
        (utc(2020, 6, 1, 0, 0, 0, 500000), None),
    ),
    "time": Case(
        "TIME",
        ("'-838:59:59'", "'838:59:59'", "'-00:00:01'", "'00:00:00'"),
        pa.duration("us"),
        (
            -timedelta(hours=838, minutes=59, seconds=59),
            timedelta(hours=838, minutes=59, seconds=59),
            -timedelta(seconds=1),
            timedelta(0),
        ),
    ),
    "time(6)": Case(
        "TIME(6)",
        ("'-25:00:00.000001'", "'12:34:56.789'"),
        pa.duration("us"),
        (
            -timedelta(hours=25, microseconds=1),
            timedelta(hours=12, minutes=34, seconds=56, milliseconds=789),
        ),
    ),
    "char": Case("CHAR(10)", ("'ab'", "''"), pa.string(), ("ab", "")),
    "varchar of utf8mb4": Case("VARCHAR(20)", ("'naïve 😀'", "' x '"), pa.string(), ("naïve 😀", " x ")),
    "text of latin1": Case("TEXT CHARACTER SET latin1", ("'é'",), pa.string(), ("é",)),
    "text of twelve and thirteen": Case(
        "TEXT", ("'abcdefghijkl'", "'abcdefghijklm'"), pa.string(), ("abcdefghijkl", "abcdefghijklm")
    ),
    "text around the lengths' steps": Case(
        "LONGTEXT",
        (*(f"REPEAT('x', {n})" for n in (250, 251, 252, 65535, 65536, 80_000)), f"'{LONG}'"),
        pa.string(),
        (*("x" * n for n in (250, 251, 252, 65535, 65536, 80_000)), LONG),
    ),
    "json": Case("JSON", ('\'{"a": [1, "é"]}\'',), pa.string(), ('{"a": [1, "é"]}',)),
    "enum": Case("ENUM('small','größe')", ("'größe'", "1"), pa.string(), ("größe", "small")),
    "set": Case("SET('x','y','z')", ("'z,x'", "''"), pa.string(), ("x,z", "")),
    "uuid": Case(
        "UUID",
        ("'82f1d868-e5ee-11f1-b782-02fc00000001'",),
        pa.string(),
        ("82f1d868-e5ee-11f1-b782-02fc00000001",),
    ),
    "inet6": Case("INET6", ("'2001:db8::1'",), pa.string(), ("2001:db8::1",)),
    "binary": Case("BINARY(4)", ("x'00ff'",), pa.binary(), (b"\x00\xff\x00\x00",)),
    "varbinary": Case("VARBINARY(400)", ("x'00ff'", "REPEAT(x'fb', 300)"), pa.binary(), (b"\0\xff", b"\xfb" * 300)),
    "blob": Case("LONGBLOB", ("x'fffefdfc'", "''"), pa.binary(), (b"\xff\xfe\xfd\xfc", b"")),
    "geometry": Case("POINT", ("POINT(1, 2)",), pa.binary(), (struct.pack("<IBIdd", 0, 1, 1, 1.0, 2.0),)),
}

Read = Callable[..., pa.Table]


@pytest.fixture(scope="module")
def database(mariadb: MariaDBServer) -> str:
    return mariadb.make_database()


@pytest.fixture(scope="module")
def read(mariadb: MariaDBServer, database: str) -> Read:
    """A table of the server as the driver's Parquet file gives it."""
    user, password = mariadb.make_user(database)
    credential = Credential(user=user, password=password)

    def read(table: str, warnings: list[str] | None = None, **options: Any) -> pa.Table:
        source = {"host": mariadb.host, "port": mariadb.port, "database": database, "tables": {table: options}}
        dataset = Dataset.model_validate({"mysql": source})
        with contextlib.closing(MySQLDriver("course", dataset, dataset.mysql, credential)) as driver:
            [item] = driver.plan(driver.resolve())
            content = b"".join(driver.open(item))
            if warnings is not None:
                warnings.extend(driver.warnings)
        return pq.read_table(io.BytesIO(content))

    return read


@pytest.fixture
def cursor(mariadb: MariaDBServer, database: str) -> Iterator[Any]:
    with contextlib.closing(mariadb.connect(database=database)) as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+02:00', sql_mode = 'ALLOW_INVALID_DATES'")
        yield cursor


@pytest.mark.parametrize("name", CASES)
def test_type_arrives_exactly(cursor: Any, read: Read, name: str) -> None:
    """A column of every type holds the stored values, in a type that could hold any value of it, and NULL is null."""
    case = CASES[name]
    table = f"case {list(CASES).index(name)}"
    cursor.execute(f"CREATE TABLE `{table}` (id INT PRIMARY KEY, value {case.declared})")
    for number, literal in enumerate((*case.stored, "NULL")):
        cursor.execute(f"INSERT INTO `{table}` VALUES ({number}, {literal})")

    got = read(table)["value"]

    assert got.type == case.type
    expected = pa.array([*case.values, None], case.type)
    assert got.to_pylist() == expected.to_pylist()


def test_impossible_dates_are_told(cursor: Any, read: Read) -> None:
    """A date that became null is named in a warning, once a column; real NULLs are not."""
    cursor.execute("CREATE TABLE dates (id INT PRIMARY KEY, bad DATE, good DATE)")
    cursor.execute("INSERT INTO dates VALUES (1, '0000-00-00', NULL), (2, '0000-00-00', '2020-01-01')")
    warnings: list[str] = []

    read("dates", warnings)

    assert len(warnings) == 1
    assert "dates.parquet: 2 dates in bad " in warnings[0]


def test_every_float_survives(cursor: Any, read: Read) -> None:
    """Random FLOAT and DOUBLE bit patterns come back bit for bit, the six digits of FLOAT's text notwithstanding."""
    chance = random.Random(7)
    singles, doubles = [], []
    while len(singles) < 2000:
        [single] = struct.unpack("<f", chance.randbytes(4))
        [double] = struct.unpack("<d", chance.randbytes(8))
        if 1e-37 < abs(single) < 3.4e38 and abs(double) < 1.7e308:
            singles.append(single)
            doubles.append(double)
    cursor.execute("CREATE TABLE floats (id INT PRIMARY KEY, single FLOAT, `double` DOUBLE)")
    rows = ", ".join(f"({i}, {s!r}, {d!r})" for i, (s, d) in enumerate(zip(singles, doubles, strict=True)))
    cursor.execute(f"INSERT INTO floats VALUES {rows}")

    got = read("floats")

    assert got["single"].to_pylist() == singles
    assert got["double"].to_pylist() == doubles


def test_row_over_sixteen_megabytes(mariadb: MariaDBServer, database: str, read: Read) -> None:
    """Rows that need more than one packet arrive whole, and so do the rows around them."""
    mariadb.execute("SET GLOBAL max_allowed_packet = 268435456")
    sizes = [3, 2**24 - 1, 5, 2**24 - 6, 2**24 - 7, 2**24 + 7, 40 * 2**20, 0, 2]
    mariadb.execute(f"CREATE TABLE {database}.large (id INT PRIMARY KEY, body LONGBLOB, tail VARCHAR(9))")
    for number, size in enumerate(sizes):
        mariadb.execute(
            f"INSERT INTO {database}.large VALUES ({number}, REPEAT(CHAR({65 + number}), {size}), 'row {number}')"
        )

    got = read("large")

    assert got["tail"].to_pylist() == [f"row {number}" for number in range(len(sizes))]
    for number, body in enumerate(got["body"]):
        assert body.as_py() == bytes([65 + number]) * sizes[number]


def test_many_groups(mariadb: MariaDBServer, database: str, read: Read) -> None:
    """A table of several row groups has every row once, in the order of its key, NULLs between the values."""
    mariadb.execute(
        f"CREATE TABLE {database}.many (id INT PRIMARY KEY, word VARCHAR(400), number BIGINT) ENGINE=InnoDB",
        f"INSERT INTO {database}.many SELECT seq, IF(seq MOD 5 = 0, NULL, REPEAT(CHAR(97 + seq MOD 26), seq MOD 400)), "
        f"IF(seq MOD 7 = 0, NULL, -seq * 1000003) FROM {numbers(200_000)}",
    )

    got = read("many")

    keys = range(1, 200_001)
    assert got["id"].to_pylist() == list(keys)
    assert got["word"].to_pylist() == [None if n % 5 == 0 else chr(97 + n % 26) * (n % 400) for n in keys]
    assert got["number"].to_pylist() == [None if n % 7 == 0 else -n * 1000003 for n in keys]
