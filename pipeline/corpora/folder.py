"""A folder of one's own clips: with a manifest in CSV, JSONL or Parquet, or with none at all.

SOURCE is a folder (its manifest.csv, .tsv, .jsonl or .parquet, or, without any, every media file below it), a manifest file,
or one media file. Columns of a manifest; only `path` must be there, others are kept as attributes
(one that differs from these by capitals or spaces alone is refused):

    path             of the recording, relative to the manifest, absolute, or a URL
    clip_id          unique; without it, the path (and the start, where a recording holds several clips)
    start, end       seconds within the recording; empty means its start, its end
    speaker, fold
    emotion          the class
    intensity.X      the intensity of emotion X, a number (a regression target)
    shares.X         the share of class X in a soft label, 0 or more; the shares of a row are scaled to the sum 1, and the
                     largest (of equals, the first) is the emotion where no other is given
    features.NAME    address, like path, of the sequence that importer NAME reads
    transcript       the words, as text
    words            [[word, start, end], ...] in seconds from the clip's start; JSON in a CSV
    transcript_file  address, like path, of a transcript: .txt, .srt, .vtt, .TextGrid or .json (pipeline.transcripts)

A row has one of the last three. One that has none, and a clip without a manifest, takes the transcript that lies beside its
recording under the same name, where there is one: .TextGrid, else .vtt, .srt or .txt; but no .txt for a part of a recording,
for it would be the words of all of it.

What is wrong in the manifest is an error, with file, line and column. A transcript file that is missing or broken is reported,
and its clips go on without a transcript.
"""

from __future__ import annotations

import csv
import functools
import io
import itertools
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO, Any, ClassVar, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import transcripts
from pipeline.clip import Clip, Word
from pipeline.corpora.base import Corpus, Problem, Report
from pipeline.corpora.listing import MEDIA_SUFFIXES, all_files, files_in, only_media, suffix_of
from pipeline.files import can_be_read, is_remote, read_whole

MAX_LINE = 1 << 27  # characters: the words of a long recording in one cell
csv.field_size_limit(MAX_LINE)

MANIFESTS = ("manifest.csv", "manifest.tsv", "manifest.jsonl", "manifest.parquet")
MANIFEST_SUFFIXES = tuple(suffix_of(name) for name in MANIFESTS)
BESIDE = (".textgrid", ".vtt", ".srt", ".txt")  # the first that is there; .json beside a recording may be anything
TEXTS = ("speaker", "fold", "transcript", "emotion")
FIELDS = frozenset(("clip_id", "path", "start", "end", "words", "transcript_file", *TEXTS))
BATCH = 64  # rows whose transcripts are read together
READERS = 16  # transcripts read at once: a bucket answers slowly, and many at a time


class Row(NamedTuple):
    """A clip, and the address of the transcript that its row names."""

    clip: Clip
    transcript: str | None = None
    beside: bool = False
    """Whether it was found there, and not named."""


Values = tuple[str, dict[str, Any]]
"""Where a row is, for errors, and its values by column; what is empty is left out."""

Transcript = str | tuple[Word, ...] | Problem


@dataclass(frozen=True)
class FolderCorpus(Corpus):
    """See the module.

    tier: the name of the tier of words in TextGrid files, where it is not words or word. beside: whether transcripts that
    lie beside recordings are read without being named.
    """

    tier: str | None = None
    beside: bool = True

    name: ClassVar[str] = "folder"
    licence: ClassVar[str] = "your own"
    holds: ClassVar[str] = "recordings, or a manifest of them"

    def clips(self, source: str, report: Report) -> Iterator[Clip]:
        beside = _Beside()
        found: Counter[str] = Counter()
        told: set[str] = set()
        read: dict[str, Transcript] = {}
        rows = _rows(source, report, beside)
        with ThreadPoolExecutor(READERS) as pool:
            while batch := [self._with_transcript(row, beside) for row in itertools.islice(rows, BATCH)]:
                wanted = dict.fromkeys(row.transcript for row in batch if row.transcript is not None)
                new = [address for address in wanted if address not in read]
                # Clips of one recording follow each other: what the last batch read is likely wanted again.
                read = {address: read[address] for address in wanted if address in read}
                read |= zip(new, pool.map(self._read, new), strict=True)
                for address in new:
                    problem = read[address]
                    if isinstance(problem, Problem) and address not in told:
                        told.add(address)
                        report(problem)
                for clip, transcript, is_beside in batch:
                    if is_beside and transcript and not isinstance(read[transcript], Problem):
                        found[suffix_of(transcript)] += 1
                    yield clip if transcript is None else _with_words(clip, read[transcript], transcript, report)
        for suffix, n in found.items():
            what = f"words taken from {suffix} files beside the recordings: {n} clips; see the option beside"
            report(Problem("note", source, what))

    def _with_transcript(self, row: Row, beside: _Beside) -> Row:
        clip = row.clip
        if row.transcript is None and self.beside and clip.transcript is None and clip.words is None:
            address = beside.of(clip)
            if address is not None:
                return Row(clip, address, beside=True)
        return row

    def _read(self, address: str) -> Transcript:
        try:
            return transcripts.parse(read_whole(address, transcripts.MAX_BYTES), suffix_of(address), self.tier)
        except FileNotFoundError:
            return Problem("missing", address, "no such transcript: its clips go on without it")
        except (ValueError, OSError) as e:
            if isinstance(e, OSError) and is_remote(address):
                raise  # wrong credentials and lost connections are not the file's fault
            why = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
            return Problem("broken", address, f"transcript that can't be read, its clips go on without it: {why}")


