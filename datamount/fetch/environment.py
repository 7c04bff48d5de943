"""What programs in a session are given besides files: variables and connection files.

All of it is there before the first byte is fetched and whatever fails later, so that a notebook finds the names the
course declares even when their data is missing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import quote, quote_plus

from pydantic import SecretStr

from datamount import names
from datamount.credentials import Credential
from datamount.drivers.base import Connection
from datamount.fetch import remote_access
from datamount.status import write_atomic

MASK = "…"
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def dataset_variables(name: str, data: Path, run: Path, connection: Connection | None) -> dict[str, str]:
    """The variables of one dataset: <NAME>_PATH and what its driver adds, with `{run}` filled in."""
    return {names.variable(name, "PATH"): str(data / name)} | _filled(connection.variables if connection else {}, run)


def _filled(variables: Mapping[str, str], run: Path) -> dict[str, str]:
    keys = remote_access.address(run)
    return {
        key: value.replace("{run}", str(run)).replace("{keys}", keys or "")
        for key, value in variables.items()
        if keys or "{keys}" not in value
    }


def write_environment(datasets: Mapping[str, Connection | None], data: Path, run: Path) -> dict[str, str]:
    """Write `<run>/env` and every connection file, all with mode 0600; returns the variables, secrets included.

    `env` has lines KEY='value': `set -a; . env` in a shell, `shlex.split` in a program. Earlier files are replaced
    whole. Raises OSError where the run folder cannot be written, ValueError for a file name that leaves it.
    """
    run.mkdir(parents=True, exist_ok=True)
    variables = {names.ENV_DATA: str(data), names.ENV_RUN: str(run)}
    for name, connection in datasets.items():
        for file, text in (connection.files if connection else {}).items():
            path = PurePosixPath(file)
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"connection file {file!r} of dataset {name!r} leaves the run folder")
            write_atomic(run / path, text.replace("{run}", str(run)).encode(), mode=0o600)
        variables |= dataset_variables(name, data, run, connection)
    variables |= _filled(next((found.aws for found in datasets.values() if found and found.aws), {}), run)
    lines = "".join(f"{key}={_quoted(value)}\n" for key, value in variables.items())
    write_atomic(run / names.ENV_FILE, lines.encode(), mode=0o600)
    return variables


def read_environment(run: Path) -> dict[str, str]:
    """The variables of `<run>/env`; empty where there is none."""
    try:
        text = (run / names.ENV_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return dict(pair.split("=", 1) for pair in shlex.split(text))


def masked(variables: Mapping[str, str], credential: Credential | None) -> dict[str, str]:
    """The same variables with "…" for every value that holds a secret: one of the credential's, plain or as URLs
    write it, or any URL with a password."""
    secrets = [form for secret in _secrets(credential) for form in (secret, quote(secret, safe=""), quote_plus(secret))]
    return {
        key: MASK if _PASSWORD_IN_URL.search(value) or any(s in value for s in secrets) else value
        for key, value in variables.items()
    }


def _secrets(credential: Credential | None) -> Iterable[str]:
    for field in Credential.model_fields if credential else ():
        value = getattr(credential, field)
        if isinstance(value, SecretStr) and value.get_secret_value():
            yield value.get_secret_value()


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\"'\"'") + "'"
