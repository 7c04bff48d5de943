"""datamount.yaml: what is accepted, and what an author reads about each fault."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamount.errors import Fault, ManifestError
from datamount.manifest import SOURCES, Manifest, Mistake, json_schema, parse_size
from datamount.manifest.file import MAX_FAULTS, load_manifest, parse_manifest
from datamount.manifest.parse import MAX_BYTES

SHA = "5d41" * 16
FULL = f"""\
version: 1
datasets:
  mimic2:
    title: MIMIC-II radiology reports
    license: PhysioNet-Credentialed-1.5.0
    citation: https://doi.org/10.1097/CCM.0b013e31820a92c6
    mysql:
      host: db.example.edu
      database: mimic2
      credential: mimic2-reader
      tables:
        noteevents: {{columns: [subject_id, category, text], where: "category = 'RADIOLOGY_REPORT'"}}
  labels:
    optional: true
    quilt: {{package: examples/labels, registry: "s3://course-data", top_hash: 9f2c00aa, path: sub/folder}}
  images:
    when: background
    pachyderm: {{repo: radiology, project: default, branch: master, commit: 4c1e00, path: /png, credential: pach}}
  codes:
    live: true
    s3: {{url: "s3://course-data/icd/", include: ["*.csv"], endpoint_url: "https://s3.example.edu", anonymous: true}}
  glossary:
    url: https://example.edu/glossary.csv
    sha256: {SHA}
    unpack: zip
save:
  exclude: ["scratch/", "*.h5"]
  max_size: 500 MB
"""


def one(body: str) -> str:
    """A manifest with one dataset, `d`; the body's first line is line 4."""
    return "version: 1\ndatasets:\n  d:\n" + "".join(f"    {line}\n" for line in body.splitlines())


MYSQL = "mysql: {host: h, database: d"
S3 = "s3: {url: 's3://bucket/x/'"

