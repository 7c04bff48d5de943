"""Accounts of sessions on a real MariaDB, made by an admin account that has only the documented rights."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest
from fastapi.testclient import TestClient

from datamount.controller import leases, mysql_leases
from datamount.controller.app import Controller
from datamount.controller.kube import Kube
from datamount.controller.mysql_leases import MySQLLeases, account_name, pod_hash, read_name
from datamount.controller.policy import MySQLGrant
from datamount.controller.reaper import Reaper
from datamount.errors import Unavailable
from tests.kube.server import Object
from tests.kube.site import IMAGE, Site, bearer, running_site, session_pod
from tests.servers import MariaDBServer

pytestmark = pytest.mark.xdist_group("mysql-leases")
TTL, MAX_TTL = 900, 7200


@pytest.fixture(scope="module")
def database(mariadb: MariaDBServer) -> str:
    """A schema whose name has a wildcard, beside one that the wildcard would match."""
    mariadb.make_database("course_1")
    mariadb.make_database("courseX1")
    for name in ("course_1", "courseX1"):
        mariadb.execute(
            f"CREATE TABLE `{name}`.notes (id INT, text TEXT)",
            f"INSERT INTO `{name}`.notes VALUES (1, 'a note')",
            f"CREATE TABLE `{name}`.names (id INT, name TEXT)",
        )
    mariadb.execute(
        "CREATE USER datamount@'%' IDENTIFIED BY 'planted-admin'",
        r"GRANT SELECT ON `course\_1`.* TO datamount@'%' WITH GRANT OPTION",
        "GRANT SELECT (User, Host, max_updates) ON mysql.user TO datamount@'%'",
        f"GRANT CREATE USER, PROCESS, {mariadb.connection_admin} ON *.* TO datamount@'%'",
    )
    return "course_1"


@pytest.fixture
def grant(mariadb: MariaDBServer, database: str, tmp_path: Path) -> dict[str, Any]:
    secret = tmp_path / "secret-admin"
    secret.write_text("planted-admin\n")
    return {
        "host": mariadb.host,
        "port": mariadb.port,
        "admin_user": "datamount",
        "admin_password_file": str(secret),
        "grants": {database: ["*"]},
        "max_connections": 3,
    }


@pytest.fixture
def site(tmp_path: Path, grant: dict[str, Any], mariadb: MariaDBServer) -> Iterator[Site]:
    with running_site(tmp_path) as site:
        site.secrets["admin"] = "planted-admin"
        allow = [{"images": [IMAGE]}]
        some = grant | {"grants": {"course_1": ["notes"]}}
        rest: dict[str, Any] = {"allow": allow, "ttl": TTL, "max_ttl": MAX_TTL, "per_pod": 4}
        site.write_policy({"credentials": {"all": {"mysql": grant} | rest, "some": {"mysql": some} | rest}})
        yield site
        for name in accounts(mariadb):
            mariadb.execute(f"DROP USER IF EXISTS '{name}'@'%'")


@pytest.fixture
def pod(site: Site) -> Object:
    return site.kube.add_pod(session_pod("jupyter-ada"))


def accounts(mariadb: MariaDBServer) -> list[str]:
    with closing(mariadb.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT User FROM mysql.user WHERE User LIKE 'dm\\_%'")
        return [name for (name,) in cursor.fetchall()]


def lease(client: TestClient, token: str, *, credential: str = "all", status: int = 201, **source: Any) -> Any:
    body = {"dataset": "mimic2", "kind": "mysql", "credential": credential, "source": {"database": "course_1"} | source}
    response = client.post("/v1/leases", json=body, headers=bearer(token))
    assert response.status_code == status, response.text
    return response.json()


def connect(mariadb: MariaDBServer, given: Any, database: str | None = "course_1") -> Any:
    credential = given["credential"]
    assert (credential["host"], credential["port"]) == (mariadb.host, mariadb.port)
    return mariadb.connect(user=credential["user"], password=credential["password"], database=database)


def query(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall()


def reaper(site: Site, made: Controller, *, clock: Any = time.time) -> Reaper:
    policy = made.leases._policy  # type: ignore[union-attr]
    policy.read()
    return Reaper(Kube(site.kube.client()), policy, site.settings, made.audit, made.metrics, clock=clock)


def test_a_session_reads_what_is_granted_and_nothing_else(
    site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer
) -> None:
    """The account SELECTs from its schema; it writes nothing, sees no other schema and gives nothing away."""
    given = lease(client, site.kube.token(pod))
    user = given["credential"]["user"]
    assert len(user) <= 32
    assert read_name(user) is not None
    with closing(connect(mariadb, given)) as connection:
        assert query(connection, "SELECT text FROM notes") == (("a note",),)
        for refused in (
            "INSERT INTO notes VALUES (2, 'x')",
            "CREATE TABLE other (id INT)",
            "CREATE TEMPORARY TABLE other (id INT)",
            "SELECT * FROM courseX1.notes",
            "SELECT User FROM mysql.user",
            f"GRANT SELECT ON course_1.* TO '{user}'@'%'",
            "SELECT * FROM notes INTO OUTFILE '/tmp/dm-out'",
        ):
            with pytest.raises(pymysql.err.Error):
                query(connection, refused)


def test_single_tables_are_granted_singly(site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer) -> None:
    """A credential for some tables lets in those, and refuses a manifest that asks for more."""
    token = site.kube.token(pod)
    given = lease(client, token, credential="some", tables={"notes": {"columns": ["id"]}})
    with closing(connect(mariadb, given)) as connection:
        assert query(connection, "SELECT COUNT(*) FROM notes") == ((1,),)
        with pytest.raises(pymysql.err.OperationalError):
            query(connection, "SELECT * FROM names")
    problem = lease(client, token, credential="some", status=403, tables=["names"])
    assert "course_1.names" in problem["detail"]
    problem = lease(client, token, status=403, database="mysql")
    assert '"mysql"' in problem["detail"]


def test_connections_are_limited(site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer) -> None:
    """One session opens no more connections than the policy lets it."""
    given = lease(client, site.kube.token(pod))
    opened = [connect(mariadb, given) for _ in range(3)]
    with pytest.raises(pymysql.err.OperationalError):
        connect(mariadb, given)
    for connection in opened:
        connection.close()


def test_a_revoked_session_is_out_at_once(site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer) -> None:
    """After the revocation the next query of an open connection fails, and no new one opens."""
    headers = bearer(site.kube.token(pod))
    given = lease(client, site.kube.token(pod))
    connection = connect(mariadb, given)
    assert query(connection, "SELECT 1") == ((1,),)
    assert client.delete(f"/v1/leases/{given['lease']}", headers=headers).status_code == 204
    with pytest.raises(pymysql.err.Error):
        query(connection, "SELECT 1")
    with pytest.raises(pymysql.err.OperationalError):
        connect(mariadb, given)
    # A second time is fine, and a renewal says that it has ended.
    assert client.delete(f"/v1/leases/{given['lease']}", headers=headers).status_code == 204
    assert client.post(f"/v1/leases/{given['lease']}/renew", headers=headers).status_code == 404


def test_revocations_leave_threads_to_those_who_save(
    site: Site, pod: Object, mariadb: MariaDBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the database hangs and many sessions end, revocations wait for a turn as leases do, and are told to come
    again; what nobody ends, the reaper does."""
    monkeypatch.setattr(leases, "PATIENCE", 0.01)
    made = site.replica()
    assert made.leases is not None
    with site.client(made) as client, ExitStack() as stack:
        headers = bearer(site.kube.token(pod))
        given = lease(client, site.kube.token(pod))
        for _ in range(leases.AT_ONCE):
            stack.enter_context(made.leases._turn())
        assert client.delete(f"/v1/leases/{given['lease']}", headers=headers).status_code == 503
        assert given["credential"]["user"] in accounts(mariadb)
        stack.close()
        assert client.delete(f"/v1/leases/{given['lease']}", headers=headers).status_code == 204
        assert given["credential"]["user"] not in accounts(mariadb)


