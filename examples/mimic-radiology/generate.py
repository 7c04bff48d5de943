"""Synthetic radiology reports in the shape of MIMIC-II, with images, labels, codes and a glossary.

    python generate.py OUT --seed 7 --patients 240

No real patient stands behind any of it: every sentence comes from the small grammar below and every number from a
seeded generator. The columns, the layout of a report and the `[**…**]` marks of de-identification are those of
MIMIC-II, so that a notebook written here runs on the real tables of someone who holds the credential for them.

The same seed gives the same bytes on every machine, and more patients never change the earlier ones. Needs nothing
but the standard library. What is written below OUT:

    mysql/{d_patients,admissions,icd9,noteevents}.csv   tables, for a MySQL or MariaDB server
    images/NNNNN-M.png                                  one small "radiograph" a chest report (8-bit grey)
    labels/{labels,readers}.csv                         what two readers saw in each report
    codes/icd9-chest.csv, codes/cpt-radiology.csv       code lists
    glossary.csv                                        words of the reports, explained
"""

from __future__ import annotations

import argparse
import csv
import io
import random
import struct
import textwrap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

Row = tuple[object, ...]

TABLES: Mapping[str, tuple[str, ...]] = {
    "d_patients": ("subject_id", "sex", "dob", "hospital_expire_flg"),
    "admissions": ("hadm_id", "subject_id", "admit_dt", "disch_dt"),
    "icd9": ("subject_id", "hadm_id", "sequence", "code", "description"),
    "noteevents": ("row_id", "subject_id", "hadm_id", "charttime", "category", "description", "text"),
}
"""The tables and their columns. Identifiers are integers, `*_dt`, `dob` and `charttime` are dates and times."""

WIDTH, HEIGHT = 160, 128
"""Of an image, in pixels."""


@dataclass(frozen=True)
class Finding:
    """One thing a report may say of the chest: its label, code, prevalence, and the phrases that carry it."""

    label: str
    code: str
    name: str
    prevalence: float
    findings: tuple[str, ...]
    impressions: tuple[str, ...]
    negatives: tuple[str, ...]


FINDINGS = (
    Finding(
        "effusion",
        "511.9",
        "Unspecified pleural effusion",
        0.30,
        (
            "There is a {size} {side} pleural effusion with blunting of the costophrenic angle.",
            "A {size} {side} pleural effusion has {change} since the prior study.",
        ),
        ("{Size} {side} pleural effusion.", "{Side} pleural effusion, {change}."),
        ("There is no pleural effusion.", "The costophrenic angles are sharp."),
    ),
    Finding(
        "consolidation",
        "486",
        "Pneumonia, organism unspecified",
        0.24,
        (
            "There is a {size} area of consolidation in the {side} {lobe} lobe, with air bronchograms.",
            "Patchy opacity in the {side} {lobe} lobe is concerning for pneumonia.",
        ),
        ("{Side} {lobe} lobe consolidation, consistent with pneumonia.", "{Side} {lobe} lobe pneumonia."),
        ("The lungs are clear.", "No focal consolidation is seen."),
    ),
    Finding(
        "edema",
        "428.0",
        "Congestive heart failure, unspecified",
        0.22,
        (
            "Perihilar haziness and indistinct vessels are consistent with {grade} pulmonary edema.",
            "Interstitial markings are increased, with Kerley B lines.",
        ),
        ("{Grade} pulmonary edema.", "Findings consistent with {grade} congestive heart failure."),
        ("The pulmonary vasculature is normal.", "There is no evidence of edema."),
    ),
    Finding(
        "cardiomegaly",
        "429.3",
        "Cardiomegaly",
        0.20,
        ("The cardiac silhouette is {grade}ly enlarged.", "Cardiomegaly is present, {change} since the prior study."),
        ("{Grade} cardiomegaly.", "Enlarged cardiac silhouette."),
        ("The cardiac and mediastinal contours are normal.", "Heart size is within normal limits."),
    ),
    Finding(
        "pneumothorax",
        "512.8",
        "Other pneumothorax",
        0.07,
        (
            "A {size} {side} apical pneumothorax is present.",
            "There is a {size} {side} pneumothorax without mediastinal shift.",
        ),
        ("{Size} {side} pneumothorax.", "{Side} pneumothorax; the team was called at the time of reading."),
        ("No pneumothorax is identified.", "There is no pneumothorax."),
    ),
    Finding(
        "atelectasis",
        "518.0",
        "Pulmonary collapse",
        0.26,
        (
            "Linear opacities at the {side} base represent atelectasis.",
            "There is volume loss at the {side} base, in keeping with atelectasis.",
        ),
        ("{Side} basilar atelectasis.", "Subsegmental atelectasis at the {side} base."),
        ("Lung volumes are normal.", "There is no volume loss."),
    ),
)

