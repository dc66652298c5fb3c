"""Importers: sequences that another program extracted, read from its files and cut to the clip.

An importer is an extractor like any other, with a name and a version; only that it reads a file in place of the recording.
The file is of the whole recording, as those programs write it: the frames of a clip are those whose middles lie between
the clip's start and end, and their times count from the clip's start. Files are hostile input like any other: how large
they may be is asked before they are read, and nothing in them is run or names another file.

Where the file is, is said by the manifest (column features.NAME, NAME being the stream's or else the importer's), or by the
option `files`, an address with names in braces: {clip_id}, {stem} (the recording's file name without folder and suffix),
{folder} (that the recording is in), {speaker}, or an attribute of the clip. A file that is named and not there is an error
of the clip.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from pipeline.clip import Absent, Clip, ClipError
from pipeline.csd import read_segment
from pipeline.files import can_be_read, is_remote, read_whole, readable
from pipeline.media import Media
from pipeline.streams.base import Extractor, Features

T = TypeVar("T")

MAX_FILE_BYTES = 2 << 30
MAX_ARRAY_BYTES = 2 << 30  # of the numbers in a file, once unpacked
MAX_COLUMNS = 20_000  # openSMILE's largest published set has 6,373
MAX_HEADER_BYTES = 4 << 20
TIME_JITTER = 1.0  # seconds that times may go back; more is no jitter but another recording
NO_NUMBER = ("", "NaN", "nan", "-nan", "NA", "N/A", "null", "None", "nan(ind)", "-nan(ind)", "1.#QNAN", "-1.#IND")


class Sequence2D(NamedTuple):
    """A recording's frames: times (n,) float64, their middles in seconds, and values (n, F) float32, NaN where not observed."""

    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float32]
    tokens: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Importer(Extractor):
    """Base of importers. A subclass has columns and parse(); and sequence, where a .csd file may hold it."""

    files: str | None = None

    reads_recording: ClassVar[bool] = False
    places: ClassVar[tuple[str, ...]] = ("files",)
    suffixes: ClassVar[tuple[str, ...]]
    """What files are called that it reads, such as ".csv"."""
    sequence: ClassVar[tuple[str, int] | None] = None
    """The computational sequence (.csd) of CMU-MOSEI that holds the same, where there is one: its name, and how many columns
    it has."""

    def parse(self, data: bytes, path: str, deadline: Callable[[], None]) -> Sequence2D:
        """A whole file. path: its name, for its suffix and for errors. deadline: to be called in long loops.

        Raises ClipError, naming what was found and what was expected, for a file that can't be used.
        """
        raise NotImplementedError

    def from_sequence(self, found: Sequence2D) -> Sequence2D:
        """Of all columns of the computational sequence, those of this stream. What is not finite is NaN already."""
        return found

    def settled(self, clips: Iterable[Clip]) -> Self:
        """With the address of `files` in full, since workers run in folders of their own."""
        here = self.files is not None and "://" not in self.files and not self.files.startswith(("/", "{folder}"))
        return self.changed(files=os.path.abspath(self.files or "")) if here else self

    def address(self, clip: Clip) -> str:
        """Where the clip's file is. Raises Absent where nobody says, ClipError where a name in braces is not known."""
        if self.files is not None:
            return _filled(self.files, clip)
        names = dict.fromkeys((self.name, type(self).name))
        for name in names:
            if clip.features and name in clip.features:
                return clip.features[name]
        columns = " or ".join(f"features.{name}" for name in names)
        raise Absent(
            f"no {type(self).name} file: neither {columns} in the manifest nor the option files of the stream names one"
        )

    def is_named(self, clips: Iterable[Clip]) -> bool:
        """Whether any of the clips has a file, as far as names tell."""
        return self.files is not None or any({self.name, type(self).name} & (clip.features or {}).keys() for clip in clips)

    def extract(self, clip: Clip, media: Media) -> Features:
        """The frames whose middles lie in the clip. Raises Absent where no file is named, ClipError where it can't be used."""
        address = self.address(clip)
        path, _, key = address.partition("#")
        start = clip.start or 0.0
        if path.lower().endswith(".csd"):
            if self.sequence is None:
                raise ClipError(f"{path}: {type(self).name} is not read from computational sequences")
            if not can_be_read(path):
                raise ClipError(f"can't read {path}: {readable()}")
            segment = Sequence2D(*read_segment(path, key, start, clip.end))
            name, width = self.sequence
            if segment.values.shape[1] != width:
                found = segment.values.shape[1]
                raise ClipError(f"{os.path.basename(path)}, video {key!r} has {found} columns, expected {width} of {name}")
            times, values, tokens = self.from_sequence(segment)
            if not len(times):
                raise ClipError(f"{os.path.basename(path)}, video {key!r} has no frame between the clip's start and end")
            return Features(values, times - start, tokens)
        whole = self._whole(address, media)
        inside = (whole.times >= start) & (whole.times < (np.inf if clip.end is None else clip.end))
        if not inside.any():
            last = f"{whole.times.max():.2f} s" if len(whole.times) else "nothing"
            raise ClipError(f"{os.path.basename(path)} has no frame between the clip's start and end: it reaches to {last}")
        tokens = None if whole.tokens is None else tuple(t for t, here in zip(whole.tokens, inside, strict=True) if here)
        return Features(whole.values[inside], whole.times[inside] - start, tokens)

    def _whole(self, address: str, media: Media) -> Sequence2D:
        """The file, parsed; the last one is kept, for clips of one recording follow each other."""
        kept = self.__dict__.get("_kept")
        stamp = os.stat(address).st_mtime_ns if os.path.isfile(address) else 0
        if kept is not None and kept[0] == (address, stamp):
            found: Sequence2D = kept[1]
            return found
        data = read_file(address)
        media.deadline.check()
        found = self.parse(data, address, media.deadline.check)
        found = in_order(Sequence2D(found.times, finite(found.values), found.tokens), os.path.basename(address))
        object.__setattr__(self, "_kept", ((address, stamp), found))
        return found

    def of_first_file(self, clips: Iterable[Clip], look: Callable[[bytes, str], T]) -> T:
        """What look(content, address) finds in the first clip's file that can be read. Raises ValueError where none can."""
        first = "there are no clips"
        for i, clip in enumerate(clips):
            try:
                address = self.address(clip)
                return look(read_file(address), address)
            except ClipError as e:
                first = first if i else str(e)
        raise ValueError(f"stream {self.name!r}: no clip has a file that can be read ({first})")

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_kept"}


