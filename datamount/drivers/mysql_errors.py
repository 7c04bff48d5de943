"""What an error of the server (or of the way to it) means for a dataset, told by its number.

The numbers: https://mariadb.com/kb/en/mariadb-error-code-reference/,
https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html (1000 …) and the clients' own (2000 …).
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pymysql
from pymysql.constants import ER

from datamount.errors import DatamountError, NotFound, Refused, Unavailable, UsageError

_LOGIN = {ER.ACCESS_DENIED_ERROR, 1698, 1130, 1820, 1862, 3118, 4151}
"""Wrong password, no such user, host not allowed, password expired, account locked."""
_RIGHTS = {ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR, 1227, 1356, 1370}
_MISSING = {ER.BAD_DB_ERROR, ER.NO_SUCH_TABLE}
_CROWDED = {ER.CON_COUNT_ERROR, ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED, 1135}
_QUERY = {ER.PARSE_ERROR, ER.BAD_FIELD_ERROR, 1052, 1060, 1066, 1111, 1149, 1248, 1305, 1582, 1584, 1792}
"""The author's SQL: syntax, unknown or ambiguous column, no such function, a write in a read-only transaction."""
_PASSING = {1053, 1129, 1158, 1159, 1160, 1161, 1205, 1213, 1317, 1412, 1836, 1927, 1969, 3024}
"""Shutdown, host blocked, network, lock wait, deadlock, table changed under the snapshot, killed, out of time."""
_TLS = 2026
_CLIENT = range(2000, 3000)
"""PyMySQL's own: no connection, connection lost, protocol."""


@contextmanager
def named(dataset: str, doing: str, where: str) -> Iterator[None]:
    """Turns errors of PyMySQL and of the network inside the block into ours. Their text never holds the password."""
    try:
        yield
    except DatamountError:
        raise
    except pymysql.err.Error as error:
        raise translate(error, dataset, doing, where) from error
    except OSError as error:
        raise Unavailable(
            f'dataset "{dataset}": {doing} failed: {where} does not answer ({error.strerror or type(error).__name__}).',
            hint="Ask whether the database server is up, and whether sessions may reach it.",
            who="the hub's operator",
            transient=True,
        ) from error


def translate(error: pymysql.err.Error, dataset: str, doing: str, where: str) -> DatamountError:
    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    said = str(error.args[1]) if len(error.args) > 1 else type(error).__name__
    head = f'dataset "{dataset}": {doing}'
    if number == _TLS or isinstance(getattr(error, "original_exception", None), ssl.SSLError):
        return Unavailable(
            f"{head} failed: {where} did not show a certificate for this name that `ssl_ca` vouches for.",
            hint="Check `host` and `ssl_ca` in the manifest against the server's certificate.",
            who="the course's author",
        )
    if number in _LOGIN:
        return Refused(
            f"{head} failed: {where} refused the login (error {number}).",
            hint="Ask for a credential that is valid for this server.",
            who="the hub's operator",
        )
    if number in _RIGHTS:
        return Refused(
            f"{head} failed: {where} does not let this account read it (error {number}).",
            hint="Ask for SELECT on the tables that the manifest names.",
            who="the data's owner",
        )
    if number in _MISSING:
        return NotFound(
            f"{head} failed: {where} has no such {'database' if number == ER.BAD_DB_ERROR else 'table'}.",
            hint="Check `database` and `tables` in the manifest.",
            who="the course's author",
        )
    if number in _QUERY:
        return UsageError(
            f"{head} failed: {where} does not understand the query: {said}",
            hint="Check `columns` and `where` of this table in the manifest.",
            who="the course's author",
        )
    if number in _CROWDED:
        return Unavailable(
            f"{head} failed: {where} has too many connections (error {number}).",
            hint="Try again in a minute; the server's or the account's limit may be too low for the course.",
            who="the hub's operator",
            transient=True,
        )
    if number in _CLIENT or number in _PASSING or isinstance(error, pymysql.err.InterfaceError):
        return Unavailable(
            f"{head} failed: {where} does not answer or ended the connection (error {number}).",
            hint="Ask whether the database server is up, and whether sessions may reach it.",
            who="the hub's operator",
            transient=True,
        )
    return Unavailable(f"{head} failed: {where} answered error {number}: {said}", who="the data's owner")