MIDLINE = ("edema", "cardiomegaly")
"""Findings that have no side."""

WORDS: Mapping[str, tuple[str, ...]] = {
    "size": ("small", "small", "moderate", "large"),
    "side": ("left", "right"),
    "lobe": ("upper", "lower", "lower"),
    "grade": ("mild", "mild", "moderate", "severe"),
    "change": ("increased", "decreased", "not changed"),
}
REASONS = (
    ("Shortness of breath", "coronary artery disease and a new oxygen requirement"),
    ("Fever and cough", "fever to 101 and productive cough"),
    ("Line placement", "sepsis, status post placement of a right internal jugular line"),
    ("Chest pain", "chest pain radiating to the back"),
    ("Check endotracheal tube", "respiratory failure, intubated"),
    ("Follow up effusion", "known pleural effusion, status post thoracentesis"),
)
EXAMS = ("CHEST (PORTABLE AP)", "CHEST (PORTABLE AP)", "CHEST (PA & LAT)")
OTHER_EXAMS = (
    ("CT HEAD W/O CONTRAST", "No intracranial hemorrhage, mass effect or shift of midline structures."),
    ("ABDOMEN U.S.", "The gallbladder is normal; there is no biliary dilatation."),
    ("RENAL U.S.", "Both kidneys are of normal size, without hydronephrosis."),
)
LINES = (
    "The endotracheal tube ends 4 cm above the carina.",
    "A nasogastric tube courses below the diaphragm, its tip out of view.",
    "A right internal jugular line ends in the lower superior vena cava.",
    "Median sternotomy wires are intact.",
)
NURSING = (
    "Resp: lungs coarse, suctioned for thick white secretions. O2 sat {n}% on 50% face mask.",
    "CV: heart rate {n} sinus rhythm, no ectopy noted. Pulses palpable.",
    "Neuro: awake and follows commands. Pain {m} of 10, relieved by medication.",
    "GI: abdomen soft, bowel sounds present. Tolerating clear fluids.",
)
OTHER_CODES = (
    ("401.9", "Unspecified essential hypertension"),
    ("250.00", "Diabetes mellitus without complication, type II"),
    ("427.31", "Atrial fibrillation"),
    ("584.9", "Acute kidney failure, unspecified"),
    ("038.9", "Unspecified septicemia"),
    ("496", "Chronic airway obstruction, not elsewhere classified"),
    ("V45.81", "Aortocoronary bypass status"),
)
CPT = (
    ("71010", "Radiologic examination, chest; single view, frontal"),
    ("71020", "Radiologic examination, chest, 2 views, frontal and lateral"),
    ("70450", "Computed tomography, head or brain; without contrast material"),
    ("76700", "Ultrasound, abdominal, real time with image documentation; complete"),
    ("76770", "Ultrasound, retroperitoneal (eg, renal), real time; complete"),
)
GLOSSARY = (
    ("air bronchogram", "Air-filled airways seen against an opaque lung.", "consolidation"),
    ("atelectasis", "Loss of volume of a part of the lung.", "atelectasis"),
    ("cardiomegaly", "A heart that is larger than normal.", "cardiomegaly"),
    ("carina", "The place where the windpipe divides.", ""),
    ("consolidation", "Lung whose air has been replaced by fluid or cells.", "consolidation"),
    ("costophrenic angle", "The corner between the ribs and the diaphragm.", "effusion"),
    ("effusion", "Fluid in the space between the lung and the chest wall.", "effusion"),
    ("Kerley B lines", "Short horizontal lines at the edge of a lung that holds too much fluid.", "edema"),
    ("mediastinum", "What lies between the two lungs.", ""),
    ("opacity", "An area that looks whiter than it should.", ""),
    ("pneumothorax", "Air in the space between the lung and the chest wall.", "pneumothorax"),
    ("pulmonary edema", "Fluid in the tissue and the air spaces of the lung.", "edema"),
)