class MadeCorpus(FolderCorpus):
    """What pipeline.corpora.made makes is a folder; the name marks its results."""

    name: ClassVar[str] = "made"
    licence: ClassVar[str] = "Apache-2.0; voices by espeak-ng (GPL-3.0), portrait in the public domain (NASA)"
    holds: ClassVar[str] = "what jobs.demo makes"


def _rows(source: str, report: Report, beside: _Beside) -> Iterator[Row]:
    """Clips of a folder, a manifest file or one media file. Raises ValueError or FileNotFoundError, naming row and column."""
    suffix = suffix_of(source)
    if suffix in MANIFEST_SUFFIXES:
        yield from _manifest(source, report)
        return
    if suffix in MEDIA_SUFFIXES:
        address = source if is_remote(source) else os.path.abspath(source.removeprefix("file://"))
        yield Row(Clip(clip_id=address.rpartition("/")[2], uri=address))
        return
    there = [address for name in MANIFESTS if _exists(address := f"{source.rstrip('/')}/{name}")]
    for address in there[1:]:
        report(Problem("unexpected", address, f"another manifest: {there[0]} is read, and this is not"))
    if there:
        yield from _manifest(there[0], report)
        return
    files = all_files(source)
    beside.add(address for _, address in files)
    clip = None
    for relative, address in only_media(files, report):
        clip = Clip(clip_id=relative, uri=address)
        yield Row(clip)
    if clip is None:
        raise ValueError(f"no media file and no {', '.join(MANIFESTS[:-1])} or {MANIFESTS[-1]} in {source}")


def _exists(address: str) -> bool:
    fs, path = fsspec.core.url_to_fs(address)
    return bool(fs.exists(path))


# --------------------------------------------------------------------------------------------------- transcripts


class _Beside:
    """Which transcripts lie beside recordings. Each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, str]] = {}

    def add(self, addresses: Iterable[str]) -> None:
        """Take note of files that were listed elsewhere."""
        for address in sorted(addresses):
            folder, stem, suffix = _parts(address)
            here = self._folders.setdefault(folder, {})
            if suffix in BESIDE and (stem not in here or BESIDE.index(suffix) < BESIDE.index(suffix_of(here[stem]))):
                here[stem] = address

    def of(self, clip: Clip) -> str | None:
        """The address of a clip's transcript."""
        folder, stem, _ = _parts(clip.uri)
        if folder not in self._folders:
            self._folders[folder] = {}
            if can_be_read(folder):
                self.add(files_in(folder))
        address = self._folders[folder].get(stem)
        is_part = clip.start is not None or clip.end is not None
        return None if address is None or (is_part and suffix_of(address) == ".txt") else address


def _parts(address: str) -> tuple[str, str, str]:
    folder, _, name = address.rpartition("/")
    stem, suffix = os.path.splitext(name)
    return folder, stem, suffix.lower()


def _with_words(clip: Clip, found: Transcript, address: str, report: Report) -> Clip:
    if isinstance(found, Problem):
        return clip
    if isinstance(found, str):
        return replace(clip, transcript=found)
    words = transcripts.cut(found, clip.start, clip.end)
    if found and not words:
        report(Problem("note", clip.clip_id, f"no word lies between the clip's start and end: in {address}"))
    return replace(clip, words=words)


# ----------------------------------------------------------------------------------------------------- manifests


def _manifest(address: str, report: Report) -> Iterator[Row]:
    base = address.rpartition("/")[0] or "."
    suffix = suffix_of(address)
    found = False
    with fsspec.open(address, "rb") as file:
        if suffix == ".parquet":
            rows = _parquet_rows(file, address, report)
        else:
            encoding = transcripts.encoding_of(file.read(2))
            file.seek(0)
            lines = _lines(io.TextIOWrapper(file, encoding=encoding, newline=""), address)
            rows = _jsonl_rows(lines, address) if suffix == ".jsonl" else _csv_rows(lines, address, suffix)
        for where, row in rows:
            found = True
            yield _row(row, base, where)
    if not found:
        raise ValueError(f"{address} has no row")