# name → (text, the faults as "line:column key-part-of-the-message | part of the hint")
BROKEN: dict[str, tuple[str | bytes, list[str]]] = {
    "empty": ("", ["0:0 is empty | version: 1"]),
    "only a comment": ("# later\n", ["0:0 is empty | version: 1"]),
    "a list": ("- version\n", ["1:1 mapping | version: 1"]),
    "plain text": ("hello\n", ["1:1 mapping | version: 1"]),
    "no version": ("datasets: {}\n", ['1:1 needs the key "version" | version: 1']),
    "version as text": ('version: "1"\n', ["1:10 must be the number 1 | without quotes"]),
    "version as a float": ("version: 1.0\n", ["1:10 number | whole number"]),
    "version true": ("version: true\n", ["1:10 must be the number 1 | without quotes"]),
    "newer version": ("version: 2\nwhatever: 1\n", ["1:10 version 2 is newer | Upgrade"]),
    "version 0": ("version: 0\n", ["1:10 no version 0 |"]),
    "not UTF-8": (b"version: 1\n# \xe9t\xe9\n", ["2:3 not UTF-8 | UTF-8"]),
    "UTF-16": ("version: 1\n".encode("utf-16"), ["1:1 UTF-16 | UTF-8"]),
    "control character": ("version: 1\n# \x07\n", ["2:3 U+0007 | Delete"]),
    "tab": ("version: 1\ndatasets:\n\td: {}\n", ["3:1 tab | spaces"]),
    "two tabs, both named": (
        "version: 1\nsave:\n\tmax_size: 1\n\texclude: []\n",
        ["3:1 tab | spaces", "4:1 tab | spaces"],
    ),
    "over 1 MiB": ("version: 1\n#" + "x" * MAX_BYTES, ["0:0 over 1 MiB | goes elsewhere"]),
    "too deep": ("version: " + "[" * 60 + "]" * 60, ["1:60 deeper than 50 |"]),
    "two documents": ("version: 1\n---\nversion: 1\n", ["2:1 second document | one document"]),
    "alias": (
        "version: 1\nsave: {exclude: &x [a]}\ndatasets: *x\n",
        ["2:17 anchor | Write the value", "3:11 alias | Write the value"],
    ),
    "billion laughs": (
        "version: 1\na: &a [x, x]\nb: &b [*a, *a]\n",
        [
            "2:1 unknown key | Known keys",
            "2:4 anchor |",
            "3:1 unknown key |",
            "3:4 anchor |",
            "3:8 alias |",
            "3:12 alias |",
        ],
    ),
    "alias to itself": ("version: 1\nsave: &s {exclude: *s}\n", ["2:7 anchor |", "2:20 alias |"]),
    "python tag": ("version: 1\nsave: !!python/object:os.system {}\n", ["2:7 tag | plain value"]),
    "core tag": ("version: !!int 1\n", ["1:10 tag | plain value"]),
    "duplicate key": ("version: 1\nsave: {}\nsave: {}\n", ['3:1 "save" is there already, on line 2 | Keep one']),
    "duplicate dataset": (
        "version: 1\ndatasets:\n  d: {url: 'https://a.b/c'}\n  d: {url: 'https://a.b/d'}\n",
        ["4:3 there already, on line 3 |"],
    ),
    "number as a key": ("version: 1\n5: x\n", ["2:1 key must be text | quotes"]),
    "null as a key": ("version: 1\n~: x\n", ["2:1 key must be text | quotes"]),
    "list as a key": ("version: 1\n? [a]\n: x\n", ["2:3 key must be text | quotes"]),
    "no as a dataset": ("version: 1\ndatasets:\n  no: {url: 'https://a.b/c'}\n", ["3:3 truth value | quotes"]),
    "open list": ("version: 1\nsave: {exclude: [a, b}\n", ["2:22 list in [ ] |"]),
    "open quote": ("version: 1\nsave: 'x\n", ["3:1 quote | Close"]),
    "colon in text": (one("title: Reports: all\nurl: https://a.b/c"), ["4:19 colon | quotes"]),
    "unknown key at the top": ("version: 1\ndataset: {}\n", ['2:1 unknown key "dataset" | Did you mean "datasets"?']),
    "unknown key in mysql": (
        one("mysql:\n  host: h\n  database: d\n  credentials: x"),
        ['7:7 unknown key "credentials" in a mysql source | Did you mean "credential"?'],
    ),
    "unknown key in s3": (one(S3 + ", endpoint: x}"), ['4:33 unknown key "endpoint" in an s3 source | "endpoint_url"']),
    "unknown key in a table": (
        one(MYSQL + ", tables: {t: {colums: [a]}}}"),
        ['4:48 unknown key "colums" in table "t" | "columns"'],
    ),
    "unknown key in save": ("version: 1\nsave: {max-size: 5 MB}\n", ['2:8 "max-size" in "save" | "max_size"']),
    "key one level too high": (
        one("host: h\nmysql: {database: d, host: h}"),
        ['4:5 "host" in dataset "d" | inside `mysql:`'],
    ),
    "key one level too deep": (one(MYSQL + ", live: true}"), ['4:35 "live" in a mysql source | indented too far']),
    "unknown source": (one("postgres: {host: h}"), ["3:3 exactly one of | url: https", '4:5 unknown key "postgres" |']),
    "source misspelt": (one("msql: {host: h}"), ['4:5 unknown key "msql" | Did you mean "mysql"?']),
    "password in the file": (one(MYSQL + ", password: hunter2}"), ["4:35 unknown key | `credential: NAME`"]),
    "no source": (one("title: t"), ['3:3 dataset "d" needs exactly one | url: https']),
    "two sources": (one("url: https://a.b/c\n" + S3 + "}"), ["3:3 it has s3 and url | dataset of each"]),
    "unpack beside mysql": (one(MYSQL + "}\nunpack: zip"), ['3:3 "unpack", which belongs to a url source | URL']),
    "sha256 beside mysql": (one(MYSQL + f"}}\nsha256: {SHA}"), ['3:3 "sha256", which belongs to a url source | lock']),
    "credential beside mysql": (one(MYSQL + "}\ncredential: c"), ['3:3 "credential", which | inside `mysql:`']),
    "anonymous with a credential": (one(S3 + ", anonymous: true, credential: c}"), ["3:3 both | Keep one"]),
    "missing keys": (
        one("mysql: {port: 1}"),
        ['4:5 needs the key "host" | `host', '4:5 needs the key "database" | Add'],
    ),
    "port as text": (one(MYSQL + ", port: '3306'}"), ['4:41 "port" must be a whole number, not text | without quotes']),
    "port in octal": (one(MYSQL + ", port: 0777}"), ['4:41 "port" is a number | whole number']),
    "port out of range": (one(MYSQL + ", port: 70000}"), ['4:41 "port" must be a port number |']),
    "yes for true": (one("url: https://a.b/c\nlive: yes"), ["5:11 yes means a truth value | true or false"]),
    "text for true": (one('url: https://a.b/c\nlive: "true"'), ["5:11 true or false, not text | without quotes"]),
    "number for text": (one("url: https://a.b/c\ntitle: 2024"), ["5:12 must be text, not a number | quotes"]),
    "float for a hash": (
        one("quilt: {package: a/b, registry: 's3://bucket', top_hash: 12345e67}"),
        ['4:62 "top_hash" is a number | quotes'],
    ),
    "null": (one("url: https://a.b/c\ncredential:"), ['5:5 "credential" has no value | delete the line']),
    "table without a value": (one(MYSQL + ", tables: {t: }}"), ['4:44 table "t" has no value | {}']),
    "list for a mapping": (one("s3: ['s3://bucket/']"), ['4:9 "s3" must be a mapping of keys, not a list | below it']),
    "text for a list": ("version: 1\nsave: {exclude: a}\n", ['2:17 "exclude" must be a list, not text | [one, two]']),
    "wrong entry of a list": ("version: 1\nsave: {exclude: [a, 2, c, false]}\n", ["2:21 entry 2 |", "2:27 entry 4 |"]),
    "empty list": (one(S3 + ", include: []}"), ['4:42 "include" is an empty list |']),
    "unknown word": (one("url: https://a.b/c\nwhen: later"), ['5:11 "start" or "background" |']),
    "name with a capital": (
        "version: 1\ndatasets:\n  My_Data: {url: 'https://a.b/c'}\n",
        ['3:3 "My_Data" is not a name |'],
    ),
    "name that escapes": ("version: 1\ndatasets:\n  ../etc: {url: 'https://a.b/c'}\n", ["3:3 is not a name |"]),
    "name that is too long": (f"version: 1\ndatasets:\n  {'a' * 40}: {{url: 'https://a.b/c'}}\n", ["3:3 at most 39 |"]),
    "name of a search path": (
        "version: 1\ndatasets:\n  ld-library: {url: 'https://a.b/c'}\n  jupyter: {url: 'https://a.b/c'}\n",
        ["3:3 LD_LIBRARY_PATH | another name", "4:3 JUPYTER_PATH | another name"],
    ),
    "table that escapes": (one(MYSQL + ", tables: {../x: {}}}"), ['4:44 "../x" must be the name of a table |']),
    "path that escapes": (
        one("pachyderm: {repo: r, path: /a/../../etc}"),
        ['4:32 "path": a path here must not have a ".." part | top'],
    ),
    "key that escapes": (one("s3: {url: 's3://bucket/../other/'}"), ['4:15 ".." |']),
    "s3 as https": (one("s3: {url: 'https://bucket.s3.amazonaws.com/x'}"), ["4:15 s3://BUCKET/PREFIX/ |"]),
    "registry as https": (one("quilt: {package: a/b, registry: 'https://x.y'}"), ["4:37 s3://BUCKET |"]),
    "url without a scheme": (one("url: example.edu/x.csv"), ["4:10 URL with a scheme |"]),
    "url of a drive": (one(r"url: C:\x.csv"), ["4:10 URL with a scheme |"]),
    "url with a bad port": (one("url: https://a.b:port/x"), ["4:10 no usable host |"]),
    "password in a url": (one("url: https://me:hunter2@a.b/x"), ["4:10 user name or password | `credential: NAME`"]),
    "password in a chained url": (one("url: zip://x.csv::https://me:hunter2@a.b/x"), ["4:10 user name or password |"]),
    "token in a url": (one("url: https://hunter2@a.b/x"), ["4:10 user name or password | `credential: NAME`"]),
    "mysql url": (one("url: mysql://me:hunter2@h/db"), ["4:10 user name or password | `credential: NAME`"]),
    "presigned url": (one("url: https://a.b/x?X-Amz-Signature=hunter2"), ["4:10 presigned | `credential: NAME`"]),
    "password in an endpoint": (one(S3 + ", endpoint_url: 'http://me:hunter2@h'}"), ["4:47 user name or password |"]),
    "host with a port": (one("mysql: {host: 'db:3306x', database: d}"), ["4:19 host name | `port`"]),
    "a secret for a credential": (one(MYSQL + ", credential: 'Hunter2!'}"), ["4:47 name of a credential | operator"]),
    "short sha256": (one("url: https://a.b/c\nsha256: 5d41ab"), ["5:13 SHA-256 |"]),
    "a size in apples": ("version: 1\nsave: {max_size: 5 apples}\n", ['2:18 must be a size | "500 MB"']),
    "no size at all": ("version: 1\nsave: {max_size: 0}\n", ['2:18 over 0 | "500 MB"']),
    "several at once": (
        one("mysql:\n  hots: h\n  port: '1'\nwhen: later\nurl: https://a.b/c"),
        ["3:3 it has mysql and url |", "4:5 needs", "5:7 Did", "6:13 whole number |", "7:11 background |"],
    ),
}