@dataclass(frozen=True)
class Course:
    """All rows and images of one seed, in memory."""

    tables: Mapping[str, list[Row]]
    labels: list[Row]
    readers: list[Row]
    images: dict[str, bytes]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Path and content of every file, in a fixed order."""
        for name, columns in TABLES.items():
            yield f"mysql/{name}.csv", table(columns, self.tables[name])
        for name, data in self.images.items():
            yield f"images/{name}", data
        marks = tuple(finding.label for finding in FINDINGS)
        yield "labels/labels.csv", table(("row_id", "subject_id", "image", *marks), self.labels)
        yield "labels/readers.csv", table(("row_id", "reader", *marks), self.readers)
        codes = sorted({(f.code, f.name, "chest") for f in FINDINGS} | {(c, n, "other") for c, n in OTHER_CODES})
        yield "codes/icd9-chest.csv", table(("code", "name", "chapter"), codes)
        yield "codes/cpt-radiology.csv", table(("code", "name"), CPT)
        yield "glossary.csv", table(("term", "meaning", "label"), GLOSSARY)


def table(columns: Sequence[str], rows: Sequence[Row]) -> bytes:
    """CSV as R and pandas read it: a header, UTF-8, line feeds."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue().encode()


def generate(seed: int = 7, patients: int = 240, images: int = 48) -> Course:
    """The course of a seed. Each patient has a generator of their own: more patients leave the others as they are."""
    course = Course({name: [] for name in TABLES}, [], [], {})
    for number in range(1, patients + 1):
        # A string as seed is hashed by SHA-512: the same on every machine and in every Python since 3.2.
        _Patient(random.Random(f"{seed}:{number}"), number).write(course, images)
    return course


