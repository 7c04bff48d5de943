"""Which Arrow type a MySQL column becomes, and the conversion of its text on the wire to that type, without loss.

The text protocol prints every value exactly (a FLOAT excepted, which the query therefore reads as DOUBLE), so a
column arrives as bytes and is parsed once, by Arrow, into the narrowest type that holds every value of its MySQL
type:

    TINYINT … BIGINT [UNSIGNED]   int8 … int64, uint8 … uint64 (TINYINT(1) stays int8: it holds -128 … 127)
    DECIMAL(p,s)                  decimal128(p,s), decimal256 above 38 digits
    FLOAT, DOUBLE                 float32, float64
    BIT(1), BIT(n)                bool, uint64
    YEAR                          int16
    DATE                          date32; a date that no calendar has (0000-00-00, 2020-02-00) becomes null
    DATETIME                      timestamp[us], no zone; null as above
    TIMESTAMP                     timestamp[us, UTC] (the session reads in UTC); null as above
    TIME                          duration[us], -838:59:59 … 838:59:59
    CHAR, TEXT, ENUM, SET, JSON   string
    BINARY, BLOB, GEOMETRY        binary
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
from pymysql.constants import FIELD_TYPE, FLAG

_INTEGERS = {
    FIELD_TYPE.TINY: (pa.int8(), pa.uint8()),
    FIELD_TYPE.SHORT: (pa.int16(), pa.uint16()),
    FIELD_TYPE.INT24: (pa.int32(), pa.uint32()),
    FIELD_TYPE.LONG: (pa.int32(), pa.uint32()),
    FIELD_TYPE.LONGLONG: (pa.int64(), pa.uint64()),
}
_PLAIN = {
    FIELD_TYPE.FLOAT: pa.float32(),
    FIELD_TYPE.DOUBLE: pa.float64(),
    FIELD_TYPE.YEAR: pa.int16(),
    FIELD_TYPE.DATE: pa.date32(),
    FIELD_TYPE.NEWDATE: pa.date32(),
    FIELD_TYPE.DATETIME: pa.timestamp("us"),
    FIELD_TYPE.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    FIELD_TYPE.TIME: pa.duration("us"),
    FIELD_TYPE.JSON: pa.string(),
    FIELD_TYPE.NULL: pa.string(),
}
_BINARY_CHARSET = 63


class Described(Protocol):
    """What the server says of a result's column (PyMySQL's FieldDescriptorPacket)."""

    name: str
    type_code: int
    flags: int
    length: int
    scale: int
    charsetnr: int


@dataclass(frozen=True, slots=True)
class Column:
    """A column to deliver."""

    name: str
    type: pa.DataType
    code: int

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, self.type)

    @property
    def is_float(self) -> bool:
        return bool(self.code == FIELD_TYPE.FLOAT)

    def selected(self, expression: str) -> str:
        """`expression` as the query must select it: a FLOAT's own text has six digits, a DOUBLE's has all."""
        return f"{expression} * 1e0" if self.is_float else expression


def column(described: Described) -> Column:
    """The Arrow type of a column of a result."""
    code = described.type_code
    unsigned = bool(described.flags & FLAG.UNSIGNED)
    if code in _INTEGERS:
        kind = _INTEGERS[code][unsigned]
    elif code in _PLAIN:
        kind = _PLAIN[code]
    elif code in (FIELD_TYPE.NEWDECIMAL, FIELD_TYPE.DECIMAL):
        # The length counts characters: digits, a point where there is a fraction, and a sign where there may be one.
        precision = described.length - (described.scale > 0) - (not unsigned)
        precision = max(precision, described.scale, 1)
        kind = (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, described.scale)
    elif code == FIELD_TYPE.BIT:
        kind = pa.bool_() if described.length == 1 else pa.uint64()
    elif described.charsetnr == _BINARY_CHARSET or code == FIELD_TYPE.GEOMETRY:
        kind = pa.binary()
    else:
        kind = pa.string()
    return Column(described.name, kind, code)


def convert(raw: pa.Array, column: Column) -> tuple[pa.Array, int]:
    """The values of `raw` (binary, as they came) in the column's type, and how many impossible dates became null.

    Raises pyarrow.ArrowInvalid for what is not a value of that type (bytes that are no UTF-8).
    """
    kind = column.type
    if pa.types.is_binary(kind):
        return raw, 0
    if pa.types.is_string(kind):
        return raw.cast(pa.string()), 0
    if column.code == FIELD_TYPE.BIT:
        return pa.array((None if v is None else int.from_bytes(v, "big") for v in raw.to_pylist()), pa.uint64()).cast(
            kind
        ), 0
    text = raw.view(pa.string())
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _dates(text, kind)
    if pa.types.is_duration(kind):
        return _durations(text), 0
    return text.cast(kind), 0


def _dates(text: pa.Array, kind: pa.DataType) -> tuple[pa.Array, int]:
    """Dates and times of day; month or day zero (which no calendar has) becomes null."""
    zero = pc.match_substring(text, "-00")
    lost = pc.sum(zero).as_py() or 0
    if lost:
        text = pc.if_else(zero, None, text)
    try:
        parsed = _parse_dates(text, kind)
    except pa.ArrowInvalid:
        # The 31st of February, which a server with ALLOW_INVALID_DATES keeps. Rare, so each value is looked at.
        values = [value if value is None or _exists(value) else None for value in text.to_pylist()]
        clean = pa.array(values, pa.string())
        lost += clean.null_count - text.null_count
        parsed = _parse_dates(clean, kind)
    return parsed, lost


def _parse_dates(text: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_date(kind):
        return text.cast(kind)
    return text.cast(pa.timestamp("us")).view(pa.int64()).view(kind)


def _exists(value: str) -> bool:
    try:
        (datetime if " " in value else date).fromisoformat(value)
    except ValueError:
        return False
    return True


_TIME = r"^(?P<sign>-?)(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)\.?(?P<fraction>\d*)$"


def _durations(text: pa.Array) -> pa.Array:
    """TIME as microseconds: "-838:59:59.000001" is a length of time, not a time of day."""
    parts = pc.extract_regex(text, _TIME)

    def number(name: str) -> pa.Array:
        return pc.struct_field(parts, name).cast(pa.int64())

    fraction = pc.utf8_rpad(pc.struct_field(parts, "fraction"), 6, "0").cast(pa.int64())
    seconds = pc.add(pc.multiply(number("hours"), 3600), pc.add(pc.multiply(number("minutes"), 60), number("seconds")))
    size = pc.add(pc.multiply(seconds, 1_000_000), fraction)
    signed = pc.if_else(pc.equal(pc.struct_field(parts, "sign"), "-"), pc.negate(size), size)
    return signed.view(pa.duration("us"))
