"""Looking after a store: thinning, collecting garbage, checking, purging, and what saves do beside them."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest

from datamount.errors import NotFound, Unavailable
from datamount.objectstore import Body, ObjectInfo
from datamount.objectstore.doctor import examine
from datamount.objectstore.folder import FolderStore
from datamount.snapshots import Workspace, pristine, saving, workspaces
from datamount.snapshots.care import check, purge, stats
from datamount.snapshots.collect import Collected, collect
from datamount.snapshots.condemned import write_list
from datamount.snapshots.thinning import Dated, surplus
from datamount.snapshots.versionfile import Reason, VersionInfo
from tests.stores import Failing, Stale, Wrapped, age

T = TypeVar("T")

DAY = 25.0  # hours


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    return folder


def content(workspace: Workspace, version: str, path: str = "a.txt") -> bytes:
    return b"".join(workspace.read(version, path))


def save(workspace: Workspace, folder: Path, text: str, state: Path | None, reason: Reason = "auto") -> VersionInfo:
    (folder / "a.txt").write_text(text)
    version = workspace.save(folder, reason=reason, state_dir=state).version
    assert version
    return version


def objects(store: FolderStore) -> set[str]:
    return {o.key for o in store.list("workspaces/") if "/versions/" not in o.key}


def run(store: FolderStore, **options: object) -> Collected:
    (done,) = collect(store, **options)  # type: ignore[arg-type]
    return done


# --- Thinning -----------------------------------------------------------------------------------------------------


def info(
    seq: int, *, reason: Reason = "auto", writer: str = "w", message: str = "", shrunk: bool = False, created: float = 0
) -> VersionInfo:
    return VersionInfo(
        id=f"{seq:08d}-{'0' * 12}", seq=seq, created=datetime.fromtimestamp(created, UTC), reason=reason,
        message=message, author="", course_ref="", image="", parent=None, writer=writer,
        files=1, bytes=1, skipped=0, tree=str(seq), shrunk=shrunk,
    )  # fmt: skip


def kept(versions: list[tuple[VersionInfo, float]], now: float) -> list[int]:
    dated = [Dated(v, when) for v, when in versions]
    gone = set(surplus(dated, now=now, today=datetime.fromtimestamp(now, UTC)))
    return [v.seq for v, _ in versions if v.id not in gone]


def test_autosaves_stay_for_an_hour_then_hourly_then_daily() -> None:
    """All of the last hour stay, the last of each hour for a day, the last of each day before."""
    hour = 3600.0
    now = 1000 * 24 * hour
    made = {n: now - (4 * 24 * 60 - n) * 60 for n in range(1, 4 * 24 * 60 + 1)}
    minutes = [(info(n, created=when), when) for n, when in made.items()]
    left = kept(minutes, now)
    times = {v.seq: now - when for v, when in minutes}
    assert sum(times[s] <= hour for s in left) == 61
    assert sum(hour < times[s] <= 24 * hour for s in left) == 23
    assert sum(24 * hour < times[s] for s in left) == 3


@pytest.mark.parametrize(
    "spared",
    [
        {"reason": "manual"},
        {"message": "Before restoring 00000001"},
        {"writer": "another"},
    ],
    ids=str,
)
def test_what_is_never_thinned_out(spared: dict[str, str]) -> None:
    """Manual saves, those with a note, the newest of each writer and the newest of all stay, however old."""
    versions = [(info(n, **(spared if n == 2 else {})), 100.0 + n) for n in range(1, 6)]  # type: ignore[arg-type]
    assert kept(versions, now=1e9) == [2, 5]


def test_the_version_before_a_shrunk_one_stays() -> None:
    """What a start restores instead of a version that lost most of its files is not thinned out."""
    versions = [(info(1), 1.0), (info(2), 2.0), (info(3, shrunk=True), 3.0), (info(4, shrunk=True), 4.0)]
    assert kept(versions, now=1e9) == [2, 4]


def test_wrong_clocks_of_writers_do_not_thin(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """Versions said to be made in 1970 by a wrong clock are as old as the store says, and stay."""
    workspace = Workspace(store, "o", "c")
    for n in range(3):
        version = save(workspace, work, str(n), tmp_path / "state")
        raw = store.get(workspace.key(version.id))
        early = raw.replace(version.created.isoformat().encode(), b"1970-01-01T00:00:00+00:00")
        assert early != raw
        store.put(workspace.key(version.id), early)
    assert {found.created.year for found in Workspace(store, "o", "c").versions()} == {1970}
    assert run(store).versions_thinned == 0


def test_autosaves_thin_themselves_out(
    store: FolderStore, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any collector, a session's old autosaves go while it saves, and manual saves stay."""
    monkeypatch.setattr(saving, "THIN_EVERY", 8)

    def made(text: str, reason: Reason = "auto") -> VersionInfo:
        return save(Workspace(store, "o", "c"), work, text, tmp_path / "state", reason)

    manual = made("manual", "manual")
    for n in range(14):
        made(str(n))
        age(store.root, 30)
    newest = made("last")
    listed = [v.id for v in Workspace(store, "o", "c").versions()]
    assert {manual.id, newest.id} <= set(listed)
    before = len(listed)
    for n in range(8):
        made(f"again {n}")
    assert len(Workspace(store, "o", "c").versions()) <= before + 8
    dense = [made(f"dense {n}").id for n in range(16)]
    age(store.root, 60)
    for n in range(8):
        made(f"later {n}")
    left = {v.id for v in Workspace(store, "o", "c").versions()}
    assert len(left & set(dense)) < 3


