"""The prefetch engine: plan → transfer → verify → place. `fetch` delivers all datasets of a course."""

from datamount.fetch.engine import Delivery, Engine, exit_error, fetch

__all__ = ["Delivery", "Engine", "exit_error", "fetch"]
