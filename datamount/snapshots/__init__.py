"""The versioned store of student work: what was told saved is there, and nothing is overwritten.

The bucket
==========
Everything of one student in one course lies below `workspaces/<owner>/<course>/` (both percent-encoded):

    versions/<seq>-<random>.json   one save. Immutable. Its appearance is the commit: all it names is durable before.
    bundles/<sha256>.zip           8–16 MiB of small files: a plain zip of stored entries, each named by the sha256 of
                                   the file, with `.zst` where the entry is a zstd frame. Named by its own sha256.
    blobs/<sha256>[.zst]           one large file, raw or as a zstd frame, named by the sha256 of the file.
    base/<sha256>[.<random>].zst   what the course shipped of a file that the student changed: the merge base.
    shares/<version>/<anything>    a link was given to this version: it is never thinned out.

    versions/condemned-<random>    what a collection of garbage is about to remove; see `snapshots.condemned`.

and beside `workspaces/`, `restore.py`: restores a version with nothing but Python. Owner and course are
percent-encoded down to [a-z0-9._-], capitals too, so that no two of them meet on a file system that ignores case. A
blob whose name is condemned when it is needed again gets `.<random>` after its digest.

A version object is one JSON document: `format` (1), `version` (the header, alone on the first line, so that a list
reads 8 KiB of each), `objects` (keys relative to the workspace), `skipped` ({path, reason}), `warnings`, `deleted`
(the course's files that the student removed), `entries`. An entry has `path`, `type` (file, folder, link), `mode`
(permission bits), `mtime_ns`; a file also `size`, `sha256`, and where it is: `object` (index into `objects`), `offset`,
`length`, `encoding` (raw, zstd); a link `target`. `pristine` marks a file as the course shipped it; one that large
may have no `object`: `course_ref` and `image` of the header say where it came from. `base` is the sha256 of what the
course shipped at the path of a changed file, `base_stored` whether `base/` has it. Names whose bytes are not UTF-8
carry them in `path_b64` (`target_b64`), base64.

Rules
=====
- Blobs and bundles first, the version last. A save that dies leaves objects that nothing names, and no version.
- A save refers only to objects (merge bases too) that it put itself, or that a version named which it has just seen
  listed, and to none that is condemned: so garbage is collected by counting from versions alone, beside any number of
  saves.
- A save of an unchanged tree believes for some hours, without a request, that its version is there, when this folder
  made it (five minutes, when another one did). So what thins out versions never takes the newest one of a writer.
- A version that landed though its answer was lost is taken up by its writer's next save.
- Safety needs neither conditional writes nor clocks. `seq` is one more than the highest seen; two writers may take
  the same, the random part keeps them apart, and both stay, as siblings with the same parent.
- Order is (seq, created, id), so every reader agrees on the latest.
- Times are kept but do not make a version: a tree whose names, modes and contents are the same is the same tree.
"""

from datamount.snapshots.restore import Preview, RestoreReport
from datamount.snapshots.saving import SaveResult
from datamount.snapshots.versionfile import Entry, Version, VersionInfo
from datamount.snapshots.workspace import Change, Workspace, workspaces

__all__ = [
    "Change",
    "Entry",
    "Preview",
    "RestoreReport",
    "SaveResult",
    "Version",
    "VersionInfo",
    "Workspace",
    "workspaces",
]