def faults_of(text: str | bytes) -> list[Fault]:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text if isinstance(text, bytes) else text.encode())
    return list(caught.value.faults)


@pytest.mark.parametrize("name", BROKEN)
def test_each_fault_is_named_with_its_place_and_a_hint(name: str) -> None:
    """A broken manifest is refused with one sentence per fault, at its line and column, all in one run."""
    text, expected = BROKEN[name]
    faults = faults_of(text)
    assert [f"{f.line}:{f.column}" for f in faults] == [e.partition(" ")[0] for e in expected], faults
    for fault, wanted in zip(faults, expected, strict=True):
        message, _, hint = wanted.partition(" ")[2].partition("|")
        assert message.strip() in str(fault)
        assert hint.strip() in fault.hint
        said = str(fault)
        assert "\n" not in said
        assert not re.search(r"pydantic|ValidationError|extra_forbidden|string_type|Input should", said), said
        assert "unter2" not in said, "a secret is repeated"


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_validate_ends_with_2(name: str, tmp_path: Path) -> None:
    """`datamount validate` exits with 2 and prints each fault's place, for every broken manifest."""
    check_cli(name, tmp_path)


@pytest.mark.parametrize("name", ["several at once", "not UTF-8", "billion laughs"])
def test_validate_ends_with_2_on_a_few(name: str, tmp_path: Path) -> None:
    """`datamount validate` exits with 2 and prints each fault's place (all of the table in the slow suite)."""
    check_cli(name, tmp_path)


