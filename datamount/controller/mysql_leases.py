"""An account for each session in MySQL or MariaDB, and its end: dropped, and its open connections killed.

The server's own user table is the only record, so any replica can go on where another stopped:

    dm_<last second, base 36>_<hash of the pod's UID>_<whose><rights>      at most 32 characters, MySQL's limit

    whose                     hash of the installation: two clusters may share a server, and the pods of one are not
                              those that the other can see
    rights                    hash of the credential and of the grants: an account is not renewed under another
                              credential, nor when the policy has come to grant less than it has
    the name's time           after it the account is dropped whatever happens
    MAX_UPDATES_PER_HOUR      minute since 1970 until which the lease is renewed; what it limits never happens to an
                              account that may only SELECT. The name stays, so a renewal needs no new URL in kernels
    MAX_USER_CONNECTIONS      from the policy
    grants                    SELECT on the granted schema or tables, nothing else

The admin account needs no more than this (MariaDB 10.5 and newer; in MySQL the last line is
`GRANT CREATE USER, PROCESS, CONNECTION_ADMIN ON *.*`):

    GRANT SELECT ON `mimic2`.* TO datamount@'%' WITH GRANT OPTION;
    GRANT SELECT (User, Host, max_updates) ON mysql.user TO datamount@'%';
    GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO datamount@'%';

DROP USER does not end what is connected: an open session goes on with the rights it had
(https://dev.mysql.com/doc/refman/8.4/en/drop-user.html). So the account goes first, then its connections are
killed until none is left. KILL reaches one server: with Galera or replicas, name a single writer in the policy.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from base64 import b32encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pymysql
from pydantic import SecretStr
from pymysql.constants import ER
from pymysql.converters import escape_string

from datamount.controller.policy import MySQLGrant, read_secret
from datamount.credentials import Credential
from datamount.errors import Conflict, DatamountError, NotFound, Refused, Unavailable

PREFIX = "dm_"
CONNECT_SECONDS = 5
CALL_SECONDS = 15
KILL_SECONDS = 10.0
"""How long killed connections may stay: a busy server takes its time, and a query that is undone, too."""
_NAME = re.compile(r"dm_([0-9a-z]{1,7})_([a-z2-7]{12})_([a-z2-7]{4})([a-z2-7]{4})")
_NO_SUCH_THREAD = 1094
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Account:
    """A session's account, as the server's user table knows it."""

    name: str
    host: str
    last: float
    """Unix time after which it is dropped, renewed or not."""
    pod: str
    """Hash of the pod's UID."""
    whose: str
    """Hash of the installation that made it."""
    rights: str
    """Hash of the credential that it was made for, and of what it may read."""
    renewed: float
    """Unix time until which it is renewed."""

    @property
    def expires(self) -> datetime:
        return datetime.fromtimestamp(min(self.last, self.renewed), UTC)


def pod_hash(uid: str) -> str:
    """60 bits of the UID's SHA-256, in the alphabet of account names."""
    return _hash(uid, 12)


def _hash(text: str, characters: int) -> str:
    return b32encode(hashlib.sha256(text.encode()).digest()).decode().lower()[:characters]


def account_name(last: float, uid: str, whose: str, rights: str) -> str:
    """The name of an account of this pod, installation and rights (the last two are hashes of four characters)."""
    number, digits = int(last), ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return f"{PREFIX}{digits or '0'}_{pod_hash(uid)}_{whose}{rights}"


def read_name(name: str) -> tuple[float, str, str, str] | None:
    """Last second, pod hash, installation and rights of an account's name; None for every account that is not ours."""
    found = _NAME.fullmatch(name)
    return (float(int(found[1], 36)), found[2], found[3], found[4]) if found else None


