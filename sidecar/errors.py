"""What the sidecar itself refuses: the branches that it adds to the tree of `datamount.errors`."""

from __future__ import annotations

from datamount.errors import Refused, UsageError


class KeyReused(UsageError):
    http_status = 422
    title = "The Idempotency-Key belongs to another request"


class NotWithThisStore(UsageError):
    http_status = 409
    title = "Not available with this store"


class ReadOnly(UsageError):
    http_status = 409
    title = "Read-only share"


class Misdirected(Refused):
    http_status = 421
    title = "Not a name of this service"
