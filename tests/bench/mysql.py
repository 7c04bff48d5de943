"""How fast a MySQL table becomes Parquet: ours beside the readers that people use and the server's own bound.

    python -m tests.bench.mysql                       # measure all, write docs/benchmarks/mysql.md
    python -m tests.bench.mysql --only notes --rounds 5 --scale 0.1 --dry

Runs are interleaved (every tool once, then again), figures are medians, ratios are to SELECT … INTO OUTFILE, which
writes text on the server's side and is no Parquet: the bound of what the server can read. Every tool is a process of
its own and reads the whole table in the order of its primary key; ours verifies, records and renames besides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tests.bench.download import Run, measure
from tests.servers import MariaDBServer

REPORT = Path(__file__).parent.parent.parent / "docs/benchmarks/mysql.md"
DATABASE = "bench"
BOUND = "SELECT … INTO OUTFILE"


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` as in CREATE TABLE after the key; `values` fills them from MariaDB's sequence `seq`."""

    name: str
    title: str
    rows: int
    columns: str
    values: str


WORDS = "lungs heart effusion pneumothorax stable chest tube catheter consolidation atelectasis impression findings"
_LIST = ", ".join(f"'{word}'" for word in WORDS.split())
_SENTENCE = ", ".join(f"ELT(1 + (seq * {n} + seq DIV {n + 2}) % 12, {_LIST})" for n in range(3, 15))
_TEXT = f"REPEAT(CONCAT_WS(' ', {_SENTENCE}, seq), 20)"
TABLES = (
    Table(
        "notes",
        "500,000 notes of about 2 kB",
        500_000,
        "subject INT NOT NULL, category VARCHAR(40), charted DATETIME, text MEDIUMTEXT",
        f"seq % 40000, ELT(1 + seq % 3, 'RADIOLOGY', 'NURSING', 'ECG'), '2011-01-01' + INTERVAL seq MINUTE, {_TEXT}",
    ),
    Table(
        "numbers",
        "5,000,000 rows of 8 numbers",
        5_000_000,
        ", ".join([*(f"i{n} INT NOT NULL" for n in range(3)), *(f"d{n} DOUBLE" for n in range(3)), "b BIGINT"]),
        "seq % 1000, seq * 7 % 65536, -seq, RAND(seq), SQRT(seq), seq / 3, seq * 1000003",
    ),
)

_PYMYSQL = """
import json, os, sys
import pyarrow, pyarrow.parquet, pymysql
order = json.loads(sys.argv[1])
connection = pymysql.connect(host=order["host"], port=order["port"], user="root", password=os.environ["SECRET"],
    database=order["database"], cursorclass=pymysql.cursors.SSCursor)
writer = None
with connection.cursor() as cursor:
    cursor.execute(f"SELECT * FROM {order['table']} ORDER BY id")
    names = [column[0] for column in cursor.description]
    while rows := cursor.fetchmany(100_000):
        batch = pyarrow.table([list(column) for column in zip(*rows)], names=names)
        writer = writer or pyarrow.parquet.ParquetWriter(order["out"], batch.schema, compression="zstd")
        writer.write_table(batch)
writer.close()
"""
_CONNECTORX = """
import json, os, sys
import connectorx, pyarrow.parquet
order = json.loads(sys.argv[1])
address = f"mysql://root:{os.environ['SECRET']}@{order['host']}:{order['port']}/{order['database']}"
reader = connectorx.read_sql(address, f"SELECT * FROM {order['table']} ORDER BY id", return_type="arrow_stream",
    batch_size=100_000)
with pyarrow.parquet.ParquetWriter(order["out"], reader.schema, compression="zstd") as writer:
    for batch in reader:
        writer.write_batch(batch)
"""
_PANDAS = """
import json, os, sys
import pandas, sqlalchemy
order = json.loads(sys.argv[1])
address = f"mysql+pymysql://root:{os.environ['SECRET']}@{order['host']}:{order['port']}/{order['database']}"
with sqlalchemy.create_engine(address).connect() as connection:
    frame = pandas.read_sql(sqlalchemy.text(f"SELECT * FROM {order['table']} ORDER BY id"), connection)
frame.to_parquet(order["out"], compression="zstd")
"""
_OUTFILE = """
import json, os, sys
import pymysql
order = json.loads(sys.argv[1])
connection = pymysql.connect(host=order["host"], port=order["port"], user="root", password=os.environ["SECRET"],
    database=order["database"])
with connection.cursor() as cursor:
    cursor.execute(f"SELECT * INTO OUTFILE '{order['out']}' FROM {order['table']} ORDER BY id")
"""
SCRIPTS = {BOUND: _OUTFILE, "connectorx": _CONNECTORX, "pymysql SSCursor": _PYMYSQL, "SQLAlchemy + pandas": _PANDAS}
SLOW = ("pymysql SSCursor", "SQLAlchemy + pandas")
"""Peers that take minutes and tell little: one round."""


def seed(server: MariaDBServer, tables: Sequence[Table], scale: float) -> None:
    server.make_database(DATABASE)
    for table in tables:
        rows = int(table.rows * scale)
        print(f"filling {table.name}: {rows:,} rows", file=sys.stderr)
        name = f"{DATABASE}.{table.name}"
        server.execute(
            f"CREATE TABLE {name} (id INT PRIMARY KEY, {table.columns})",
            f"USE {DATABASE}",  # the sequence tables are of the database in use
            f"INSERT INTO {name} SELECT seq, {table.values} FROM seq_1_to_{rows}",
            f"ANALYZE TABLE {name}",
        )