def _lines(text: IO[str], address: str) -> Iterator[str]:
    number = 0
    while True:
        try:
            line = text.readline(MAX_LINE)
        except UnicodeError as e:
            raise ValueError(f"{address}, after line {number}: can't be read ({e}); expected UTF-8 text") from e
        if not line:
            return
        number += 1
        if len(line) == MAX_LINE:
            raise ValueError(f"{address}, line {number}: longer than {MAX_LINE} characters")
        yield line


def _csv_rows(lines: Iterator[str], address: str, suffix: str) -> Iterator[Values]:
    first, before = next(lines, ""), 0
    declared = re.fullmatch(r"\"?sep=(.)\"?", first.strip("\r\n"))  # a line of Excel's own
    if declared:
        first, before = next(lines, ""), 1
    # As spreadsheets write it: commas; tabs in Unicode text; semicolons where the comma is the decimal sign.
    delimiter = declared[1] if declared else "\t" if suffix == ".tsv" else next((d for d in ",\t;" if d in first), ",")
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter, strict=True)
    number = before + 1
    try:
        header = [name.strip() for name in next(reader, ())]
        _check_header(header, address)
        number = before + reader.line_num + 1
        for values in reader:
            where = f"{address}, line {number}"
            number = before + reader.line_num + 1
            if len(values) > len(header) and any(values[len(header) :]):
                raise ValueError(f"{where}: more values than the header has columns; quote values that hold {delimiter!r}")
            row = {name: value for name, value in zip(header, values, strict=False) if value}
            if "" in row:
                raise ValueError(f"{where}: the column of {row['']!r} has no name")
            if row:
                yield where, row
    except csv.Error as e:
        raise ValueError(f"{address}, line {number}: not CSV ({e}); a quote that is not closed?") from e


def _check_header(names: list[str], address: str) -> None:
    if "path" not in names:
        raise ValueError(f"{address}: expected a column 'path', found {', '.join(names)[:300] or 'no header'}")
    if twice := [name for name, n in Counter(names).items() if n > 1 and name]:
        raise ValueError(f"{address}: the column {twice[0]!r} comes twice")
    try:
        _columns(tuple(names))
    except ValueError as e:
        raise ValueError(f"{address}: {e}") from e


def _jsonl_rows(lines: Iterator[str], address: str) -> Iterator[Values]:
    for number, line in enumerate(lines, 1):
        where = f"{address}, line {number}"
        if not line.strip():
            continue
        try:
            row = transcripts.load_json(line)
            if "\\u" in line:  # half a surrogate pair can't be stored
                json.dumps(row, ensure_ascii=False).encode()
        except ValueError as e:
            raise ValueError(f"{where}: {e}") from e
        if not isinstance(row, dict) or "path" not in row:
            raise ValueError(f"{where}: expected an object with 'path', found {line.strip()[:80]!r}")
        yield where, {name: value for name, value in row.items() if value not in (None, "")}


def _parquet_rows(file: IO[bytes], address: str, report: Report) -> Iterator[Values]:
    number = 0
    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        _check_header(names, address)
        kept = []
        for field in table.schema_arrow:
            if field.name == "words" or not (pa.types.is_nested(field.type) or _is_binary(field.type)):
                kept.append(field.name)
            else:
                report(Problem("note", address, f"a column that is not kept: {field.name} is of type {field.type}"))
        for batch in table.iter_batches(1024, columns=kept):
            for row in batch.to_pylist():
                number += 1
                yield f"{address}, row {number}", {name: value for name, value in row.items() if value not in (None, "")}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise ValueError(f"{address}, after row {number}: can't be read as Parquet: {e}") from e


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


class _Columns(NamedTuple):
    """Of a row's columns, those that come in any number: (column, what it names)."""

    intensity: tuple[tuple[str, str], ...]
    shares: tuple[tuple[str, str], ...]
    features: tuple[tuple[str, str], ...]
    others: tuple[str, ...]