class MySQLLeases:
    """The accounts of one server. Each call connects anew: leases are rare, and an idle connection would be one more
    thing that breaks. Raises Unavailable or Refused, which name the server, never a password."""

    def __init__(self, credential: str, grant: MySQLGrant, *, installation: str = "") -> None:
        self.credential = credential
        self.grant = grant
        self.whose = _hash(f"{installation}/{grant.admin_user}", 4)
        self._where = f"{grant.host}:{grant.port}"

    # --- Giving -----------------------------------------------------------------------------------------------

    def create(
        self, uid: str, wanted: Mapping[str, Sequence[str]], *, ttl: float, max_ttl: float, per_pod: int
    ) -> tuple[Account, Credential]:
        """A new account that may SELECT what is wanted (schema → tables, ["*"] for all) and nothing else.

        After a failure nothing is left, or an account that the reaper drops within its ttl.
        """
        now, rights = time.time(), self._rights(wanted)
        password = SecretStr(secrets.token_urlsafe(24))
        with self._connected() as (connection, offered):
            mine = [account for account in _accounts(connection) if account.pod == pod_hash(uid)]
            if len(mine) >= per_pod:
                raise Refused(
                    f"this session has {len(mine)} accounts on {self._where} already, the most that the policy allows.",
                    hint="They end by themselves within minutes; then try again.",
                    who="you",
                )
            tls = self.grant.tls == "required" or (self.grant.tls == "where-offered" and offered)
            renewed = _minute(now + ttl)
            made = (
                f"IDENTIFIED BY '{password.get_secret_value()}' {'REQUIRE SSL ' if tls else ''}"
                f"WITH MAX_USER_CONNECTIONS {self.grant.max_connections} MAX_UPDATES_PER_HOUR {renewed}"
            )
            # A second earlier for each account that this pod asked for in the same second.
            for last in range(int(now + max_ttl), int(now + max_ttl) - 2 * per_pod, -1):
                name = account_name(last, uid, self.whose, rights)
                if _created(connection, f"CREATE USER {_user(name, self.grant.from_hosts)} {made}"):
                    break
            else:
                raise Conflict("this session asks for too many accounts at once.", transient=True, who="you")
            try:
                escape = not _partial_revokes(connection)
                for schema, tables in wanted.items():
                    for table in tables:
                        target = _target(schema, table, escape=escape)
                        _run(connection, f"GRANT SELECT ON {target} TO {_user(name, self.grant.from_hosts)}")
            except BaseException:
                _run(connection, f"DROP USER IF EXISTS {_user(name, self.grant.from_hosts)}")
                raise
        account = Account(name, self.grant.from_hosts, last, pod_hash(uid), self.whose, rights, renewed * 60.0)
        return account, Credential(
            user=name, password=password, host=self.grant.host, port=self.grant.port, expires=account.expires
        )

    def renew(self, name: str, uid: str, grants: Mapping[str, Sequence[str]], *, ttl: float) -> Account:
        """The account, good for another `ttl` seconds but not beyond its last second.

        Raises NotFound when it is gone, or was not made for this credential and these grants; Refused when it is
        another pod's.
        """
        if self._own(name, uid) != self._rights(grants):
            raise NotFound(f'the lease "{name}" on {self._where} is another one.', hint="Ask for a new one.", who="you")
        with self._connected() as (connection, _):
            for account in _accounts(connection):
                if account.name == name and time.time() < account.expires.timestamp():
                    renewed = _minute(time.time() + ttl)
                    _run(connection, f"ALTER USER {_user(name, account.host)} WITH MAX_UPDATES_PER_HOUR {renewed}")
                    return replace(account, renewed=renewed * 60.0)
        raise NotFound(f'the lease "{name}" on {self._where} has ended.', hint="Ask for a new one.", who="you")

    # --- Ending -----------------------------------------------------------------------------------------------

    def revoke(self, name: str, uid: str) -> None:
        """Drop a pod's own account and kill its connections. No error when it is gone already."""
        self._own(name, uid)
        with self._connected() as (connection, _):
            _end(connection, {name})

    def accounts(self) -> list[Account]:
        """Every session's account on the server, of all replicas and all pods."""
        with self._connected() as (connection, _):
            return _accounts(connection)

    def end(self, names: set[str]) -> None:
        """Drop accounts and kill their connections, and those of accounts that are gone already.

        A replica may have died between the two; repeated and concurrent calls do no harm.
        """
        with self._connected() as (connection, _):
            _end(connection, names | _orphans(connection))

    def _own(self, name: str, uid: str) -> str:
        """The hash of an account's rights. Refused where it is not this pod's."""
        found = read_name(name)
        if found is None or found[1] != pod_hash(uid):
            raise Refused("this lease belongs to another session.", who="the hub's operator")
        return found[3]

    def _rights(self, wanted: Mapping[str, Sequence[str]]) -> str:
        granted = sorted((schema, sorted(tables)) for schema, tables in wanted.items())
        return _hash(json.dumps([self.credential, granted]), 4)

    @contextmanager
    def _connected(self) -> Iterator[tuple[Any, bool]]:
        """An admin connection, and whether the server offers TLS."""
        password = read_secret(self.grant.admin_password_file, f'the admin password of "{self.credential}"')
        tls: dict[str, Any] = {"ssl_disabled": True} if self.grant.tls == "off" else {}
        if self.grant.ca_file is not None:
            tls |= {"ssl_ca": str(self.grant.ca_file), "ssl_verify_cert": True, "ssl_verify_identity": True}
        elif self.grant.tls == "required":
            tls |= {"ssl": {"check_hostname": False}}
        try:
            connection = pymysql.connect(
                host=self.grant.host,
                port=self.grant.port,
                user=self.grant.admin_user,
                password=password.get_secret_value(),
                autocommit=True,
                charset="utf8mb4",
                connect_timeout=CONNECT_SECONDS,
                read_timeout=CALL_SECONDS,
                write_timeout=CALL_SECONDS,
                **tls,
            )
        except (pymysql.err.Error, OSError, RuntimeError) as error:
            raise self._failed(error) from None
        try:
            yield connection, _offers_tls(connection)
        except DatamountError:
            raise
        except (pymysql.err.Error, OSError) as error:
            raise self._failed(error) from None
        finally:
            _close(connection)

    def _failed(self, error: Exception) -> DatamountError:
        # Not the error's text and not the chain: a syntax error quotes the statement, and so the password.
        number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        denied = {ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, 1227, 1410, 1698}
        head = f'the credential "{self.credential}": the database server {self._where}'
        if number in denied:
            return Refused(
                f"{head} does not let the controller make accounts (error {number}).",
                hint="Give its admin account the grants that the documentation lists.",
                who="the hub's operator",
            )
        if number == ER.NO_SUCH_TABLE:
            return NotFound(
                f"{head} has no such table.", hint="Mend `tables` in the manifest.", who="the course's author"
            )
        return Unavailable(
            f"{head} did not answer usefully (error {number or type(error).__name__}).",
            hint="Ask whether it is up.",
            who="the hub's operator",
            transient=True,
        )