def check_cli(name: str, folder: Path) -> None:
    text, expected = BROKEN[name]
    (folder / "datamount.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    done = run_cli("validate", str(folder))
    assert done.returncode == 2, done
    lines = done.stderr.splitlines()
    assert len(lines) == len(expected)
    for line, wanted in zip(lines, expected, strict=True):
        at = wanted.partition(" ")[0].split(":")
        assert at[0] == "0" or f"line {at[0]}, column {at[1]}: " in line
    as_json = run_cli("validate", str(folder), "--json")
    assert as_json.returncode == 2
    document = json.loads(as_json.stdout)
    assert [f"{e['line']}:{e['column']}" for e in document["errors"]] == [e.partition(" ")[0] for e in expected]


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "datamount", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    )


def test_the_whole_syntax_is_accepted() -> None:
    """Every key of the manifest's definition loads with the value that was written."""
    manifest = parse_manifest(FULL.encode())
    assert {name: d.kind for name, d in manifest.datasets.items()} == {
        "mimic2": "mysql",
        "labels": "quilt",
        "images": "pachyderm",
        "codes": "s3",
        "glossary": "url",
    }
    assert manifest.datasets["mimic2"].mysql is not None
    assert manifest.datasets["mimic2"].mysql.port == 3306
    assert manifest.datasets["mimic2"].source.credential == "mimic2-reader"
    assert manifest.datasets["glossary"].source.model_dump() == {
        "url": "https://example.edu/glossary.csv",
        "sha256": SHA,
        "credential": None,
        "unpack": "zip",
    }
    assert manifest.datasets["images"].when == "background"
    assert manifest.datasets["codes"].live
    assert manifest.datasets["labels"].optional
    assert manifest.save.max_bytes == 500_000_000