@functools.lru_cache(maxsize=1024)
def _columns(names: tuple[str, ...]) -> _Columns:
    kinds: dict[str, list[tuple[str, str]]] = {"intensity": [], "shares": [], "features": []}
    others = []
    for column in names:
        kind, dot, name = column.partition(".")
        if dot and kind in kinds:
            if not name:
                raise ValueError(f"the column {column!r} names nothing, expected {kind}.NAME")
            kinds[kind].append((column, name))
        elif column not in FIELDS:
            meant = kind.strip().lower() + dot + name
            if meant in FIELDS or (dot and kind.strip().lower() in kinds):
                raise ValueError(f"a column {column!r}: expected {meant!r}, or another name")
            others.append(column)
    return _Columns(tuple(kinds["intensity"]), tuple(kinds["shares"]), tuple(kinds["features"]), tuple(others))


def _row(row: dict[str, Any], base: str, where: str) -> Row:
    if "path" not in row:
        raise ValueError(f"{where}: path is empty")
    path = row["path"]
    if not isinstance(path, str):
        raise ValueError(f"{where}: path is {path!r}, expected text")
    start, end = _number(row, "start", where), _number(row, "end", where)
    if start is not None and start < 0:
        raise ValueError(f"{where}: start is {start:g} s, expected 0 or more")
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"{where}: end is {end:g} s, expected more than the start, {start or 0.0:g} s")
    texts = {name: _text(row, name, where) for name in TEXTS if name in row}
    try:
        columns = _columns(tuple(row))
    except ValueError as e:
        raise ValueError(f"{where}: {e}") from e
    shares = _shares(row, columns, where)
    emotion = texts.get("emotion")
    features = {name: _text(row, column, where) for column, name in columns.features}
    clip = Clip(
        clip_id=_text(row, "clip_id", where) or (path if start is None else f"{path}@{start:.10g}"),
        uri=_address(path, base),
        start=start,
        end=end,
        speaker=texts.get("speaker"),
        transcript=texts.get("transcript"),
        words=_words(row["words"], where) if "words" in row else None,
        emotion=max(shares, key=shares.__getitem__) if shares and emotion is None else emotion,
        intensities={name: _required(row, column, where) for column, name in columns.intensity} or None,
        fold=texts.get("fold"),
        shares=shares,
        features={name: _address(file, base) for name, file in features.items() if file} or None,
        attributes={name: str(row[name]) for name in columns.others},
    )
    return Row(clip, _transcript_file(row, base, where) if "transcript_file" in row else None)


@functools.lru_cache(maxsize=4096)
def _address(path: str, base: str) -> str:
    uri = path if "://" in path or path.startswith("/") else f"{base}/{path}"
    return uri if is_remote(uri) else os.path.abspath(uri.removeprefix("file://"))


def _text(row: dict[str, Any], column: str, where: str) -> str | None:
    value = row.get(column)
    if value is None:
        return None
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{where}: {column} is {str(value)[:80]!r}, expected text")
        value = str(value)
    text = value.strip()
    # Few speakers, many rows: one string each, not one a row.
    return (text if column in ("transcript", "clip_id") else sys.intern(text)) or None


def _number(row: dict[str, Any], column: str, where: str) -> float | None:
    return _required(row, column, where) if column in row else None


def _required(row: dict[str, Any], column: str, where: str) -> float:
    found = row[column]
    try:
        value = math.nan if isinstance(found, bool) else float(found)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        sign = " with a decimal point" if isinstance(found, str) and "," in found else ""
        raise ValueError(f"{where}: {column} is {str(found)[:80]!r}, expected a number{sign}")
    return value


def _shares(row: dict[str, Any], columns: _Columns, where: str) -> dict[str, float] | None:
    if not columns.shares:
        return None
    shares = {name: _required(row, column, where) for column, name in columns.shares}
    total = sum(shares.values())
    for (column, _), share in zip(columns.shares, shares.values(), strict=True):
        if share < 0:
            raise ValueError(f"{where}: {column} is {share:g}, expected 0 or more")
    if not 0 < total < math.inf:
        raise ValueError(f"{where}: the shares {', '.join(c for c, _ in columns.shares)} have the sum {total:g}, expected more")
    return {name: share / total for name, share in shares.items()}


def _words(value: Any, where: str) -> tuple[Word, ...]:
    try:
        return transcripts.word_list(transcripts.load_json(value) if isinstance(value, str) else value)
    except ValueError as e:
        raise ValueError(f"{where}: words: {e}") from e


def _transcript_file(row: dict[str, Any], base: str, where: str) -> str | None:
    name = _text(row, "transcript_file", where)
    if name is None:
        return None
    if both := [column for column in ("transcript", "words") if column in row]:
        raise ValueError(f"{where}: both {both[0]} and transcript_file, expected one of them")
    if suffix_of(name) not in transcripts.SUFFIXES:
        raise ValueError(f"{where}: transcript_file is {name!r}, expected one of {', '.join(transcripts.SUFFIXES)}")
    return _address(name, base)