class _Patient:
    """One patient's stays, studies and notes."""

    def __init__(self, rng: random.Random, number: int) -> None:
        self.rng = rng
        self.number = number
        self.subject = 20_000 + number
        self.sex = rng.choice("FM")
        # MIMIC-II moves each patient's dates by a random number of years into the future; so do these.
        self.admitted = datetime(2500 + rng.randrange(700), 1, 1) + timedelta(minutes=rng.randrange(525_600))
        self.born = self.admitted - timedelta(days=365 * rng.randrange(25, 90) + rng.randrange(365))

    def write(self, course: Course, images: int) -> None:
        died = "Y" if self.rng.random() < 0.1 else "N"
        course.tables["d_patients"].append((self.subject, self.sex, f"{self.born:%Y-%m-%d}", died))
        for stay in range(1 if self.rng.random() < 0.8 else 2):
            self._stay(course, stay, images)

    def _stay(self, course: Course, stay: int, images: int) -> None:
        rng, admitted = self.rng, self.admitted
        hadm, row = 300_000 + 10 * self.number + stay, self.number * 100 + stay * 50
        discharged = admitted + timedelta(days=rng.randrange(2, 21))
        course.tables["admissions"].append((hadm, self.subject, f"{admitted:%Y-%m-%d}", f"{discharged:%Y-%m-%d}"))
        present = [finding for finding in FINDINGS if rng.random() < finding.prevalence]
        codes = [(f.code, f.name) for f in present] + rng.sample(OTHER_CODES, rng.randrange(1, 4))
        course.tables["icd9"].extend((self.subject, hadm, order, *code) for order, code in enumerate(codes, 1))

        def note(offset: int, at: datetime, category: str, description: str, text: str) -> None:
            when = f"{at:%Y-%m-%d %H:%M}:00"
            course.tables["noteevents"].append((row + offset, self.subject, hadm, when, category, description, text))

        for study in range(rng.randrange(1, 5)):
            at = admitted + timedelta(minutes=rng.randrange(60, 2_880) + 1_440 * study)
            # A finding comes and goes between the studies of one stay.
            seen = [finding for finding in present if rng.random() < 0.85]
            exam, text, sides = self._chest(at, seen)
            note(study, at, "RADIOLOGY_REPORT", exam, text)
            image = f"{self.subject}-{(row + study) % 100:02d}.png" if len(course.images) < images else ""
            if image:
                course.images[image] = _radiograph(rng, sides)
            marks = tuple(int(finding in seen) for finding in FINDINGS)
            course.labels.append((row + study, self.subject, image, *marks))
            course.readers.extend(
                (row + study, reader, *(mark ^ (rng.random() < 0.06) for mark in marks)) for reader in "AB"
            )
        if rng.random() < 0.25:
            at = admitted + timedelta(hours=rng.randrange(72))
            exam, sentence = rng.choice(OTHER_EXAMS)
            text = self._layout(at, exam, ("Evaluate", "the above"), (["Comparison: none."], [sentence]))
            note(20, at, "RADIOLOGY_REPORT", exam, text)
        for shift in range(rng.randrange(1, 3)):
            lines = (rng.choice(NURSING).format(n=rng.randrange(84, 100), m=rng.randrange(1, 8)) for _ in range(3))
            at = admitted + timedelta(hours=12 * (shift + 1))
            note(30 + shift, at, "Nursing/Other", "Nursing note", "\n".join(lines) + "\n")
        ending = rng.choice(("discharged to home", "discharged to rehabilitation", "transferred to another hospital"))
        text = (
            f"Admission Date: [**{admitted:%Y-%m-%d}**]    Discharge Date: [**{discharged:%Y-%m-%d}**]\n\n"
            f"Service: MEDICINE\n\nHOSPITAL COURSE: Treated for {codes[0][1].lower()}; {ending}.\n"
        )
        note(40, discharged, "DISCHARGE_SUMMARY", "Report", text)
        self.admitted = discharged + timedelta(days=rng.randrange(20, 400))

    def _chest(self, at: datetime, seen: Sequence[Finding]) -> tuple[str, str, dict[str, str]]:
        """The exam's name and the text of one chest report, and on which side it says each finding is."""
        rng = self.rng
        exam = rng.choice(EXAMS)
        reason, condition = rng.choice(REASONS)
        said: list[str] = []
        concluded: list[str] = []
        sides: dict[str, str] = {}
        for finding in FINDINGS:
            # One set of words a finding, so that the impression never contradicts the findings.
            words = {key: rng.choice(choices) for key, choices in WORDS.items()}
            words |= {key.capitalize(): word.capitalize() for key, word in words.items()}
            if finding in seen:
                said.append(rng.choice(finding.findings).format(**words))
                concluded.append(rng.choice(finding.impressions).format(**words))
                sides[finding.label] = words["side"]
            elif rng.random() < 0.6:
                said.append(rng.choice(finding.negatives))
        rng.shuffle(said)
        if rng.random() < 0.5:
            said.insert(0, rng.choice(LINES))
        if rng.random() < 0.5:
            before = at - timedelta(days=rng.randrange(1, 30))
            said.insert(0, f"Comparison is made to the prior study of [**{before:%Y-%m-%d}**].")
        age = min(90, (at - self.born).days // 365)
        who = f"{age} year old {'woman' if self.sex == 'F' else 'man'} with {condition}"
        concluded = concluded or ["No acute cardiopulmonary process."]
        return exam, self._layout(at, exam, (reason, who), (said, concluded)), sides

    def _layout(self, at: datetime, exam: str, why: tuple[str, str], read: tuple[Sequence[str], Sequence[str]]) -> str:
        """A report as MIMIC-II prints it; `why` is reason and condition, `read` is findings and impression."""
        reason, condition = why
        clip = self.rng.randrange(10_000, 99_999)
        findings = textwrap.fill(" ".join(read[0]), 78, initial_indent=" FINDINGS:  ", subsequent_indent=" ")
        lines = [f" {n}.  {line}" for n, line in enumerate(read[1], 1)] if len(read[1]) > 1 else [f" {read[1][0]}"]
        impression = "\n".join(lines)
        rule = "_" * 78
        return (
            f"[**{at:%Y-%m-%d}**] {at:%I:%M %p}\n"
            f" {exam:<55} Clip # [**Clip Number (Radiology) {clip}**]\n"
            f" Reason: {reason.upper()}\n"
            f" {rule}\n"
            f" UNDERLYING MEDICAL CONDITION:\n"
            f"  {condition}\n"
            f" REASON FOR THIS EXAMINATION:\n"
            f"  {reason.lower()}\n"
            f" {rule}\n"
            f"{'FINAL REPORT':>45}\n"
            f" INDICATION:  {reason}.\n\n"
            f"{findings}\n\n"
            f" IMPRESSION:\n{impression}\n"
        )


def _anatomy() -> list[int]:
    """Brightness of an empty chest: soft tissue, two dark lungs, the heart, the spine, the ribs."""
    picture = []
    for y in range(HEIGHT):
        for x in range(WIDTH):
            u, v = (x - WIDTH / 2) / (WIDTH / 2), (y - HEIGHT / 2) / (HEIGHT / 2)
            value = 175 if u * u / 0.95 + v * v / 1.3 < 1 else 20
            if any(((u - side * 0.42) / 0.30) ** 2 + ((v - 0.02) / 0.78) ** 2 < 1 for side in (-1, 1)):
                value = 62 + (18 if (y + abs(x - WIDTH // 2) // 4) % 15 < 4 else 0)
            if abs(u) < 0.07:
                value = 205
            if ((u - 0.14) / 0.27) ** 2 + ((v - 0.32) / 0.34) ** 2 < 1:
                value = max(value, 190)
            picture.append(value)
    return picture


_CHEST: list[int] = []


def _radiograph(rng: random.Random, sides: Mapping[str, str]) -> bytes:
    """A picture that shows, crudely, what the report says; the patient's left is on the right, as radiologists look."""
    if not _CHEST:
        _CHEST.extend(_anatomy())
    exposure = rng.randrange(-12, 13)
    noise = rng.randbytes(WIDTH * HEIGHT)
    pixels = [value + exposure + (grain & 15) for value, grain in zip(_CHEST, noise, strict=True)]
    blobs = {
        "effusion": (0.42, 0.72, 0.30, 0.22, 95),
        "consolidation": (0.45, rng.choice((-0.3, 0.3)), 0.16, 0.2, 70),
        "edema": (0.0, -0.05, 0.48, 0.40, 38),
        "cardiomegaly": (0.12, 0.34, 0.42, 0.40, 60),
        "pneumothorax": (0.45, -0.6, 0.22, 0.18, -45),
        "atelectasis": (0.40, 0.55, 0.24, 0.05, 80),
    }
    for label, (u, *ellipse, change) in blobs.items():
        if label in sides:
            mirrored = label not in MIDLINE and sides[label] == "right"
            _blob(pixels, (-u if mirrored else u, *ellipse), int(change))
    return png(bytes(min(255, max(0, value)) for value in pixels), WIDTH, HEIGHT)


def _blob(pixels: list[int], ellipse: tuple[float, ...], change: int) -> None:
    """Brighten an ellipse, centre (u, v) and half axes (a, b) in units of half the picture, fading to its edge."""
    u, v, a, b = ellipse
    half_x, half_y = WIDTH / 2, HEIGHT / 2
    for y in range(max(0, int((v - b + 1) * half_y)), min(HEIGHT, int((v + b + 1) * half_y) + 1)):
        for x in range(max(0, int((u - a + 1) * half_x)), min(WIDTH, int((u + a + 1) * half_x) + 1)):
            inside = 1 - ((x / half_x - 1 - u) / a) ** 2 - ((y / half_y - 1 - v) / b) ** 2
            if inside > 0:
                pixels[y * WIDTH + x] += int(change * min(1.0, 2 * inside))


def png(pixels: bytes, width: int, height: int) -> bytes:
    """An 8-bit grey PNG, stored and not compressed: compressors differ between machines, these bytes do not."""
    raw = b"".join(b"\0" + pixels[y * width : (y + 1) * width] for y in range(height))
    if len(raw) > 65_535:
        raise ValueError("the picture does not fit into one stored block")
    length = len(raw)
    stream = b"\x78\x01\x01" + struct.pack("<HH", length, length ^ 0xFFFF) + raw + struct.pack(">I", zlib.adler32(raw))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")


def write(course: Course, out: Path) -> int:
    """Write every file below `out`; the number of bytes written."""
    total = 0
    for name, data in course.files():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        total += len(data)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--patients", type=int, default=240)
    parser.add_argument("--images", type=int, default=48, help="how many of the chest reports get a picture")
    asked = parser.parse_args()
    course = generate(asked.seed, asked.patients, asked.images)
    size = write(course, asked.out)
    rows = ", ".join(f"{len(course.tables[name])} {name}" for name in TABLES)
    print(f"{asked.out}: {rows}, {len(course.images)} images; {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