@pytest.mark.parametrize(
    "body",
    [
        "url: sftp://student@files.example.edu/x.csv",
        "url: simplecache::https://example.edu/x.csv",
        "url: https://example.edu/2024?format=csv&as=a@b",
        "description: |\n  Two lines,\n  no less.\nurl: https://a.b/c",
        "license: 2024-01-01\nurl: https://a.b/c",
        "mysql: {host: '::1', database: d, tables: {notes: {}}}",
        "mysql: {host: h, database: d, tables: {t: {columns: [x, y, n]}}}",
        "pachyderm: {repo: r, address: 'grpcs://pachd.example.edu:30650'}",
        "quilt: {package: a/b, registry: 'file:///srv/quilt'}",
        "s3: {url: s3://bucket, access: remote}",
        "s3: {url: 's3://bucket/a..b/c d.csv'}",
    ],
)
def test_accepted(body: str) -> None:
    """What is legal and looks unusual is not refused, by the loader or by the schema."""
    text = one(body)
    parse_manifest(text.encode())
    assert not list(validator().iter_errors(plain(text)))


@pytest.mark.parametrize(
    ("body", "local"),
    [
        ("url: https://a.b/c", False),
        ("url: zip://x.csv::simplecache::https://a.b/c.zip", False),
        ("url: 'http://[2001:db8::1]:8000/c.csv'", False),
        ("url: 'https://[::1]/c.csv'", False),
        ("url: 'simplecache::https://[::1]/c.csv'", True),
        ("url: file:///etc/passwd", True),
        ("url: local:///etc/passwd", True),
        ("url: zip://x::file:///etc/passwd", True),
        ("url: simplecache::/etc/passwd", True),
        ("url: git:///etc/repo", True),
        ("url: reference://x::https://a.b/c", True),
        ("quilt: {package: a/b, registry: 'file:///srv'}", True),
        ("quilt: {package: a/b, registry: 's3://bucket'}", False),
        (S3 + "}", False),
    ],
)
def test_sources_on_the_fetching_machine_are_known(body: str, local: bool) -> None:
    """A source that could read the fetching machine's own files is told from one that cannot, also behind wrappers."""
    assert parse_manifest(one(body).encode()).datasets["d"].reads_local_files is local


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    """A manifest saved by Notepad loads, and its faults still have the right place."""
    assert parse_manifest(b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode()) == parse_manifest(FULL.encode())
    (fault,) = faults_of(b"\xef\xbb\xbfversion: 1\r\nsav: {}\r\n")
    assert (fault.line, fault.column) == (2, 1)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and a pipe are faults of the manifest, and none makes the reader wait."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ManifestError):
            load_manifest(path)


def test_many_faults_are_cut_off() -> None:
    """A file full of faults ends in a bounded list that says how many more there are."""
    faults = faults_of("version: 1\n" + "".join(f"k{i}: 1\n" for i in range(5000)))
    assert len(faults) == MAX_FAULTS + 1
    assert "more fault" in faults[-1].message


@pytest.mark.parametrize(
    ("size", "expected"),
    [("500 MB", 500 * 10**6), ("2 GiB", 2 << 30), ("1.5kB", 1500), ("10B", 10), (12, 12), ("3 tib", 3 << 40)],
)
def test_sizes(size: str | int, expected: int) -> None:
    """A size is bytes, with decimal and binary units as they are written."""
    assert parse_size(size) == expected


@pytest.mark.parametrize(
    "size", ["", "MB", "5", "-5 MB", "0 MB", 0, -1, True, 1.5, None, "5 iB", "1e9 B", "5 XB", "5 MB\n"]
)
def test_no_sizes(size: Any) -> None:
    """What is not a size is refused."""
    with pytest.raises(Mistake):
        parse_size(size)


# --- The JSON Schema ---


def validator() -> Any:
    return jsonschema.Draft202012Validator(json_schema())


def plain(text: str) -> Any:
    """The document as an editor's YAML 1.2 parser sees it."""
    return yaml.load(text, Loader=yaml.BaseLoader if "2024-01-01" in text else yaml.SafeLoader) | {"version": 1}


def test_the_schema_is_one() -> None:
    """`datamount schema` prints a JSON Schema 2020-12 with an identifier, and a description for every key."""
    schema = json.loads(run_cli("schema").stdout)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"].startswith("https://")
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, model in {"Manifest": schema, **schema["$defs"]}.items():
        for key, field in model["properties"].items():
            target = field if "description" in field else schema["$defs"][field["$ref"].rpartition("/")[2]]
            assert target.get("description"), f"{name}.{key}"
            assert target.get("title"), f"{name}.{key}"


