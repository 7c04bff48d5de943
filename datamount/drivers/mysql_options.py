"""The option file and the URL by which programs reach a database: one spelling that every client reads alike.

The rules of option files are those of the servers' own manuals (https://mariadb.com/kb/en/option-files/,
https://dev.mysql.com/doc/refman/8.4/en/option-files.html) and of `mysys/my_default.c`: `#` starts a comment
outside quotes, one pair of quotes around a value is taken off, `\\b \\t \\n \\r \\s \\\\ \\" \\'` are escapes.
PyMySQL reads the same file with `configparser`: it takes one pair of quotes off and knows neither escapes nor
comments behind a value. `spell` finds a spelling that means the same to both wherever there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote, urlencode

_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "r": "\r", "s": " ", "\\": "\\", '"': '"', "'": "'"}
_SPELLED = {"\b": r"\b", "\t": r"\t", "\n": r"\n", "\r": r"\r", "\\": r"\\", '"': r"\""}

TOOL_GROUPS = frozenset(
    {
        "client",
        "client-server",
        "client-mariadb",
        "mysqldump",
        "mysqladmin",
        "mysqlimport",
        "mysqlshow",
        "mysqlcheck",
        "mysqlslap",
        "mysqlbinlog",
        "mariadb-dump",
        "mariadb-admin",
        "mariadb-import",
        "mariadb-show",
        "mariadb-check",
        "mariadb-slap",
        "mariadb-binlog",
    }
)
"""Groups that programs without a `database` option read: they stop at an option they do not know."""


def option_file(groups: Mapping[str, Mapping[str, str]]) -> str:
    """The text of an option file. Values are spelled so that clients and PyMySQL read them back unchanged."""
    blocks = [
        "\n".join([f"[{group}]", *(f"{key}={spell(value)}" for key, value in options.items())])
        for group, options in groups.items()
    ]
    return "\n\n".join(blocks) + "\n"


def spell(value: str) -> str:
    """`value` as it stands behind `key=`.

    A value with a backslash before one of `btnrs\\"'` (or at its end), or with a line break, has no spelling that
    PyMySQL's option files share with the clients; then the clients' rule is followed, and PyMySQL has the URL.
    """
    for candidate in (value, f'"{value}"', f"'{value}'"):
        if value and _client_reads(candidate) == value == _pymysql_reads(candidate):
            return candidate
    return '"' + "".join(_SPELLED.get(char, char) for char in value) + '"'


def _client_reads(text: str) -> str | None:
    """What the C clients make of the text behind `key=`; None where it ends early or they disagree."""
    if "\n" in text or "\r" in text:
        return None
    inside, escaped, end = "", False, len(text)
    for position, char in enumerate(text):
        if char in "'\"" and not escaped:
            inside = "" if inside == char else inside or char
        if char == "#" and not inside:
            end = position
            break
        escaped = bool(inside) and char == "\\" and not escaped
    if inside and "#" in text:
        return None  # MariaDB's C library, which R uses, sees a comment behind an open quote; the clients see none
    text = text[:end].strip()
    if len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]:
        text = text[1:-1]
    read, rest = "", iter(text)
    for char in rest:
        following = next(rest, "") if char == "\\" else ""
        read += _ESCAPES.get(following, char + following) if following else char
    return read


def _pymysql_reads(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" else text


def sqlalchemy_url(
    *, user: str | None, password: str | None, host: str, port: int, database: str, query: Mapping[str, str]
) -> str:
    """`mysql+pymysql://…`, every part percent-encoded (an IPv6 address goes in brackets)."""
    login = ""
    if user is not None:
        login = quote(user, safe="") + (f":{quote(password, safe='')}" if password is not None else "") + "@"
    address = f"[{host}]" if ":" in host else host
    return f"mysql+pymysql://{login}{address}:{port}/{quote(database, safe='')}?{urlencode(query, safe='{}/')}"
