"""The synthetic data of the example course."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.demo_site import EXAMPLE, example_module

generate = example_module("generate")
DIGEST = "5f05b692ddd4469b5e00b0351de8bbdef3082f54b3dd7eac365560b208cc713b"


@pytest.fixture(scope="module")
def course() -> Any:
    return generate.generate(seed=7, patients=240, images=48)


def rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def digest(made: Any) -> str:
    total = hashlib.sha256()
    for name, data in made.files():
        total.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return total.hexdigest()


def test_same_seed_same_bytes(course: Any) -> None:
    """Seed 7 gives these very bytes, on every machine and in every version of Python."""
    assert digest(course) == DIGEST


def test_another_seed_another_course(course: Any) -> None:
    """Another seed gives other reports."""
    assert digest(generate.generate(seed=8, patients=240, images=48)) != digest(course)


def test_more_patients_keep_the_earlier_ones(course: Any) -> None:
    """A larger course begins with the rows and pictures of the smaller one."""
    small = generate.generate(seed=7, patients=60, images=48)
    for name, made in small.tables.items():
        assert made == course.tables[name][: len(made)]
    assert dict(list(course.images.items())[: len(small.images)]) == small.images


def test_tables_have_the_columns_and_keys_of_mimic(course: Any) -> None:
    """Notes have MIMIC's columns, unique numbers, and a patient and a stay that exist."""
    files = dict(course.files())
    notes = rows(files["mysql/noteevents.csv"])
    assert list(notes[0]) == ["row_id", "subject_id", "hadm_id", "charttime", "category", "description", "text"]
    assert len({note["row_id"] for note in notes}) == len(notes)
    assert {note["category"] for note in notes} == {"RADIOLOGY_REPORT", "Nursing/Other", "DISCHARGE_SUMMARY"}
    stays = {(stay["subject_id"], stay["hadm_id"]) for stay in rows(files["mysql/admissions.csv"])}
    assert {(note["subject_id"], note["hadm_id"]) for note in notes} <= stays
    assert {subject for subject, _ in stays} == {p["subject_id"] for p in rows(files["mysql/d_patients.csv"])}


def test_reports_have_sections_that_agree_with_the_labels(course: Any) -> None:
    """Every radiology report has FINDINGS and IMPRESSION, and no impression names what the label denies."""
    files = dict(course.files())
    labels = {label["row_id"]: label for label in rows(files["labels/labels.csv"])}
    for note in rows(files["mysql/noteevents.csv"]):
        if note["category"] != "RADIOLOGY_REPORT":
            continue
        found = re.search(r"^ FINDINGS:  \S.*^ IMPRESSION:\n \S", note["text"], re.DOTALL | re.MULTILINE)
        assert found, note["text"]
        label = labels.get(note["row_id"])
        impression = note["text"].rpartition("IMPRESSION:")[2].lower()
        for word in ("effusion", "pneumothorax", "atelectasis", "cardiomegaly", "consolidation"):
            assert label is None or label[word] == "1" or word not in impression, note["text"]


def test_images_are_grey_png(course: Any) -> None:
    """Each picture is a whole 8-bit PNG whose checksums and size are right, named by a label's row."""
    named = {label[2] for label in course.labels if label[2]}
    assert course.images.keys() == named
    for data in course.images.values():
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        chunks, rest = {}, data[8:]
        while rest:
            (length,) = struct.unpack(">I", rest[:4])
            body = rest[4 : 8 + length]
            assert struct.unpack(">I", rest[8 + length : 12 + length]) == (zlib.crc32(body),)
            chunks[body[:4]] = body[4:]
            rest = rest[12 + length :]
        assert struct.unpack(">IIBB", chunks[b"IHDR"][:10]) == (generate.WIDTH, generate.HEIGHT, 8, 0)
        assert len(zlib.decompress(chunks[b"IDAT"])) == (generate.WIDTH + 1) * generate.HEIGHT


def test_the_manifest_pins_the_glossary(course: Any) -> None:
    """The sha256 in the example's manifest is that of the glossary, for every seed."""
    manifest = yaml.safe_load((EXAMPLE / "binder" / "datamount.yaml").read_text())
    other = dict(generate.generate(seed=1, patients=1).files())["glossary.csv"]
    assert dict(course.files())["glossary.csv"] == other
    assert manifest["datasets"]["glossary"]["sha256"] == hashlib.sha256(other).hexdigest()


def test_write_puts_every_file(course: Any, tmp_path: Path) -> None:
    """`write` puts each file below the folder and returns the bytes written."""
    size = generate.write(course, tmp_path)
    there = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert there == dict(course.files())
    assert size == sum(map(len, there.values()))
