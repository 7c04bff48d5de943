"""The policy cookbook's recipe for restricted data, word for word, on a real database."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml
from fastapi.testclient import TestClient

from tests.kube.site import Site, bearer, running_site, session_pod
from tests.servers import MariaDBServer

pytestmark = pytest.mark.xdist_group("mysql-leases")
PAGE = Path(__file__).parents[2] / "docs/operators/policy.md"
COURSE = "https://github.com/org/mimic-course"


def recipe() -> tuple[dict[str, Any], list[str]]:
    """Policy and SQL of the section on MIMIC."""
    section = PAGE.read_text(encoding="utf-8").partition("## MIMIC")[2].partition("\n## ")[0]
    values = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", section, re.S)[0])
    statements = re.findall(r"```sql\n(.*?)```", section, re.S)[0].split(";")
    return values["policy"], [statement.strip() for statement in statements if statement.strip()]


@pytest.fixture
def hub(tmp_path: Path, mariadb: MariaDBServer) -> Iterator[tuple[Site, TestClient, dict[str, Any]]]:
    """The recipe with this server's address and password. TLS is left out: this server has none."""
    policy, statements = recipe()
    mariadb.make_database("mimic2")
    for table in ("noteevents", "admissions", "patients"):
        mariadb.execute(f"CREATE TABLE mimic2.{table} (id INT)", f"INSERT INTO mimic2.{table} VALUES (1)")
    for statement in statements:
        plain = statement.replace("datamount@", "recipe@").replace("'…' REQUIRE SSL", "'planted-recipe'")
        mariadb.execute(plain.replace("CONNECTION ADMIN", mariadb.connection_admin))
    with running_site(tmp_path) as site:
        database = policy["credentials"]["mimic2-reader"]["mysql"]
        assert database["tls"] == "required"
        database |= {"host": mariadb.host, "port": mariadb.port, "admin_user": "recipe", "tls": "where-offered"}
        database["admin_password_file"] = site.secret_file("recipe", "planted-recipe")
        site.write_policy(policy)
        with site.client() as client:
            yield site, client, policy
    mariadb.execute("DROP USER recipe@'%'", "DROP DATABASE mimic2")


def test_each_user_of_the_course_is_approved_for_mimic(
    hub: tuple[Site, TestClient, dict[str, Any]], mariadb: MariaDBServer
) -> None:
    """Who has signed gets an account in the course, which reads the tables that were granted and no other. Who has not,
    who opens another course, forged or not, and who asks for more, is refused with whom to ask; and a right that is
    taken away ends with the next renewal, while the others go on."""
    site, client, policy = hub
    (rule,) = policy["credentials"]["mimic2-reader"]["allow"]
    image = f"{rule['images'][0]}:4c1e9f"

    def token(user: str, **pod: Any) -> str:
        number = len(site.kube.objects["pods"])
        made = session_pod(f"jupyter-{number}", user=user, **{"image": image, "repo": COURSE} | pod)
        return site.kube.token(site.kube.add_pod(made))

    def lease(bearer_token: str, status: int, **source: Any) -> Any:
        wanted = {"dataset": "mimic2", "kind": "mysql", "credential": "mimic2-reader"}
        body = wanted | {"source": {"database": "mimic2"} | source}
        answer = client.post("/v1/leases", json=body, headers=bearer(bearer_token))
        assert answer.status_code == status, answer.text
        return answer.json()

    ada, grace = token("ada"), token("grace")
    given, other = lease(ada, 201), lease(grace, 201)
    login = {name: given["credential"][name] for name in ("user", "password")}
    with closing(mariadb.connect(**login, database="mimic2")) as connection, connection.cursor() as cursor:
        for table in ("noteevents", "admissions"):
            assert cursor.execute(f"SELECT * FROM {table}") == 1
        for statement in ("SELECT * FROM patients", "DELETE FROM noteevents", "SELECT * FROM mysql.user"):
            with pytest.raises(pymysql.err.Error):
                cursor.execute(statement)
    for refused, reason in (
        (token("eve"), "user"),
        (token(""), "user"),
        (token("ada", image="registry.example.edu/binder/ada-2dmine-1a2b3c:1"), "image"),
        (token("ada", image=f"{rule['images'][0]}-of-mine:1"), "image"),
    ):
        problem = lease(refused, 403)
        assert "data-office@example.edu" in problem["hint"]
        assert site.audit()[-1]["reason"] == reason
    assert "patients" in lease(ada, 403, tables=["patients"])["detail"]
    assert lease(ada, 403, database="mysql")

    changed = copy.deepcopy(policy)
    changed["groups"]["mimic-approved"].remove("ada")
    site.write_policy(changed)
    client.policy.read()  # type: ignore[attr-defined]
    assert client.post(f"/v1/leases/{given['lease']}/renew", headers=bearer(ada)).status_code == 403
    assert client.post(f"/v1/leases/{other['lease']}/renew", headers=bearer(grace)).status_code == 200
    for held, whose in ((given, ada), (other, grace)):
        assert client.delete(f"/v1/leases/{held['lease']}", headers=bearer(whose)).status_code == 204
    with pytest.raises(pymysql.err.OperationalError):
        mariadb.connect(**login)