def test_a_query_that_runs_is_killed_too(site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer) -> None:
    """A long query does not outlive its lease."""
    given = lease(client, site.kube.token(pod))
    connection = connect(mariadb, given)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(query, connection, "SELECT SLEEP(200)")
        while not mysql_threads(mariadb, "SLEEP(200)"):
            assert not running.done(), running.exception()
            time.sleep(0.02)
        client.delete(f"/v1/leases/{given['lease']}", headers=bearer(site.kube.token(pod)))
        with pytest.raises(pymysql.err.Error):
            running.result(100)


def mysql_threads(mariadb: MariaDBServer, text: str) -> int:
    with closing(mariadb.connect()) as connection:
        rows = query(connection, "SELECT INFO FROM information_schema.PROCESSLIST WHERE USER LIKE 'dm\\_%'")
    return sum(text in (info or "") for (info,) in rows)


def test_another_pods_lease_cannot_be_touched(
    site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer
) -> None:
    """A session that knows another's lease id neither ends nor renews it."""
    given = lease(client, site.kube.token(pod))
    eve = site.kube.add_pod(session_pod("jupyter-eve", user="eve"))
    headers = bearer(site.kube.token(eve))
    assert client.delete(f"/v1/leases/{given['lease']}", headers=headers).status_code == 403
    assert client.post(f"/v1/leases/{given['lease']}/renew", headers=headers).status_code == 403
    connect(mariadb, given).close()


