"""Importers: sequences that another program extracted, read from its files and cut to the clip.

An importer is an extractor like any other, with a name and a version; only that it reads a file in place of the recording.
The file is of the whole recording, as those programs write it: the frames of a clip are those whose middles lie between
the clip's start and end, and their times count from the clip's start.

Where the file is, is said by the manifest (column features.NAME, NAME being the importer's), or by the option `files`, an
address with names in braces: {clip_id}, {stem} (the recording's file name without folder and suffix), {folder} (that the
recording is in), {speaker}, or an attribute of the clip. A file that is named and not there is an error of the clip.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import fsspec
import numpy as np
import numpy.typing as npt

from pipeline.clip import Absent, Clip, ClipError
from pipeline.csd import read_segment
from pipeline.files import Folder
from pipeline.media import Media
from pipeline.streams.base import Extractor, Features

MAX_FILE_BYTES = 4 << 30


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
    sequence: ClassVar[str | None] = None
    """Name of the computational sequence (.csd) of CMU-MOSEI that holds the same columns, where there is one."""

    def parse(self, data: bytes, path: str, deadline: Callable[[], None]) -> Sequence2D:
        """A whole file. path: its name, for its suffix and for errors. deadline: to be called in long loops.

        Raises ClipError, naming what was found and what was expected, for a file that can't be used.
        """
        raise NotImplementedError

    def from_sequence(self, found: Sequence2D) -> Sequence2D:
        """Of the columns of the computational sequence, those of this stream."""
        return found

    def address(self, clip: Clip) -> str:
        """Where the clip's file is. Raises Absent where nobody says, ClipError where a name in braces is not known."""
        if self.files is not None:
            return _filled(self.files, clip)
        kind = type(self).name
        if clip.features and kind in clip.features:
            return clip.features[kind]
        raise Absent(f"no {kind} file: neither features.{kind} in the manifest nor the option files of the stream names one")

    def extract(self, clip: Clip, media: Media) -> Features:
        """The frames whose middles lie in the clip. Raises Absent where no file is named, ClipError where it can't be used."""
        address = self.address(clip)
        path, _, key = address.partition("#")
        start = clip.start or 0.0
        if path.lower().endswith(".csd"):
            if self.sequence is None:
                raise ClipError(f"{path}: {type(self).name} is not read from computational sequences")
            times, values, tokens = self.from_sequence(Sequence2D(*read_segment(path, key, start, clip.end)))
            if values.shape[1] != len(self.columns):
                found, expected = values.shape[1], f"{len(self.columns)} of {self.sequence}"
                raise ClipError(f"{os.path.basename(path)}, video {key!r} has {found} columns, expected {expected}")
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
        if np.any(np.diff(found.times) < 0):
            order = np.argsort(found.times, kind="stable")
            tokens = None if found.tokens is None else tuple(found.tokens[i] for i in order)
            found = Sequence2D(found.times[order], found.values[order], tokens)
        values = np.where(np.isfinite(found.values), found.values, np.float32(np.nan))
        found = Sequence2D(found.times, values, found.tokens)
        object.__setattr__(self, "_kept", ((address, stamp), found))
        return found

    def first_file(self, clips: Sequence[Clip]) -> tuple[str, bytes]:
        """Address and content of the first clip's file that is there. Raises ValueError where there is none."""
        why = "there are no clips"
        for clip in clips:
            try:
                address = self.address(clip)
                return address, read_file(address)
            except ClipError as e:
                why = str(e)
        raise ValueError(f"stream {self.name!r}: no clip has a file that can be read ({why})")

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_kept"}


def read_file(address: str) -> bytes:
    """A whole file, local or remote. Raises ClipError where it is missing, empty, too large or a git-lfs pointer."""
    folder, _, name = address.rpartition("/")
    try:
        fs, path = fsspec.core.url_to_fs(address)
        size = fs.size(path)
        if size is not None and size > MAX_FILE_BYTES:
            raise ClipError(f"{name} has {size} bytes, expected at most {MAX_FILE_BYTES}")
        data = Folder(folder or ("." if "/" not in address else "/")).read(name)
    except FileNotFoundError as e:
        raise ClipError(f"no such file: {address}") from e
    except (IsADirectoryError, PermissionError, NotADirectoryError) as e:
        raise ClipError(f"can't read {address}: {e.strerror or type(e).__name__}") from e
    if not data:
        raise ClipError(f"{address} is empty")
    if data.startswith(b"version https://git-lfs"):
        raise ClipError(f"{address} is a git-lfs pointer, not the file: run `git lfs pull` where it came from")
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