def finite(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Values with NaN in place of what is infinite."""
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def in_order(found: Sequence2D, name: str) -> Sequence2D:
    """The frames by time. Raises ClipError where a frame has none, or where times go back by more than jitter does."""
    if not np.isfinite(found.times).all():
        raise ClipError(f"{name}: frame {int(np.argmin(np.isfinite(found.times))) + 1} has no time")
    steps = np.diff(found.times)
    if not (steps < 0).any():
        return found
    if (steps < -TIME_JITTER).any():
        at = int(np.argmin(steps))
        times = f"{found.times[at]:.2f} s, and then {found.times[at + 1]:.2f} s"
        raise ClipError(f"{name}: times go back after frame {at + 1}, {times}: expected the frames of one recording, in order")
    order = np.argsort(found.times, kind="stable")
    tokens = None if found.tokens is None else tuple(found.tokens[i] for i in order)
    return Sequence2D(found.times[order], found.values[order], tokens)


def names_of(option: str | Sequence[str]) -> tuple[str, ...]:
    """An option that is a list of names, as Python, JSON or a command line (with commas) gives it."""
    if isinstance(option, str):
        return tuple(name.strip() for name in option.split(",") if name.strip())
    if not isinstance(option, (list, tuple)) or not all(isinstance(name, str) for name in option):
        raise ValueError(f"expected names with commas between, found {option!r}")
    return tuple(option)


def read_file(address: str) -> bytes:
    """A whole file, local or remote. Raises ClipError where it is missing, empty, too large, no regular file, a git-lfs
    pointer, or at an address of an unknown kind."""
    try:
        data = read_whole(address, MAX_FILE_BYTES)
    except FileNotFoundError as e:  # of a bucket, wrong credentials stop the job: they are not the clip's fault
        raise ClipError(f"no such file: {address}") from e
    except (PermissionError, NotADirectoryError) as e:
        if is_remote(address):
            raise
        raise ClipError(f"can't read {address}: {e.strerror}") from e
    except ValueError as e:
        raise ClipError(f"can't read {address!r}: {e}") from e
    if not data:
        raise ClipError(f"{address} is empty")
    return data


def _filled(template: str, clip: Clip) -> str:
    folder, _, name = clip.uri.rpartition("/")
    known = {
        **clip.attributes,
        "clip_id": clip.clip_id,
        "stem": name.rpartition(".")[0] or name,
        "folder": folder,
        **({"speaker": clip.speaker} if clip.speaker is not None else {}),
    }

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ClipError(f"files={template}: the clip has no {match[1]!r}: expected one of {', '.join(sorted(known))}")
        return known[match[1]]

    return re.sub(r"\{([^{}]*)\}", value, template)


# ------------------------------------------------------------------------------------------------------ text of numbers


class Numbers(NamedTuple):
    """Columns of a table: values (n, F) float32, times (n, T) float64, NaN where nothing is written; texts, by column."""

    values: npt.NDArray[np.float32]
    times: npt.NDArray[np.float64]
    texts: list[list[str]]


@dataclass(frozen=True)
class Table:
    """A text file of separated numbers, which begin at byte `start` of the text, in line `line`."""

    name: str
    header: tuple[str, ...]
    delimiter: str
    text: bytes
    start: int
    line: int

    def first(self) -> list[str]:
        """The fields of the first line below the header, stripped."""
        line = next(_lines(self.text, self.start), b"")[:MAX_HEADER_BYTES]
        return [field.strip() for field in _fields(line, self.delimiter)]

    def read(
        self,
        check: Callable[[], None],
        values: Sequence[int | None],
        times: Sequence[int] = (),
        texts: Sequence[int] = (),
    ) -> Numbers:
        """Columns by their places; None is a column that the file does not have, NaN.

        Raises ClipError, naming line and column, where a line has more or fewer fields than the header, or what should be a
        number is none. check: called now and then, to end what takes too long.
        """
        if not any(line.strip() for line in _lines(self.text, self.start)):
            raise ClipError(f"{self.name} has no line of numbers")
        kinds = {i: pa.float32() for i in values if i is not None}
        kinds |= {i: pa.float64() for i in times} | {i: pa.binary() for i in texts}
        try:
            found = pyarrow.csv.read_csv(
                pa.BufferReader(pa.py_buffer(self.text).slice(self.start)),
                read_options=pyarrow.csv.ReadOptions(
                    use_threads=False,
                    block_size=MAX_HEADER_BYTES,
                    column_names=[str(i) for i in range(len(self.header))],
                ),
                parse_options=pyarrow.csv.ParseOptions(delimiter=self.delimiter, quote_char=_quote(self.delimiter)),
                convert_options=pyarrow.csv.ConvertOptions(
                    include_columns=[str(i) for i in kinds],
                    column_types={str(i): kind for i, kind in kinds.items()},
                    null_values=[space + text for text in NO_NUMBER for space in ("", " ")],
                    check_utf8=False,
                ),
            )
        except pa.ArrowException as e:
            raise self._complaint([*dict.fromkeys(i for i in (*values, *times) if i is not None)], check) or ClipError(
                f"{self.name} can't be read: {e}"
            ) from e
        check()
        n = found.num_rows
        array = np.full((n, len(values)), np.nan, np.float32)
        for k, i in enumerate(values):
            if i is not None:
                array[:, k] = found[str(i)].to_numpy()
        stamps = np.stack([found[str(i)].to_numpy() for i in times], axis=1) if times else np.empty((n, 0))
        return Numbers(array, stamps, [[text.decode("utf-8", "replace") for text in found[str(i)].to_pylist()] for i in texts])

    def _complaint(self, columns: Sequence[int], check: Callable[[], None]) -> ClipError | None:
        """What is wrong with the first line that can't be read."""
        for number, line in enumerate(_lines(self.text, self.start), self.line):
            if not number % 1000:
                check()
            if not line.strip():
                continue
            where, fields = f"{self.name}, line {number}", _fields(line, self.delimiter)
            if len(fields) != len(self.header):
                more = len(fields) > len(self.header) and self.delimiter == ","
                hint = "; a decimal comma? expected points" if more else "; is the end of the file cut off?"
                return ClipError(f"{where} has {len(fields)} fields, expected {len(self.header)}{hint}")
            for i in columns:
                if fields[i].strip() not in NO_NUMBER and not is_number(fields[i]):
                    hint = " with a point, not a comma" if re.fullmatch(r"\s*-?\d*,\d+\s*", fields[i]) else ""
                    return ClipError(f"{where}, column {self.header[i]}: found {fields[i][:40]!r}, expected a number{hint}")
        return None


def open_table(data: bytes, path: str, is_header: Callable[[Sequence[str]], bool], expected: str, within: int = 1) -> Table:
    """A table whose header is the first of the first `within` lines that is one.

    Separators are commas, semicolons or tabs, whichever the header has most of. Names are stripped. Raises ClipError where
    there is no header, saying what was expected, and where the file is no text.
    """
    text, name = _text(data, path)
    place, first = 0, ""
    for number, line in enumerate(itertools.islice(_lines(text, 0), within), 1):
        place += len(line) + 1
        first = first or line[:80].decode("utf-8", "replace").strip()
        delimiter = _delimiter(line)
        header = tuple(field.strip() for field in _fields(line[:MAX_HEADER_BYTES], delimiter))
        if is_header(header):
            if len(header) > MAX_COLUMNS:
                raise ClipError(f"{name} has {len(header)} columns, expected at most {MAX_COLUMNS}")
            return Table(name, header, delimiter, text, min(place, len(text)), number + 1)
    raise ClipError(f"{name}: expected {expected}, found {first!r}")


def bare_table(data: bytes, path: str) -> Table:
    """A table without a header: its columns are called by their numbers, from 1."""
    text, name = _text(data, path)
    line = next(_lines(text, 0))[:MAX_HEADER_BYTES]
    delimiter = _delimiter(line)
    n = len(_fields(line, delimiter))
    if n > MAX_COLUMNS:
        raise ClipError(f"{name} has {n} columns, expected at most {MAX_COLUMNS}")
    return Table(name, tuple(str(i + 1) for i in range(n)), delimiter, text, 0, 1)


def _text(data: bytes, path: str) -> tuple[bytes, str]:
    name = os.path.basename(path)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ClipError(f"{name} is text in UTF-16: save it as UTF-8")
    if b"\0" in data[:65536]:
        raise ClipError(f"{name} is binary, expected text")
    text = data.removeprefix(b"\xef\xbb\xbf")
    if b"\n" not in text[:MAX_HEADER_BYTES]:
        text = text.replace(b"\r", b"\n")  # as spreadsheets on a Mac end lines
    return text, name


def _delimiter(line: bytes) -> str:
    return max((",", ";", "\t"), key=lambda d: line.count(d.encode()))


def _quote(delimiter: str) -> str | bool:
    return False if delimiter == "\t" else '"'  # free text between tabs may hold a single one


def _lines(text: bytes, place: int) -> Iterator[bytes]:
    while place < len(text):
        end = text.find(b"\n", place)
        end = len(text) if end < 0 else end
        yield text[place:end]
        place = end + 1


def _fields(line: bytes, delimiter: str) -> list[str]:
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    if '"' not in text or not _quote(delimiter):
        return text.split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter), [])
    except csv.Error:
        return [text]


def is_number(text: str) -> bool:
    """Whether a field of a table is a number, "nan" and "inf" among them."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text