def test_a_renewal_keeps_the_login(site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer) -> None:
    """A renewed lease ends later, has the same user and password, and never outlives its last second."""
    headers = bearer(site.kube.token(pod))
    began = int(time.time())
    given = lease(client, site.kube.token(pod))
    user = given["credential"]["user"]
    last, *_ = read_name(user) or (0.0,)
    assert began + MAX_TTL <= last <= time.time() + MAX_TTL
    mariadb.execute(f"ALTER USER '{user}'@'%' WITH MAX_UPDATES_PER_HOUR {began // 60 + TTL // 120}")
    asked = time.time()
    renewed = client.post(f"/v1/leases/{given['lease']}/renew", headers=headers).json()
    assert "credential" not in renewed
    assert renewed["expires"] >= given["expires"]
    with closing(connect(mariadb, given)) as connection:
        assert query(connection, "SELECT COUNT(*) FROM notes") == ((1,),)
    with closing(mariadb.connect()) as connection:
        [(limit, updates)] = query(
            connection, f"SELECT max_user_connections, max_updates FROM mysql.user WHERE User = '{user}'"
        )
    assert limit == 3
    assert asked + TTL < updates * 60 <= time.time() + TTL + 60


def test_an_account_is_renewed_with_the_rights_that_it_has(
    site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer, grant: dict[str, Any]
) -> None:
    """What the policy has come to grant less of is not renewed, and neither is an account under the name of another
    credential of the same server, which may still be allowed when its own is not."""
    headers = bearer(site.kube.token(pod))

    def renew(lease_id: str) -> int:
        return client.post(f"/v1/leases/{lease_id}/renew", headers=headers).status_code

    wide, narrow = lease(client, site.kube.token(pod)), lease(client, site.kube.token(pod), credential="some")
    assert (renew(wide["lease"]), renew(narrow["lease"])) == (200, 200)
    document = json.loads(base64.urlsafe_b64decode(wide["lease"] + "=" * (-len(wide["lease"]) % 4)))
    document[0]["credential"] = "some"
    document[2] = {"course_1": ["notes"]}
    forged = base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")
    assert renew(forged) == 404
    some = {"mysql": grant | {"grants": {"course_1": ["notes"]}}, "allow": [{"images": [IMAGE]}]}
    site.write_policy({"credentials": {"all": some, "some": some}})
    client.policy.read()  # type: ignore[attr-defined]
    assert (renew(wide["lease"]), renew(narrow["lease"])) == (404, 200)
    more = {"mysql": grant | {"grants": {"course_1": ["names", "notes"], "other": ["*"]}}, "allow": some["allow"]}
    site.write_policy({"credentials": {"all": more, "some": more}})
    client.policy.read()  # type: ignore[attr-defined]
    assert renew(narrow["lease"]) == 200, "what was added takes nothing from who is connected"
    site.write_policy({"credentials": {"all": some, "some": some}})
    client.policy.read()  # type: ignore[attr-defined]
    assert len({*accounts(mariadb), lease(client, site.kube.token(pod))["credential"]["user"]}) == 3


def test_a_pod_has_a_bounded_number_of_accounts(site: Site, client: TestClient, pod: Object) -> None:
    """A session that asks again and again is refused after the policy's number."""
    for _ in range(4):
        lease(client, site.kube.token(pod))
    assert "4 accounts" in lease(client, site.kube.token(pod), status=403)["detail"]


