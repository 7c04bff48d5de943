"""When autosave saves, on a clock of the test's own."""

from __future__ import annotations

import os
from pathlib import Path

from sidecar.autosave import Debounce, changes, scan

NOTHING: dict[str, tuple[int, int, int, int]] = {}


def tree(mark: int) -> dict[str, tuple[int, int, int, int]]:
    return {"a.ipynb": (mark, mark, mark, 1)}


def test_it_waits_for_a_pause() -> None:
    """A save comes once nothing has changed for the quiet time, and not before."""
    debounce = Debounce(quiet=10, at_most=60)
    assert not debounce.due(0, NOTHING, tree(1))
    assert not debounce.due(9, NOTHING, tree(2))
    assert not debounce.due(18, NOTHING, tree(2))
    assert debounce.due(19, NOTHING, tree(2))


def test_endless_changes_are_saved_after_the_longest_wait() -> None:
    """Work that never pauses is saved a minute after its first unsaved change."""
    debounce = Debounce(quiet=10, at_most=60)
    assert next(second for second in range(0, 130, 5) if debounce.due(second, NOTHING, tree(second))) == 60


def test_the_count_starts_anew_after_a_save() -> None:
    """A change right after a save waits for its own pause."""
    debounce = Debounce(quiet=10, at_most=60)
    debounce.due(0, NOTHING, tree(1))
    assert debounce.due(10, NOTHING, tree(1))
    debounce.saved()
    assert not debounce.due(11, tree(1), tree(2))
    assert not debounce.due(20, tree(1), tree(2))
    assert debounce.due(21, tree(1), tree(2))


def test_a_change_that_is_undone_needs_no_save() -> None:
    """A folder that is as it was saved is never due."""
    debounce = Debounce(quiet=10, at_most=60)
    debounce.due(0, tree(1), tree(2))
    assert not debounce.due(100, tree(1), tree(1))
    assert not debounce.due(101, tree(1), tree(3))


def test_a_failed_save_is_tried_again_later_and_later() -> None:
    """After failures the tries come 5, 10, 20, 40, 60, 60 s apart, and a success ends that."""
    debounce = Debounce(quiet=10, at_most=60)
    debounce.due(0, NOTHING, tree(1))
    assert debounce.due(10, NOTHING, tree(1))
    assert [debounce.failed(10) for _ in range(6)] == [5, 10, 20, 40, 60, 60]
    assert not debounce.due(69, NOTHING, tree(1))
    assert debounce.due(70, NOTHING, tree(1))
    debounce.saved()
    assert debounce.failed(70) == 5


def test_the_scan_sees_every_kind_of_change(tmp_path: Path) -> None:
    """New, changed, replaced and removed files and links are named; ignored folders are not entered."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "skip").mkdir()
    for name in ("same.txt", "sub/edited.txt", "gone.txt", "skip/x.txt", "replaced.txt"):
        (tmp_path / name).write_text("one")

    def ignored(path: str, is_folder: bool) -> bool:
        return is_folder and path == "skip"

    before = scan(tmp_path, ignored)
    (tmp_path / "sub/edited.txt").write_text("two")
    os.utime(tmp_path / "sub/edited.txt", ns=(1, 1))
    (tmp_path / "gone.txt").unlink()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "skip/y.txt").write_text("unseen")
    (tmp_path / "new").write_text("one")
    (tmp_path / "new").replace(tmp_path / "replaced.txt")
    assert changes(before, scan(tmp_path, ignored)) == ["gone.txt", "link", "replaced.txt", "sub/edited.txt"]
    assert changes(before, before) == []
