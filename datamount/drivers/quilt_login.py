"""What `quilt3 login` left on a person's own machine: keys for the private registries of a Quilt catalog.

quilt3 keeps them in its data folder and prefers them to the AWS configuration; so do we, but only for registries at
AWS itself. They are read without quilt3, whose import takes longer than most fetches, as long as they are good; when
they have ended, quilt3 asks its catalog for others.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import platformdirs
import yaml

from datamount.drivers.sigv4 import Keys
from datamount.errors import Refused

MARGIN = timedelta(minutes=5)
_refreshing = threading.Lock()


def login_keys(dataset: str) -> Keys | None:
    """The keys of the login; None where there is none. Raises Refused where the login has ended for good."""
    kept = _kept()
    if not kept:
        return None
    keys = _keys(kept)
    if keys is None or keys.expires is None or keys.expires - datetime.now(UTC) < MARGIN:
        with _refreshing:
            keys = _refreshed(dataset)
    return keys


def login_region() -> str | None:
    """The region of the catalog that quilt3 is configured for."""
    try:
        found = yaml.safe_load((_folder() / "config.yml").read_text(encoding="utf-8"))["region"]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None
    return str(found) if found else None


def _folder() -> Path:
    return Path(platformdirs.user_data_dir("Quilt", "QuiltData"))


def _kept() -> Mapping[str, Any]:
    try:
        found = json.loads((_folder() / "credentials.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keys(kept: Mapping[str, Any]) -> Keys | None:
    try:
        expires = datetime.fromisoformat(kept["expiry_time"])
        return Keys(kept["access_key"], kept["secret_key"], kept["token"], expires.astimezone(UTC))
    except (KeyError, TypeError, ValueError):
        return None


def _refreshed(dataset: str) -> Keys:
    """Keys that quilt3 gets with its refresh token, and keeps in its file."""
    os.environ.setdefault("QUILT_DISABLE_USAGE_METRICS", "true")
    try:
        import quilt3.session

        quilt3.session.get_boto3_session(fallback=False).get_credentials().get_frozen_credentials()
        keys = _keys(_kept())
    except Exception as error:  # quilt3, requests and botocore each have errors of their own
        raise _ended(dataset, type(error).__name__) from error
    if keys is None:
        raise _ended(dataset, "no keys")
    return keys


def _ended(dataset: str, why: str) -> Refused:
    return Refused(
        f'dataset "{dataset}": your login at the Quilt catalog has ended ({why}).',
        hint="Run: quilt3 login. Or quilt3 logout, to use your AWS configuration.",
        who="you",
    )