def test_a_deleted_pods_account_is_gone_after_a_pass(
    site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer
) -> None:
    """The reaper drops the account of a pod that is gone and kills its connections; another pod's go on."""
    other = site.kube.add_pod(session_pod("jupyter-grace", user="grace"))
    gone, stays = lease(client, site.kube.token(pod)), lease(client, site.kube.token(other))
    connections = [connect(mariadb, gone), connect(mariadb, stays)]
    made = site.replica()
    assert reaper(site, made).pass_once() == 0
    site.kube.remove("pods", "hub", "jupyter-ada")
    assert reaper(site, made).pass_once() == 1
    with pytest.raises(pymysql.err.Error):
        query(connections[0], "SELECT 1")
    assert query(connections[1], "SELECT 1") == ((1,),)
    assert accounts(mariadb) == [stays["credential"]["user"]]
    assert [line["reason"] for line in site.audit() if line["event"] == "reaped"] == ["pod is gone"]
    # Two passes of at most 30 s fit into a minute.
    assert site.settings.reaper_seconds <= 30


@pytest.mark.parametrize(
    ("status", "deleted", "ends"),
    [("Succeeded", None, 1), ("Failed", None, 1), ("Running", "2020-01-01T00:00:00Z", 1), ("Running", None, 0)],
)
def test_a_pod_that_ended_counts_as_gone(
    site: Site, client: TestClient, pod: Object, status: str, deleted: str | None, ends: int
) -> None:
    """A pod that has ended, or that hangs in its deletion on a lost node, keeps no account."""
    lease(client, site.kube.token(pod))
    pod["status"]["phase"] = status
    if deleted:
        pod["metadata"]["deletionTimestamp"] = deleted
    assert reaper(site, site.replica()).pass_once() == ends


def test_expired_accounts_go_even_without_the_api_server(
    site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer
) -> None:
    """While the API server is down only what has expired is dropped: running sessions keep their data."""
    lease(client, site.kube.token(pod))
    made = site.replica()
    site.kube.down = True
    assert reaper(site, made).pass_once() == 0
    assert len(accounts(mariadb)) == 1
    assert reaper(site, made, clock=lambda: time.time() + TTL + 120).pass_once() == 1
    assert accounts(mariadb) == []


def test_the_last_second_holds_whatever_was_renewed(
    site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer
) -> None:
    """After the time in its name an account goes, however far it was renewed."""
    user = lease(client, site.kube.token(pod))["credential"]["user"]
    mariadb.execute(f"ALTER USER '{user}'@'%' WITH MAX_UPDATES_PER_HOUR 999999999")
    made = site.replica()
    assert reaper(site, made, clock=lambda: time.time() + MAX_TTL - 600).pass_once() == 0
    assert reaper(site, made, clock=lambda: time.time() + MAX_TTL + 60).pass_once() == 1


def test_a_new_replica_knows_everything(site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer) -> None:
    """A lease given by one controller is renewed, ended and reaped by another that has just started."""
    headers = bearer(site.kube.token(pod))
    first, second = lease(client, site.kube.token(pod)), lease(client, site.kube.token(pod))
    with site.client() as restarted:
        assert restarted.post(f"/v1/leases/{first['lease']}/renew", headers=headers).status_code == 200
        assert restarted.delete(f"/v1/leases/{first['lease']}", headers=headers).status_code == 204
    assert accounts(mariadb) == [second["credential"]["user"]]
    site.kube.remove("pods", "hub", "jupyter-ada")
    assert reaper(site, site.replica()).pass_once() == 1


def test_connections_without_an_account_are_ended(
    site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer
) -> None:
    """When a controller died between dropping an account and killing its connections, the next pass kills them."""
    given = lease(client, site.kube.token(pod))
    connection = connect(mariadb, given)
    mariadb.execute(f"DROP USER '{given['credential']['user']}'@'%'")
    assert query(connection, "SELECT 1") == ((1,),)
    reaper(site, site.replica()).pass_once()
    with pytest.raises(pymysql.err.Error):
        query(connection, "SELECT 1")


