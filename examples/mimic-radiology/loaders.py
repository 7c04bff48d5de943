"""Put what generate.py wrote where datamount.yaml says it is: MySQL, S3, a Quilt package, Pachyderm, a web server.

    python generate.py OUT
    python loaders.py mysql     OUT --option-file admin.cnf --database mimic2
    python loaders.py quilt     OUT --package examples/radiology-labels --registry s3://course-data
    python loaders.py s3        OUT --url s3://course-data/icd9/
    python loaders.py pachyderm OUT --repo radiology

For the instructor; students never need it. Secrets come from where each client looks by itself: an option file, the
AWS variables, PACHD_ADDRESS and PACH_PYTHON_AUTH_TOKEN. Loading again replaces what is there. The glossary is one
file for any web server.
"""

from __future__ import annotations

import argparse
import csv
from contextlib import closing
from pathlib import Path
from typing import Any

TYPES = {
    "sex": "CHAR(1)",
    "hospital_expire_flg": "CHAR(1)",
    "dob": "DATE",
    "admit_dt": "DATE",
    "disch_dt": "DATE",
    "charttime": "DATETIME",
    "category": "VARCHAR(26)",
    "code": "VARCHAR(16)",
    "description": "VARCHAR(255)",
    "text": "MEDIUMTEXT",
}
"""Column types; what is not named is an integer."""


def load_mysql(connection: Any, database: str, folder: Path) -> int:
    """Make the database and its tables anew on an open pymysql connection; the number of rows loaded."""
    loaded = 0
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{database}` CHARACTER SET utf8mb4")
        connection.select_db(database)
        for path in sorted((folder / "mysql").glob("*.csv")):
            with path.open(newline="", encoding="utf-8") as stream:
                columns, *rows = csv.reader(stream)
            fields = ", ".join(f"`{column}` {TYPES.get(column, 'INT')} NOT NULL" for column in columns)
            index = ", INDEX (subject_id)" if "subject_id" in columns else ""
            cursor.execute(f"DROP TABLE IF EXISTS `{path.stem}`")
            cursor.execute(f"CREATE TABLE `{path.stem}` ({fields}{index})")
            marks = ", ".join(["%s"] * len(columns))
            loaded += cursor.executemany(f"INSERT INTO `{path.stem}` VALUES ({marks})", rows) or 0
    connection.commit()
    return loaded


def load_s3(client: Any, bucket: str, prefix: str, folder: Path) -> int:
    """Put the code lists below the prefix with a boto3 client; the number of objects."""
    paths = sorted((folder / "codes").glob("*.csv"))
    for path in paths:
        client.put_object(Bucket=bucket, Key=f"{prefix}{path.name}", Body=path.read_bytes())
    return len(paths)


def push_quilt(package: str, registry: str, folder: Path) -> str:
    """Push the labels as a Quilt package; its top hash."""
    import quilt3

    contents = quilt3.Package()
    contents.set_dir(".", str(folder / "labels"))
    contents.set_meta({"title": "Findings of the synthetic radiology reports, by two readers"})
    pushed: str = contents.push(package, registry=registry, message="synthetic labels", force=True).top_hash
    return pushed


def load_pachyderm(client: Any, repo: str, folder: Path) -> str:
    """Put the images below /png of the branch master in one commit with a python_pachyderm client; the commit's ID."""
    if repo not in {info.repo.name for info in client.list_repo()}:
        client.create_repo(repo)
    with client.commit(repo, "master") as commit, client.modify_file_client(commit) as change:
        change.delete_file("/png")
        for path in sorted((folder / "images").glob("*.png")):
            change.put_file_from_bytes(f"/png/{path.name}", path.read_bytes())
    identity: str = commit.id
    return identity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    options = {
        "mysql": {"--option-file": "~/.my.cnf", "--database": "mimic2"},
        "s3": {"--url": "s3://course-data/icd9/"},
        "quilt": {"--package": "examples/radiology-labels", "--registry": "s3://course-data"},
        "pachyderm": {"--repo": "radiology"},
    }
    for name, defaults in options.items():
        command = commands.add_parser(name)
        command.add_argument("out", type=Path, help="the folder that generate.py wrote")
        for option, default in defaults.items():
            command.add_argument(option, default=default, help=f"default {default}")
    asked = parser.parse_args()
    match asked.command:
        case "mysql":
            import pymysql

            with closing(pymysql.connect(read_default_file=asked.option_file, charset="utf8mb4")) as connection:
                print(f"{load_mysql(connection, asked.database, asked.out)} rows")
        case "s3":
            import boto3

            bucket, _, prefix = asked.url.removeprefix("s3://").partition("/")
            print(f"{load_s3(boto3.client('s3'), bucket, prefix, asked.out)} objects")
        case "quilt":
            print(f"top hash {push_quilt(asked.package, asked.registry, asked.out)}")
        case "pachyderm":
            import python_pachyderm

            print(f"commit {load_pachyderm(python_pachyderm.Client.new_from_pachd_address(), asked.repo, asked.out)}")


if __name__ == "__main__":
    main()
