"""The courses that the pod tests launch: files of their images, and their data on the test servers."""

from __future__ import annotations

import json
from typing import Any

import yaml

from tests import servers

CODES = "".join(f"{number},code {number}\n" for number in range(50_000))
NOTEBOOK = json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
SCHEMA = "clinic"


def course(s3: servers.S3Server) -> dict[str, str]:
    """What repo2docker copies into the image: a repo with a manifest, a good dataset of each kind and a broken one."""
    s3.put(s3.make_bucket(s3.reader_bucket), {"hub/codes.csv": CODES.encode(), "private/key.txt": b"not for courses"})
    s3.put(s3.make_bucket(s3.public_bucket), {"small/a.csv": b"x\n1\n"})
    codes = {"url": f"s3://{s3.reader_bucket}/hub/", "endpoint_url": s3.endpoint_url, "credential": "icd"}
    gone = {"url": "s3://no-such-bucket/x/", "endpoint_url": s3.endpoint_url, "anonymous": True}
    datasets = {"codes": {"s3": codes}, "small": {"s3": small(s3)}, "gone": {"s3": gone}}
    return {
        "binder/datamount.yaml": manifest(datasets),
        "lesson.ipynb": NOTEBOOK,
        "notes/.hidden": "kept\n",
        "a b/ü.txt": "odd names\n",
    }


def public_course(s3: servers.S3Server) -> dict[str, str]:
    """A course whose data anyone may read, and whose image configures Jupyter itself."""
    return {
        "binder/datamount.yaml": manifest({"small": {"s3": small(s3)}}),
        "lesson.ipynb": NOTEBOOK,
        "jupyter/jupyter_server_config.py": "c.ContentsManager.untitled_notebook = 'Of the image'\n",
    }


def broken_course() -> dict[str, str]:
    """A course whose manifest is no YAML."""
    return {"datamount.yaml": "version: 1\ndatasets: [", "lesson.ipynb": NOTEBOOK}


def clinic_course(mariadb: servers.MariaDBServer) -> dict[str, str]:
    """A course with a database."""
    mariadb.execute(
        f"CREATE DATABASE IF NOT EXISTS {SCHEMA}",
        f"CREATE OR REPLACE TABLE {SCHEMA}.notes (id INT, text TEXT)",
        f"INSERT INTO {SCHEMA}.notes VALUES (1, 'a note')",
    )
    source = {"host": mariadb.host, "port": mariadb.port, "database": SCHEMA, "credential": "clinic"}
    return {"binder/datamount.yaml": manifest({"clinic": {"mysql": source}}), "lesson.ipynb": NOTEBOOK}


def small(s3: servers.S3Server) -> dict[str, Any]:
    return {"url": f"s3://{s3.public_bucket}/small/", "endpoint_url": s3.endpoint_url, "anonymous": True}


def manifest(datasets: dict[str, Any]) -> str:
    return yaml.safe_dump({"version": 1, "datasets": datasets})