def test_two_controllers_at_once_do_no_harm(
    site: Site, client: TestClient, mariadb: MariaDBServer, grant: dict[str, Any]
) -> None:
    """Two reapers and sessions that come and go: nobody fails, the living keep their accounts, the gone lose them."""
    pods = [site.kube.add_pod(session_pod(f"jupyter-{number}", user=f"u{number}")) for number in range(8)]
    given = [lease(client, site.kube.token(pod)) for pod in pods]
    opened = [connect(mariadb, one) for one in given]
    made = [site.replica(), site.replica()]
    for number in range(4):
        site.kube.remove("pods", "hub", f"jupyter-{number}")
    barrier = threading.Barrier(4)

    def passes(one: Reaper) -> None:
        barrier.wait(120)
        for _ in range(5):
            one.pass_once()

    def sessions(number: int) -> list[Any]:
        barrier.wait(120)
        return [lease(client, site.kube.token(pods[number])) for _ in range(3)]

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(passes, reaper(site, one)) for one in made]
        coming = [pool.submit(sessions, number) for number in (6, 7)]
        for task in running:
            task.result(200)
        more = [one for task in coming for one in task.result(200)]
    for one in [*given[4:], *more]:
        connect(mariadb, one).close()
    for connection in opened[:4]:
        with pytest.raises(pymysql.err.Error):
            query(connection, "SELECT 1")
    for connection in opened[4:]:
        assert query(connection, "SELECT 1") == ((1,),)
    assert len(accounts(mariadb)) == 4 + 6
    for one in made:
        assert one.metrics.registry.get_sample_value("datamount_reaper_failures_total") == 0


def test_accounts_that_are_not_ours_are_left_alone(site: Site, mariadb: MariaDBServer) -> None:
    """An account whose name only begins like ours is never dropped."""
    for user in ("dm_admin", "dmx"):
        mariadb.execute(f"DROP USER IF EXISTS {user}@'%'", f"CREATE USER {user}@'%'")
    reaper(site, site.replica()).pass_once()
    assert "dm_admin" in accounts(mariadb)
    mariadb.execute("DROP USER dm_admin@'%', dmx@'%'")


def test_an_account_that_cannot_be_granted_is_not_left(
    site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer, grant: dict[str, Any]
) -> None:
    """When the admin account may not grant what the policy says, the session is refused and no account stays."""
    wrong = {"mysql": grant | {"grants": {"courseX1": ["*"]}}, "allow": [{"images": [IMAGE]}]}
    site.write_policy({"credentials": {"all": wrong}})
    client.policy.read()  # type: ignore[attr-defined]
    problem = lease(client, site.kube.token(pod), status=403, database="courseX1")
    assert "admin account" in problem["hint"]
    assert accounts(mariadb) == []


@pytest.mark.parametrize("change", [{"port": 1}, {"admin_user": "nobody"}, {"admin_password_file": "/nowhere"}])
def test_a_server_that_fails_is_told_without_a_secret(
    site: Site, client: TestClient, pod: Object, grant: dict[str, Any], change: dict[str, Any]
) -> None:
    """A database that is down or refuses the admin is named to the session; no password is."""
    site.write_policy({"credentials": {"all": {"mysql": grant | change, "allow": [{"images": [IMAGE]}]}}})
    client.policy.read()  # type: ignore[attr-defined]
    body = {"dataset": "mimic2", "kind": "mysql", "credential": "all", "source": {"database": "course_1"}}
    response = client.post("/v1/leases", json=body, headers=bearer(site.kube.token(pod)))
    assert response.status_code in (403, 503)
    assert "planted" not in response.text
    assert reaper(site, site.replica()).pass_once() == 0


def test_a_removed_credentials_accounts_still_end(site: Site, client: TestClient, pod: Object) -> None:
    """A server that the policy no longer names is still reaped by the replica that knew it."""
    lease(client, site.kube.token(pod))
    one = reaper(site, site.replica())
    one.pass_once()
    site.write_policy({"version": 1})
    one._policy.read()
    site.kube.remove("pods", "hub", "jupyter-ada")
    assert one.pass_once() == 1


def test_names_keep_to_mysqls_limit() -> None:
    """A name has at most 32 characters until the year 4453, and tells its end, its pod, installation and rights."""
    for last in (0, 1_800_000_000, 78_364_164_095):
        name = account_name(last, "uid", "abcd", "efgh")
        assert len(name) <= 32
        assert read_name(name) == (float(last), pod_hash("uid"), "abcd", "efgh")
    for other in ("dm_", "root", "dm_1_x_y", "dm_1_" + "a" * 12, "'; DROP"):
        assert read_name(other) is None