def granted(grant: MySQLGrant, database: str, tables: Sequence[str], *, dataset: str) -> dict[str, list[str]]:
    """What a session gets of what its manifest asks for: exactly that, where the policy covers it.

    A manifest without tables wants the whole connection, so it gets all that the policy grants in that schema.
    """
    allowed = grant.grants.get(database)
    head = f'dataset "{dataset}": the policy grants'
    if allowed is None:
        raise Refused(
            f'{head} no access to the database "{database}" with this credential.',
            hint="Ask the hub's operator to grant it, or mend `database` in the manifest.",
            who="the hub's operator",
        )
    for table in tables:
        if "*" not in allowed and table not in allowed:
            raise Refused(
                f'{head} no access to the table "{database}.{table}" with this credential.',
                hint="Ask the hub's operator to grant it, or take it out of the manifest.",
                who="the hub's operator",
            )
    # All that is granted there, not only what is delivered as Parquet: the connection is the students' to query.
    return {database: ["*"] if "*" in allowed else list(allowed)}


def covers(granted: Mapping[str, Sequence[str]], had: Mapping[str, Sequence[str]]) -> bool:
    """Whether what an account has been granted is granted still."""
    return all(
        "*" in granted.get(schema, ()) or set(tables) <= set(granted.get(schema, ())) for schema, tables in had.items()
    )


def _user(name: str, host: str) -> str:
    return f"'{name}'@'{escape_string(host)}'"  # a name is of our own alphabet


def _target(schema: str, table: str, *, escape: bool) -> str:
    """`schema`.* or `schema`.`table`. In the first form `_` and `%` are wildcards, so they are escaped."""
    if table != "*":
        return f"`{schema}`.`{table}`"
    plain = re.sub(r"([_%\\])", r"\\\1", schema) if escape else schema
    return f"`{plain}`.*"


def _minute(when: float) -> int:
    return int(when // 60) + 1


def _run(connection: Any, statement: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchall()


def _created(connection: Any, statement: str) -> bool:
    """Whether the account was made; False where there is one of that name."""
    try:
        _run(connection, statement)
    except pymysql.err.Error as error:
        if error.args[0] == ER.CANNOT_USER:
            return False
        raise
    return True


def _accounts(connection: Any) -> list[Account]:
    rows = _run(connection, "SELECT User, Host, max_updates FROM mysql.user WHERE User LIKE 'dm\\_%'")
    found = []
    for name, host, renewed in rows:
        read = read_name(name)
        if read is not None:
            found.append(Account(name, host, *read, renewed * 60.0))
    return found


def _orphans(connection: Any) -> set[str]:
    """Names that are connected but have no account any more."""
    return _connected_names(connection) - {account.name for account in _accounts(connection)}


def _connected_names(connection: Any) -> set[str]:
    rows = _run(connection, "SELECT DISTINCT USER FROM information_schema.PROCESSLIST WHERE USER LIKE 'dm\\_%'")
    return {name for (name,) in rows if read_name(name)}


def _end(connection: Any, names: set[str]) -> None:
    for name, host in [(account.name, account.host) for account in _accounts(connection) if account.name in names]:
        _run(connection, f"DROP USER IF EXISTS {_user(name, host)}")
    until = time.monotonic() + KILL_SECONDS
    while True:
        rows = _run(connection, "SELECT ID, USER FROM information_schema.PROCESSLIST WHERE USER LIKE 'dm\\_%'")
        alive = [number for number, name in rows if name in names]
        if not alive:
            return
        if time.monotonic() > until:
            raise Conflict("killed connections are still open.", transient=True, who="the hub's operator")
        for number in alive:
            try:
                _run(connection, f"KILL CONNECTION {int(number)}")
            except pymysql.err.Error as error:
                if error.args[0] != _NO_SUCH_THREAD:
                    raise
        time.sleep(0.05)  # a killed thread leaves the list when it notices


def _offers_tls(connection: Any) -> bool:
    """Whether clients can use TLS: this one does, unless the policy turned it off."""
    rows = _run(connection, "SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    return bool(rows and rows[0][1])


def _partial_revokes(connection: Any) -> bool:
    """MySQL with partial_revokes takes the schema of a grant literally."""
    rows = _run(connection, "SHOW GLOBAL VARIABLES LIKE 'partial_revokes'")
    return bool(rows and rows[0][1] == "ON")


def _close(connection: Any) -> None:
    try:
        connection.close()
    except pymysql.err.Error:
        connection._force_close()