def run(server: MariaDBServer, tool: str, table: Table, scratch: Path, rows: int) -> Run:
    """One tool's run; RuntimeError when it fails or delivers another number of rows."""
    import pyarrow.parquet

    user, password = server.make_user(DATABASE)
    shutil.rmtree(scratch / "data", ignore_errors=True)
    out = scratch / f"out-{user}"
    environment = dict(os.environ)
    if tool == "datamount":
        source = {"host": server.host, "port": server.port, "database": DATABASE, "credential": "bench"}
        document = {"version": 1, "datasets": {"set": {"mysql": source | {"tables": {table.name: {}}}}}}
        (scratch / "datamount.yaml").write_text(json.dumps(document))
        secrets = scratch / "credentials.yaml"
        secrets.touch(mode=0o600)
        secrets.write_text(json.dumps({"bench": {"user": user, "password": password}}))
        environment |= {"DATAMOUNT_CREDENTIALS": str(secrets), "DATAMOUNT_HOME": str(scratch / "home")}
        data = scratch / "data"
        command = [sys.executable, "-m", "datamount", "fetch", str(scratch), "--data", str(data)]
        done = measure([*command, "--run", str(scratch / "run")], environment)
        (out,) = (data / "set").rglob("*.parquet")
    else:
        order = {"host": server.host, "port": server.port, "database": DATABASE, "table": table.name, "out": str(out)}
        environment["SECRET"] = server.root_password
        done = measure([sys.executable, "-c", SCRIPTS[tool], json.dumps(order)], environment)
    if tool != BOUND and (found := pyarrow.parquet.read_metadata(out).num_rows) != rows:
        raise RuntimeError(f"{found} of {rows} rows")
    out.unlink()
    return done


Results = dict[str, list[Run]]
"""tool → its runs"""


def bench(server: MariaDBServer, table: Table, tools: Sequence[str], rounds: int, scale: float) -> Results:
    results: Results = {}
    failed: set[str] = set()
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds):
            for tool in tools:
                if tool in failed or (number and tool in SLOW):
                    continue
                try:
                    done = run(server, tool, table, Path(scratch), int(table.rows * scale))
                except Exception as error:
                    failed.add(tool)
                    print(f"{tool}: left out of {table.name}: {error}", file=sys.stderr)
                    continue
                results.setdefault(tool, []).append(done)
                print(
                    f"{table.name:8} {tool:24} {done.seconds:7.2f} s  cpu {done.cpu:6.2f} s  rss {done.rss >> 20} MiB",
                    file=sys.stderr,
                )
    return results


def report(results: Mapping[str, Results], scale: float) -> str:
    """The tables, as Markdown."""
    lines = []
    for table in TABLES:
        if not (found := results.get(table.name)):
            continue
        lines += [f"## {table.title}{f', × {scale}' if scale != 1 else ''}", ""]
        lines += [
            "| | runs | wall s | ratio to OUTFILE | client's CPU s | client's RSS MiB |",
            "|---|---|---|---|---|---|",
        ]
        bound = statistics.median(r.seconds for r in found[BOUND]) if BOUND in found else None
        for tool, runs in sorted(found.items(), key=lambda pair: statistics.median(r.seconds for r in pair[1])):
            wall = statistics.median(r.seconds for r in runs)
            ratio = f"{wall / bound:.2f}" if bound else ""
            cpu, rss = statistics.median(r.cpu for r in runs), max(r.rss for r in runs) >> 20
            lines.append(f"| {tool} | {len(runs)} | {wall:.2f} | {ratio} | {cpu:.2f} | {rss} |")
        lines.append("")
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    versions = []
    for name in ("datamount", "pymysql", "pyarrow", "connectorx", "sqlalchemy", "pandas"):
        with suppress(PackageNotFoundError):
            versions.append(f"{name} {version(name)}")
    head = [
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, load {os.getloadavg()[0]:.1f} at the end. Medians of "
        "interleaved runs.",
        "",
        f"Versions: {', '.join(versions)}.",
        "",
    ]
    return "\n".join(head + lines)


INTRODUCTION = f"""# MySQL tables to Parquet
Ours beside the readers that people use, from one MariaDB on the same machine, without TLS, in the order of the primary
key, to zstd Parquet. {BOUND} writes text and no Parquet: it is the server's own bound, and what the target (1.3) is
relative to. Written by `make bench ARGS=mysql`; rows that we lose are printed too. Why ours reads the wire itself:
[decision](../decisions/mysql-to-parquet.md).

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[t.name for t in TABLES], action="append")
    parser.add_argument("--peers", help="tools, comma-separated, beside datamount")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the rows")
    parser.add_argument("--dry", action="store_true", help="print, do not write the report")
    options = parser.parse_args()
    peers = [p for p in SCRIPTS if options.peers is None or p.split()[0] in options.peers.split(",")]
    tables = [t for t in TABLES if not options.only or t.name in options.only]
    with MariaDBServer(options=["--innodb-buffer-pool-size=2G"]) as server:
        seed(server, tables, options.scale)
        tools = ["datamount", *peers]
        results = {t.name: bench(server, t, tools, options.rounds, options.scale) for t in tables}
    text = report(results, options.scale)
    print(text)
    if not options.dry:
        REPORT.write_text(INTRODUCTION + text)


if __name__ == "__main__":
    main()
