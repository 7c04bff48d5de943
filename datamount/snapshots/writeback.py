"""Telling the kernel to begin writing a file to the disk."""

from __future__ import annotations

import ctypes

_SYNC_FILE_RANGE_WAIT_BEFORE = 1
_SYNC_FILE_RANGE_WRITE = 2


def start_writeback(handle: int) -> None:
    """Let the disk begin with what was written, without waiting for it; nothing where the system cannot."""
    if _sync_file_range is not None:
        _sync_file_range(handle, 0, 0, _SYNC_FILE_RANGE_WRITE)


def make_clean(handle: int) -> None:
    """Let the disk begin with every page that was written, so that the next write to it through a mapping is seen.

    The kernel leaves out a page that the disk is still busy with, though it has changed since; so that is waited for.
    Nothing where the system cannot.
    """
    if _sync_file_range is not None:
        _sync_file_range(handle, 0, 0, _SYNC_FILE_RANGE_WAIT_BEFORE | _SYNC_FILE_RANGE_WRITE)


_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