# --- Garbage ------------------------------------------------------------------------------------------------------


def test_one_version_of_the_future_makes_nothing_old(
    store: FolderStore, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a clock was wrong for one save, the autosaves of the last hour stay all the same."""
    monkeypatch.setattr(saving, "THIN_EVERY", 4)
    workspace = Workspace(store, "o", "c")
    early = save(workspace, work, "of the future", tmp_path / "state")
    age(store.root, -24 * 365)
    made = [save(workspace, work, str(n), tmp_path / "state") for n in range(8)]
    assert {v.id for v in workspace.versions()} == {early.id, *(v.id for v in made)}


@pytest.mark.parametrize("hours", [48, 24 * 365])
def test_a_store_whose_clock_jumps_thins_nothing(
    store: FolderStore, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Autosaves of the last hour stay when the store's clock jumps forward while a session runs, and for a collector
    that comes after that."""
    monkeypatch.setattr(saving, "THIN_EVERY", 4)
    workspace = Workspace(store, "o", "c")
    made = [save(workspace, work, f"before {n}", tmp_path / "state") for n in range(8)]
    age(store.root, hours, writers=False)
    made += [save(workspace, work, f"after {n}", tmp_path / "state") for n in range(8)]
    assert run(store).versions_thinned == 0
    assert {v.id for v in workspace.versions()} == {v.id for v in made}


def test_garbage_goes_at_the_second_run_a_day_later(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """What no version names is marked once it is a day old, removed a day after that, and never anything else."""
    workspace = Workspace(store, "o", "c")
    old, new = (save(workspace, work, text, tmp_path / "state", "manual") for text in ("old", "new"))
    all_objects = objects(store)
    store.delete(workspace.key(old.id))
    assert (run(store).objects_condemned, objects(store)) == (0, all_objects)  # it may be a save under way
    age(store.root, DAY)
    assert (run(store).objects_condemned, objects(store)) == (1, all_objects)
    age(store.root, DAY / 2)
    assert (run(store).objects_removed, objects(store)) == (0, all_objects)
    age(store.root, DAY / 2)
    done = run(store)
    assert (done.objects_removed, len(objects(store)), done.doubt) == (1, len(all_objects) - 1, "")
    assert done.bytes_removed > 0
    assert content(workspace, new.id) == b"new"
    age(store.root, DAY)
    run(store)
    assert [k for k in (o.key for o in store.list("workspaces/")) if "condemned" in k or "swept" in k] == []


def test_a_dry_run_changes_nothing(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """--dry-run counts what would be done and leaves every object as it is."""
    workspace = Workspace(store, "o", "c")
    old = save(workspace, work, "old", tmp_path / "state")
    for n in range(3):
        save(workspace, work, str(n), tmp_path / "state")
    age(store.root, 3 * DAY)
    store.delete(workspace.key(old.id))
    before = {o.key for o in store.list("")}
    done = run(store, dry_run=True)
    assert done.objects_condemned == 1 and done.versions_thinned >= 1
    assert {o.key for o in store.list("")} == before


def test_a_save_never_names_what_is_condemned(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """Content that comes back while its old object is condemned is stored anew, and stays when that one goes."""
    workspace = Workspace(store, "o", "c")
    blob = os.urandom(5 << 20)
    (work / "large.bin").write_bytes(blob)
    first = save(workspace, work, "x", None)
    (work / "large.bin").unlink()
    save(workspace, work, "y", None)
    store.delete(workspace.key(first.id))
    age(store.root, DAY)
    assert run(store).objects_condemned == 2
    age(store.root, DAY)
    (work / "large.bin").write_bytes(blob)
    again = save(workspace, work, "x", None)
    assert run(store).objects_removed == 2
    assert content(workspace, again.id) == b"x"
    assert content(workspace, again.id, "large.bin") == blob


def test_merge_bases_go_when_no_version_names_them(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """A base stays while a version may be merged with it, goes in two runs after that, and one that is needed again
    while it is condemned is stored anew, and is there whatever becomes of the old one."""
    state = tmp_path / "state"
    (work / "b.txt").write_text("the course's b")
    shipped = {name: hashlib.sha256((work / name).read_bytes()).hexdigest() for name in ("a.txt", "b.txt")}
    pristine.record(work, state)
    workspace = Workspace(store, "o", "c")
    (work / "b.txt").unlink()
    first = save(workspace, work, "mine", state)
    (work / "b.txt").write_text("the course's b")
    second = save(workspace, work, "a", state)
    assert [d for c in check(store) for d in c.damage] == []
    age(store.root, DAY)
    assert run(store, thin=False).objects_condemned == 0
    store.delete(workspace.key(first.id))
    assert run(store).objects_condemned == 3  # what the first version held, and both bases
    age(store.root, DAY)
    third = save(workspace, work, "mine again", state)
    assert workspace.version(third.id).by_path()["a.txt"].base_stored
    done = run(store)
    assert (done.doubt, done.objects_removed) == ("", 2)
    store.delete(f"{workspace.prefix}base/{shipped['a.txt']}.zst")  # as a collector may that read the versions before
    assert workspace.read_base(shipped["a.txt"]) == b"a"
    with pytest.raises(NotFound):
        workspace.read_base(shipped["b.txt"])
    assert [d for c in check(store) for d in c.damage] == []
    assert content(workspace, second.id) == b"a"


class Meanwhile(Wrapped):
    """Does something once, right before the first put of a version."""

    def __init__(self, inner: FolderStore, do: object) -> None:
        super().__init__(inner)
        self.do = do

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        if "/versions/" in key and self.do:
            do, self.do = self.do, None
            do()  # type: ignore[operator]
        super().put(key, body, if_absent=if_absent)


def test_a_version_put_during_a_collection_keeps_its_objects(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """A save whose base is thinned out, and its objects condemned, between its list and its version, stays whole."""
    workspace = Workspace(store, "o", "c")
    (work / "b.txt").write_text("from the base")
    base = save(workspace, work, "1", tmp_path / "state")

    def tidy() -> None:
        store.delete(workspace.key(base.id))
        age(store.root, DAY)
        assert run(store).objects_condemned >= 1

    version = save(Workspace(Meanwhile(store, tidy), "o", "c"), work, "2", tmp_path / "state")  # type: ignore[arg-type]
    age(store.root, DAY)
    assert run(store).doubt == ""
    assert content(workspace, version.id, "b.txt") == b"from the base"


@pytest.mark.parametrize("doubt", ["corrupt version", "missing object", "unknown name", "failing", "stale list"])
def test_any_doubt_stops_the_collection(store: FolderStore, work: Path, tmp_path: Path, doubt: str) -> None:
    """A version that cannot be read, a missing object, an unknown name, a fault or a stale list: nothing is removed,
    and the workspace is named."""
    workspace = Workspace(store, "o", "c")
    old, new = (save(workspace, work, text, tmp_path / "state", "manual") for text in ("old", "new"))
    store.delete(workspace.key(old.id))
    age(store.root, DAY)
    run(store)
    age(store.root, DAY)
    before = objects(store)
    target: Wrapped = Wrapped(store)
    if doubt == "corrupt version":
        store.put(workspace.key(new.id), b"{")
    elif doubt == "missing object":
        place = workspace.version(new.id).by_path()["a.txt"].location
        assert place
        store.delete(workspace.prefix + place.object)
        before = objects(store)
    elif doubt == "unknown name":
        store.put(f"{workspace.prefix}versions/2099.cbor", b"")
    elif doubt == "failing":
        target = Failing(store, 7, landed=False, count=99)
    else:
        target = Stale(store, 1)
    if doubt in ("failing", "stale list"):
        with pytest.raises(Unavailable):
            for done in collect(target):
                if done.doubt:
                    raise Unavailable(done.doubt)
    else:
        assert run(store).doubt
    assert objects(store) == before


# --- What a save relies on ----------------------------------------------------------------------------------------


def test_an_unchanged_tree_is_saved_again_when_its_version_went(
    store: FolderStore, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the time of trust, a save of an unchanged tree asks, and saves again where its version is gone."""
    workspace = Workspace(store, "o", "c")
    first = save(workspace, work, "1", tmp_path / "state")
    monkeypatch.setattr(saving, "TRUST", 0.0)
    assert not workspace.save(work, reason="auto", state_dir=tmp_path / "state").created
    purge(store, "o")
    again = workspace.save(work, reason="auto", state_dir=tmp_path / "state")
    assert again.created and again.version and again.version.id != first.id
    assert content(workspace, "latest") == b"1"


def test_a_manual_save_of_what_was_autosaved_is_a_version(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """Save pressed after an autosave makes a version that thinning never takes; pressed again, none."""
    workspace = Workspace(store, "o", "c")
    save(workspace, work, "1", tmp_path / "state")
    results = [workspace.save(work, message=m, state_dir=tmp_path / "state") for m in ("", "", "exam", "exam", "")]
    assert [r.created for r in results] == [True, False, True, False, False]
    assert [v.reason for v in workspace.versions()] == ["manual", "manual", "auto"]


@pytest.mark.parametrize("edited", [False, True])
def test_a_version_whose_answer_was_lost_is_taken_up(
    store: FolderStore, work: Path, tmp_path: Path, edited: bool
) -> None:
    """The save after one whose version landed unanswered makes no sibling: it is that version, or builds on it."""
    state = tmp_path / "state"
    honest = Workspace(store, "o", "c")
    first = save(honest, work, "1", state)

    class Lost(Wrapped):
        def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
            super().put(key, body, if_absent=if_absent)
            if "/versions/" in key:
                raise Unavailable("the answer was lost")

    with pytest.raises(Unavailable):
        save(Workspace(Lost(store), "o", "c"), work, "2", state)
    landed = honest.version("latest").info
    assert landed.parent == first.id
    if edited:
        assert save(honest, work, "3", state).parent == landed.id
    else:
        assert save(honest, work, "2", state) == landed
    assert len(honest.versions()) == 2 + edited


def test_a_list_that_hides_the_base_costs_nothing(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """A stale list makes no second first version: the save builds on its base, under a later number."""
    state = tmp_path / "state"
    stale = Stale(store, 0)
    workspace = Workspace(stale, "o", "c")
    first = save(workspace, work, "1", state)
    stale.late = 10**6  # nothing of what was ever put is listed
    second = save(workspace, work, "2", state)
    assert (second.parent, second.seq) == (first.id, 2)


def test_a_save_that_took_too_long_starts_again(
    store: FolderStore, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sleep of a day in the middle of a save nothing is named that may have been collected meanwhile."""
    times = iter([0.0, 1e6, 2e6, 2e6])
    monkeypatch.setattr(saving, "now", lambda: next(times, 2e6))
    puts = Wrapped(store)
    assert Workspace(puts, "o", "c").save(work).created
    assert sum(name == "put" and "bundles" in key for name, key in puts.calls) == 2


def test_names_that_differ_in_case_stay_apart(store: FolderStore) -> None:
    """Owners and courses that differ only in case never share a place, also where file systems ignore case."""
    names = ["ann", "Ann", "ANN", "%41nn", "https://h/A", "https://h/a", "É", "é"]
    assert len({Workspace(store, n, n).prefix.lower() for n in names}) == len(names)


def test_workspaces_are_found_by_their_names(store: FolderStore, work: Path) -> None:
    """workspaces() finds every workspace, and those of one owner only, with decoded names."""
    pairs = [("ann", "https://h/x"), ("Ann", "c"), ("b" * 300, "c"), (".", "..")]
    for owner, course in pairs:
        Workspace(store, owner, course).save(work)
    assert {w.prefix for w in workspaces(store)} == {Workspace(store, *p).prefix for p in pairs}
    assert [(w.owner, w.course) for w in workspaces(store, "ann")] == [("ann", "https://h/x")]


# --- Check, stats, purge, doctor ----------------------------------------------------------------------------------


def test_a_check_names_every_damage(store: FolderStore, work: Path) -> None:
    """Each missing, cut or altered object is found and named with its versions and files; nothing else is."""
    workspace = Workspace(store, "o", "c")
    blobs = {f"{n}.bin": os.urandom(5 << 20) for n in range(4)}
    for name, data in blobs.items():
        (work / name).write_bytes(data)
    version = save(workspace, work, "x", None)
    assert [c.damage for c in check(store)] == [[]]
    places = {e.path: e.location for e in workspace.version(version.id).entries}
    path = {n: store.root / workspace.prefix / places[n].object for n in places}  # type: ignore[union-attr]
    path["0.bin"].unlink()
    path["1.bin"].write_bytes(b"short")
    raw = bytearray(path["2.bin"].read_bytes())
    raw[1000] ^= 1
    path["2.bin"].write_bytes(raw)
    (found,) = check(store)
    assert {(d.kind, d.paths, d.versions) for d in found.damage} == {
        ("missing", ("0.bin",), (version.id,)),
        ("corrupt", ("1.bin",), (version.id,)),
        ("corrupt", ("2.bin",), (version.id,)),
    }
    (sampled,) = check(store, sample=0.0)
    assert {d.paths for d in sampled.damage} == {("0.bin",), ("1.bin",)}
    (store.root / workspace.key(version.id)).write_bytes(b"{}")
    (broken,) = check(store)
    assert [d.key for d in broken.damage] == [f"versions/{version.id}.json"]


def test_a_check_names_secrets_of_older_versions(store: FolderStore, work: Path) -> None:
    """What a save leaves out today is named with the versions that have it; a configuration without a login is not."""
    for name, text in {".netrc": "x", ".git/config": "[core]\n", "in/.git/config": "url = https://a:b@h/x\n"}.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(text)
    version = Workspace(store, "o", "c").save(work, exclude=["!.netrc", "!**/config"]).version
    assert version
    (found,) = check(store)
    assert found.secrets == {".netrc": [version.id], "in/.git/config": [version.id]}
    assert not found.damage


def test_one_persons_work_is_looked_after_alone(store: FolderStore, work: Path) -> None:
    """check, stats and collect go through one owner's workspaces, or one course's, and no others."""
    for owner in ("ann", "bob"):
        for course in ("c", "d"):
            Workspace(store, owner, course).save(work)
    for listing in (check, stats, collect):
        assert len(list(listing(store))) == 4
        assert len(list(listing(store, owner="ann"))) == 2
        assert len(list(listing(store, course="c"))) == 2
        assert len(list(listing(store, owner="bob", course="d"))) == 1
        assert list(listing(store, owner="nobody")) == []


def test_a_sample_reads_a_share(store: FolderStore, work: Path) -> None:
    """With a sample of a half, about half of the objects are read whole, and all are looked for."""
    for n in range(40):
        (work / "a.txt").write_text(str(n))
        Workspace(store, "o", "c").save(work)
    (found,) = check(store, sample=0.5, chance=random.Random(1))
    assert found.objects == 40 and 10 < found.read < 30 and not found.damage


def test_stats_count_what_is_stored(store: FolderStore, work: Path, tmp_path: Path) -> None:
    """stats names owner, course, versions, bytes, and how much no version needs."""
    workspace = Workspace(store, "Ann", "c d")
    first = save(workspace, work, "1", tmp_path / "state")
    save(workspace, work, "2", tmp_path / "state")
    store.delete(workspace.key(first.id))
    (found,) = stats(store)
    assert (found.owner, found.course, found.versions, found.latest_bytes) == ("Ann", "c d", 1, 1)
    assert found.unnamed_objects == 1 and 0 < found.unnamed_bytes < found.bytes


def test_purge_leaves_nothing_of_a_person(store: FolderStore, work: Path) -> None:
    """After purge no key, file or folder names the person; others are untouched; a dry run removes nothing."""
    for owner in ("ann", "anna"):
        for course in ("c", "d"):
            Workspace(store, owner, course).save(work)
    planned = purge(store, "ann", dry_run=True)
    assert {o.key for o in planned} == {o.key for o in purge(store, "ann")}
    assert not list(store.root.glob("workspaces/ann"))
    assert content(Workspace(store, "anna", "d"), "latest") == b"a"
    purge(store, "anna", "c")
    assert [w.course for w in workspaces(store)] == ["d"]


class Purged(Wrapped):
    """A store that an operator purges of a person at the n-th call."""

    def __init__(self, inner: FolderStore, owner: str, at: int) -> None:
        super().__init__(inner)
        self.owner, self.at = owner, at

    def around(self, number: int, name: str, key: str, do: Callable[[], T]) -> T:
        if number == self.at:
            purge(self.inner, self.owner)
        return do()


@pytest.mark.parametrize("at", range(1, 7))
@pytest.mark.parametrize("saved_before", [False, True])
def test_a_purge_beside_a_save(
    store: FolderStore, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, saved_before: bool
) -> None:
    """A person's work that is purged in the middle of a save: the session's next look at what it has saved makes all of
    it again, though nothing has changed; and a purge after its end leaves nothing."""
    (work / "large.bin").write_bytes(os.urandom(5 << 20))
    if saved_before:
        Workspace(store, "o", "c").save(work, state_dir=tmp_path / "state")
        (work / "a.txt").write_text("changed")
    Workspace(Purged(store, "o", at), "o", "c").save(work, state_dir=tmp_path / "state")
    monkeypatch.setattr(saving, "TRUST", 0)
    Workspace(store, "o", "c").save(work, reason="auto", state_dir=tmp_path / "state")
    out = tmp_path / "out"
    assert not Workspace(store, "o", "c").restore("latest", out).failed
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {p.name: p.read_bytes() for p in work.iterdir()}
    purge(store, "o")
    assert not list(store.list("workspaces/"))


class Careless(Wrapped):
    """A store that ignores if_absent."""

    def put(self, key: str, body: Body, *, if_absent: bool = False) -> None:
        super().put(key, body)


class Shifted(Wrapped):
    """A store that answers range reads with the whole object."""

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return super().get(key)


class Sleepy(Wrapped):
    """A store whose clock is an hour late."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return (replace(o, modified=o.modified - 3600) for o in super().list(prefix))


def test_the_doctor_finds_what_is_wrong(store: FolderStore) -> None:
    """Each property that a store lacks is found, needed ones as failures, and nothing stays behind."""
    found = {f.name: f.ok for f in examine(store)}
    assert len(found) == 6 and all(found.values())
    for kind, lacks in (
        (Careless, "conditional create"),
        (Shifted, "range reads"),
        (Sleepy, "clock"),
    ):
        assert [f.name for f in examine(kind(store)) if not f.ok] == [lacks]
    assert list(store.list("doctor/")) == []
    assert "list consistency" in [f.name for f in examine(Stale(store, 1)) if not f.ok]


def test_a_damaged_list_of_the_condemned_blocks_nothing(store: FolderStore, work: Path) -> None:
    """A list that cannot be read is carried out by nobody, and saves go on."""
    workspace = Workspace(store, "o", "c")
    save(workspace, work, "1", None)
    write_list(store, workspace.prefix, "0" * 16, ["blobs/x"])
    store.put(f"{workspace.prefix}versions/condemned-{'1' * 16}", b"{")
    age(store.root, DAY)
    assert run(store).doubt == ""
    assert save(workspace, work, "2", None).seq == 2
