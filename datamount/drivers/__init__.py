"""Sources of data, one module each; `open_driver` imports only the one that is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from datamount.credentials import Credential
from datamount.drivers.base import Connection, Digest, Driver, Item, Pin, safe_path
from datamount.errors import UsageError
from datamount.manifest import Dataset

__all__ = ["Connection", "Digest", "Driver", "Item", "Pin", "open_driver", "safe_path"]

_DRIVERS = {
    "s3": "S3Driver",
    "quilt": "QuiltDriver",
    "pachyderm": "PachydermDriver",
    "mysql": "MySQLDriver",
    "url": "URLDriver",
}


def open_driver(name: str, dataset: Dataset, credential: Credential | None = None) -> Driver[Any]:
    """The driver of a dataset's one source. Makes no network call.

    Raises UsageError where the source's packages are not installed, naming the extra to install. In a pod, Refused for
    what a stranger's course may not reach there (see `reach`); the driver then also looks at addresses by itself.
    """
    from datamount.drivers import reach

    rules = reach.current()
    if rules:
        rules.check_declaration(name, dataset)
    kind = dataset.kind
    try:
        module = import_module(f"datamount.drivers.{kind}")
    except ModuleNotFoundError as error:
        raise UsageError(
            f'dataset "{name}": reading from {kind} needs the Python package {error.name!r}.',
            hint=f"Install it with: pip install 'datamount[{kind}]'",
            who="you",
        ) from error
    driver: Driver[Any] = getattr(module, _DRIVERS[kind])(name, dataset, dataset.source, credential)
    if rules:
        reach.guard(driver, dataset, rules)
    return driver