def test_the_schema_accepts_the_whole_syntax() -> None:
    """The schema accepts what the loader accepts."""
    assert not list(validator().iter_errors(yaml.safe_load(FULL)))


# Only the loader sees these: they are about the text, or JSON Schema has no words for them.
ONLY_THE_LOADER = {
    "version as a float",
    "not UTF-8",
    "UTF-16",
    "control character",
    "tab",
    "two tabs, both named",
    "over 1 MiB",
    "two documents",
    "alias to itself",
    "core tag",
    "python tag",
    "duplicate key",
    "duplicate dataset",
    "open list",
    "open quote",
    "colon in text",
    "port in octal",
    "yes for true",
    "float for a hash",
    "path that escapes",
    "key that escapes",
    "url with a bad port",
    "password in a url",
    "password in a chained url",
    "token in a url",
    "mysql url",
    "presigned url",
    "password in an endpoint",
    "number as a key",
    "null as a key",
    "list as a key",
    "no as a dataset",
}


@pytest.mark.parametrize("name", [n for n in BROKEN if n not in ONLY_THE_LOADER])
def test_the_schema_refuses_what_the_loader_refuses(name: str) -> None:
    """An editor underlines every fault of the table that a schema can see."""
    text = BROKEN[name][0]
    assert list(validator().iter_errors(yaml.safe_load(text)))


@pytest.mark.parametrize("kinds", [(), ("mysql", "url"), ("s3", "quilt"), SOURCES])
def test_the_schema_wants_exactly_one_source(kinds: tuple[str, ...]) -> None:
    """A dataset with no source or with two is refused by the schema too."""
    datasets = yaml.safe_load(FULL)["datasets"]
    parts = {kind: d[kind] for d in datasets.values() for kind in SOURCES if kind in d}
    document = {"version": 1, "datasets": {"d": {kind: parts[kind] for kind in kinds}}}
    assert list(validator().iter_errors(document))


# --- Anything at all ---


def survives(data: bytes) -> Manifest | None:
    try:
        return parse_manifest(data)
    except ManifestError as error:
        assert error.faults
        assert all(fault.message and "\n" not in str(fault) for fault in error.faults)
        assert len(error.faults) <= MAX_FAULTS + 1
        lines = data.count(b"\n") + data.count(b"\r") + 2
        assert all(fault.line <= lines for fault in error.faults)
        return None


quick = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@quick
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """No bytes make the reader raise anything but ManifestError."""
    survives(data)


@quick
@given(st.text(alphabet="version: 1\n{}[]&*!|>'\"%@`#-?,\t~<0dasets", max_size=200))
def test_any_yaml_like_text(text: str) -> None:
    """No sequence of YAML's own characters makes the reader raise anything but ManifestError."""
    survives(text.encode())


@quick
@given(st.data())
def test_mutated_manifests(data: st.DataObject) -> None:
    """A valid manifest with a few characters changed loads, or names its faults."""
    text = FULL
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = (
            text[:at]
            + data.draw(st.sampled_from(["", " ", "\n", "x", ":", "- ", "&a ", "*a", "!t ", "[", "}", "'", "~", "0"]))
            + text[at + cut :]
        )
    survives(text.encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@quick
@given(st.data())
def test_mutated_documents_agree_with_the_schema(data: st.DataObject) -> None:
    """Whatever value stands at whatever key, the reader loads it or names it; what it loads, the schema accepts."""
    document = copy.deepcopy(yaml.safe_load(FULL))
    node: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 3)) == 0:
            break
        node = inner
    node[key] = data.draw(json_values)
    # JSON is YAML, with every text in quotes.
    text = json.dumps(document)
    if survives(text.encode()) is not None:
        assert not list(validator().iter_errors(json.loads(text)))


def test_a_fault_names_its_key_for_programs() -> None:
    """A fault carries the dotted path of its key, as `validate --json` prints it."""
    (fault,) = faults_of(one(MYSQL + ", credentials: x}"))
    assert fault.key == "datasets.d.mysql.credentials"