def test_another_clusters_accounts_are_left_alone(
    site: Site, client: TestClient, pod: Object, mariadb: MariaDBServer
) -> None:
    """Of two clusters that share a server, one never drops what only the other can judge, until it has expired."""
    lease(client, site.kube.token(pod))
    other = site.replica()
    site.kube.remove("pods", "hub", "jupyter-ada")
    theirs = site.settings.model_copy(update={"installation": "other"})
    policy = other.leases._policy  # type: ignore[union-attr]
    policy.read()

    def pass_of(settings: Any, clock: Any = time.time) -> int:
        kube = Kube(site.kube.client())
        return Reaper(kube, policy, settings, other.audit, other.metrics, clock=clock).pass_once()

    assert pass_of(theirs) == 0
    assert len(accounts(mariadb)) == 1
    assert pass_of(theirs, clock=lambda: time.time() + TTL + 120) == 1


def test_a_session_with_other_labels_keeps_its_account(site: Site, client: TestClient) -> None:
    """A pod that was injected by its annotation counts as alive, whatever its labels."""
    pod = site.kube.add_pod(session_pod("jupyter-ada", labels={"component": "something-else"}))
    lease(client, site.kube.token(pod))
    assert reaper(site, site.replica()).pass_once() == 0


def test_a_grant_escapes_wildcards() -> None:
    """`_` in a schema's name grants that schema only, unless the server takes names literally."""
    assert mysql_leases._target("course_1", "*", escape=True) == r"`course\_1`.*"
    assert mysql_leases._target("course_1", "*", escape=False) == "`course_1`.*"
    assert mysql_leases._target("course_1", "a_b", escape=True) == "`course_1`.`a_b`"


@pytest.fixture(scope="module")
def tls_mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDBServer]:
    from datetime import UTC, datetime

    from datamount.controller.certificates import make_authority, make_certificate
    from tests import servers

    folder = tmp_path_factory.mktemp("tls")
    authority = make_authority(datetime.now(UTC))
    pair = make_certificate(authority, ["localhost"], datetime.now(UTC), 2)
    for name, content in (("ca", authority.certificate), ("crt", pair.certificate), ("key", pair.key)):
        (folder / name).write_bytes(content)
    options = [f"--ssl-ca={folder / 'ca'}", f"--ssl-cert={folder / 'crt'}", f"--ssl-key={folder / 'key'}"]
    yield from servers.running(servers.mariadb_or_mysql(options))


def test_sessions_must_use_tls_where_it_is_offered(tls_mariadb: MariaDBServer, tmp_path: Path) -> None:
    """On a server with TLS an account is made REQUIRE SSL, and `required` fails on a server without."""
    tls_mariadb.execute("CREATE DATABASE IF NOT EXISTS c")
    secret = tmp_path / "password"
    secret.write_text(tls_mariadb.root_password)
    grant = MySQLGrant(
        host="127.0.0.1", port=tls_mariadb.port, admin_user="root", admin_password_file=secret, grants={"c": ["*"]}
    )
    _, credential = MySQLLeases("x", grant).create("uid", {"c": ["*"]}, ttl=60, max_ttl=60, per_pod=9)
    assert credential.user
    assert credential.password
    login: dict[str, Any] = {"host": "127.0.0.1", "port": tls_mariadb.port, "user": credential.user}
    login["password"] = credential.password.get_secret_value()
    with closing(pymysql.connect(**login, ssl={"check_hostname": False})) as connection:
        assert query(connection, "SHOW STATUS LIKE 'Ssl_cipher'")[0][1]
    with pytest.raises(pymysql.err.OperationalError):
        pymysql.connect(**login, ssl_disabled=True)
    off = grant.model_copy(update={"tls": "off"})
    _, plain = MySQLLeases("x", off).create("uid", {"c": ["*"]}, ttl=60, max_ttl=60, per_pod=9)
    assert plain.user
    assert plain.password
    pymysql.connect(**login | {"user": plain.user, "password": plain.password.get_secret_value()}, ssl_disabled=True)


def test_required_tls_fails_without_it(mariadb: MariaDBServer, grant: dict[str, Any]) -> None:
    """A policy that requires TLS never sends the admin's password to a server without."""
    required = MySQLGrant.model_validate(grant | {"tls": "required"})
    with pytest.raises(Unavailable):
        MySQLLeases("x", required).accounts()


def test_an_account_tells_the_earlier_of_its_ends() -> None:
    """An account ends at its last second or where its renewal ends, whichever is first."""
    account = mysql_leases.Account("dm_x", "%", last=100.0, pod="p", whose="w", rights="r", renewed=50.0)
    assert account.expires.timestamp() == 50.0
    assert replace(account, renewed=500.0).expires.timestamp() == 100.0
