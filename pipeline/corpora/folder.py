"""A folder of one's own clips: with a manifest in CSV or JSONL, or with none at all.

SOURCE is a folder (its manifest.csv, manifest.jsonl, or, without either, every media file below it), a manifest file, or
one media file. Columns of a manifest; only `path` must be there, others are kept as attributes:

    path         of the recording, relative to the manifest, absolute, or a URL
    clip_id      unique; without it, the path (and the start, where a recording holds several clips)
    start, end   seconds within the recording; empty means its start, its end
    speaker, fold, transcript
    words        [[word, start, end], ...] in seconds from the clip's start; JSON in a CSV
    emotion      the class
    intensity.X  the intensity of emotion X, a number (a regression target)
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import fsspec

from pipeline.clip import Clip, Word
from pipeline.corpora.base import Corpus, Report
from pipeline.corpora.listing import MEDIA_SUFFIXES, is_remote, media_files

csv.field_size_limit(1 << 27)  # the words of a long recording in one cell

MANIFESTS = ("manifest.csv", "manifest.jsonl")
FIELDS = ("clip_id", "path", "start", "end", "speaker", "fold", "transcript", "words", "emotion")


@dataclass(frozen=True)
class FolderCorpus(Corpus):
    """See the module."""

    name: ClassVar[str] = "folder"
    licence: ClassVar[str] = "your own"
    holds: ClassVar[str] = "recordings, or a manifest of them"

    def clips(self, source: str, report: Report) -> Iterator[Clip]:
        return read(source)


class MadeCorpus(FolderCorpus):
    """What pipeline.corpora.made makes is a folder; the name marks its results."""

    name: ClassVar[str] = "made"
    licence: ClassVar[str] = "Apache-2.0; voices by espeak-ng (GPL-3.0), portrait in the public domain (NASA)"
    holds: ClassVar[str] = "what jobs.demo makes"


def read(source: str) -> Iterator[Clip]:
    """Clips of a folder, a manifest file or one media file. Raises ValueError or FileNotFoundError, naming row and column."""
    suffix = os.path.splitext(source)[1].lower()
    if suffix in (".csv", ".jsonl"):
        yield from _read_manifest(source)
        return
    if suffix in MEDIA_SUFFIXES:
        address = source if is_remote(source) else os.path.abspath(source)
        yield Clip(clip_id=address.rpartition("/")[2], uri=address)
        return
    for name in MANIFESTS:
        address = f"{source.rstrip('/')}/{name}"
        fs, path = fsspec.core.url_to_fs(address)
        if fs.exists(path):
            yield from _read_manifest(address)
            return
    found = False
    for relative, address in media_files(source):
        found = True
        yield Clip(clip_id=relative, uri=address)
    if not found:
        raise ValueError(f"no media file and no {' or '.join(MANIFESTS)} in {source}")


def _read_manifest(address: str) -> Iterator[Clip]:
    with fsspec.open(address, "rb") as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        rows = _jsonl_rows(text, address) if address.lower().endswith(".jsonl") else _csv_rows(text, address)
        base = address.rpartition("/")[0] or "."
        found = False
        try:
            for where, row in rows:
                found = True
                yield _clip(row, base, where)
        except (UnicodeDecodeError, csv.Error) as e:
            raise ValueError(f"{address}: can't be read ({e}); expected UTF-8 text") from e
        if not found:
            raise ValueError(f"{address} has no row")


def _csv_rows(text: io.TextIOWrapper, address: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(text)
    if "path" not in (reader.fieldnames or ()):
        raise ValueError(f"{address}: expected a column 'path', found {', '.join(reader.fieldnames or ()) or 'no header'}")
    for row in reader:
        where = f"{address}, line {reader.line_num}"
        if None in row:
            raise ValueError(f"{where}: more values than the header has columns; quote values that hold commas")
        yield where, {k: v for k, v in row.items() if v not in (None, "")}


def _jsonl_rows(text: io.TextIOWrapper, address: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text, 1):
        where = f"{address}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as e:
            raise ValueError(f"{where}: not JSON ({e.msg})") from e
        if not isinstance(row, dict) or "path" not in row:
            raise ValueError(f"{where}: expected an object with 'path', found {line.strip()[:80]!r}")
        yield where, {k: v for k, v in row.items() if v not in (None, "")}


def _clip(row: dict[str, Any], base: str, where: str) -> Clip:
    if "path" not in row:
        raise ValueError(f"{where}: path is empty")
    path = str(row["path"])
    uri = path if "://" in path or path.startswith("/") else f"{base}/{path}"
    start, end = _number(row, "start", where), _number(row, "end", where)
    if start is not None and start < 0:
        raise ValueError(f"{where}: start is {start:g} s, expected 0 or more")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"{where}: end is {end:g} s, expected more than the start, {start or 0.0:g} s")
    intensities = {}
    for key in row:
        if key.startswith("intensity."):
            value = _number(row, key, where)
            if value is not None:
                intensities[key.removeprefix("intensity.")] = value
    known = {k: str(row[k]).strip() for k in ("speaker", "fold", "transcript", "emotion") if k in row}
    return Clip(
        clip_id=str(row.get("clip_id", path if start is None else f"{path}@{start:g}")),
        uri=uri if is_remote(uri) else os.path.abspath(uri.removeprefix("file://")),
        start=start,
        end=end,
        speaker=known.get("speaker"),
        transcript=known.get("transcript"),
        words=_words(row["words"], where) if "words" in row else None,
        emotion=known.get("emotion"),
        intensities=intensities or None,
        fold=known.get("fold"),
        attributes={k: str(v) for k, v in row.items() if k not in FIELDS and not k.startswith("intensity.")},
    )


def _number(row: dict[str, Any], key: str, where: str) -> float | None:
    if key not in row:
        return None
    try:
        value = float(row[key])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {key} is {row[key]!r}, expected a number")
    return value


def _words(value: Any, where: str) -> tuple[Word, ...]:
    expected = "[[word, start, end], ...] in seconds"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as e:
            raise ValueError(f"{where}: words is not JSON ({e.msg}), expected {expected}") from e
    try:
        words = tuple(Word(str(text), float(start), float(end)) for text, start, end in value)
    except (TypeError, ValueError) as e:
        raise ValueError(f"{where}: words is {str(value)[:80]!r}, expected {expected}") from e
    for word in words:
        if not 0 <= word.start <= word.end:
            raise ValueError(f"{where}: the word {word.text!r} runs from {word.start:g} to {word.end:g} s")
    return words
