"""Computational sequences (.csd), the format of CMU-MOSEI: HDF5 files, of which only what a clip needs is read.

    /<name>/data/<video>/features     (n, d) numbers; of the sequence "words", (n, 1) bytes
    /<name>/data/<video>/intervals    (n, 2) start and end of each row, in seconds within the video
    /<name>/metadata/<key>            (1,) string that holds JSON

Only the first root group counts. Layout and the rule that cuts segments are those of the format's own reader, the
CMU-MultimodalSDK (mmsdk/mmdatasdk: computational_sequence/file_ops.py; dataset.py, the intersection in align()).

A file is hostile input. No link out of its data group is followed, and no dataset is read whose values are in other
files. Sizes are checked before anything is read: HDF5 allocates what a file claims to hold.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import fsspec
import h5py
import numpy as np
import numpy.typing as npt

from pipeline.clip import ClipError

Segment = tuple[npt.NDArray[np.float64], npt.NDArray[np.float32], tuple[str, ...] | None]

EPSILON = 1e-5  # seconds; the reference reader's
PAUSE = "sp"

MAX_OPEN = 4
"""Files that a process keeps open."""
MAX_FRAMES = 4_000_000
"""Of one video: eleven hours at 100 Hz."""
MAX_BYTES = 512 << 20
"""That one read may take: 104 minutes of OpenFace's 713 columns at 30 Hz, in float32."""
MAX_CHUNK_BYTES = 256 << 20
"""Of one chunk, which HDF5 decompresses whole: files may hold a video in one."""
CHUNK_CACHE_BYTES = 32 << 20  # so that a video in one compressed chunk is decompressed once, and not once a clip
REMOTE_BLOCK_BYTES = 1 << 20  # of which fsspec keeps 32 a file


class CsdError(ValueError):
    """A file, or one video in it, that can't be read; says which, what was found and what was expected."""


class _Video(NamedTuple):
    name: str
    text: bool
    intervals: npt.NDArray[np.float64]
    features: h5py.Dataset


class CsdFile:
    """One computational sequence, on a disk or at an fsspec URL, open for reading. Holds the intervals of one video.

    name: of its root group, which says what sequence it is. Raises FileNotFoundError, or CsdError for a file that is none.
    """

    def __init__(self, url: str) -> None:
        self.where = url.rpartition("/")[2]
        self._stack = contextlib.ExitStack()
        self._last: _Video | None = None
        try:
            self._open(url)
        except BaseException:
            self.close()
            raise

    def _open(self, url: str) -> None:
        fs, path = fsspec.core.url_to_fs(url)
        try:
            kind = fs.info(path)["type"]
        except FileNotFoundError:
            kind = "nothing"
        if kind != "file":
            raise FileNotFoundError(f"no such file: {url}")
        source = path
        if "file" not in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
            source = self._stack.enter_context(fs.open(path, block_size=REMOTE_BLOCK_BYTES, cache_type="blockcache"))
        with _hdf5(self.where):
            self._file = h5py.File(source, "r", rdcc_nbytes=CHUNK_CACHE_BYTES, locking=False)
            self._stack.callback(self._file.close)
            roots = _names(self._file)
        if not roots:
            raise CsdError(f"{self.where} is empty, expected a group that is named after the sequence")
        self.name: str = roots[0]
        root = self._group(self._file, self.name)
        if root is None:
            raise CsdError(f"{self.where}: {self.name!r} is no group, expected the sequence's")
        data = self._group(root, "data")
        if data is None:
            raise CsdError(f"{self.where} has no group {self.name}/data, expected the videos there")
        self._root, self._data = root, data

    def close(self) -> None:
        self._last = None
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def videos(self) -> list[str]:
        """Ids of all videos, sorted."""
        with _hdf5(self.where):
            return sorted(_names(self._data))

    def metadata(self, key: str) -> Any:
        """A value of the sequence's metadata; None where it is not there, or is no JSON."""
        group = self._group(self._root, "metadata")
        found = None if group is None else self._dataset(group, key, f"{self.where}, metadata {key!r}")
        if found is None:
            return None
        with _hdf5(self.where):
            if found.shape != (1,) or h5py.check_string_dtype(found.dtype) is None:
                return None
            text = found.asstr(errors="replace")[0]
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return None

    def rows(self, video: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """All intervals (n, 2) and all features (n, d) of a video of few rows, such as labels."""
        *_, intervals, features = self._video(video)
        return intervals, self._read(features, 0, len(intervals), video).astype(np.float64)

    def words(self, video: str) -> tuple[npt.NDArray[np.float64], list[str]]:
        """Intervals (n, 2) and the word of each, pauses among them, of a video in the sequence "words"."""
        *_, intervals, features = self._video(video, text=True)
        found = self._read(features, 0, len(intervals), video).reshape(len(intervals), -1)[:, :1]
        return intervals, [w.decode("utf-8", "replace") if isinstance(w, bytes) else str(w) for w in found.ravel().tolist()]

    def segment(self, video: str, start: float, end: float | None) -> Segment:
        """See read_segment(). Raises CsdError."""
        *_, intervals, features = self._video(video)
        rows, inside = cut(intervals, start, end)
        if not len(rows):
            return np.empty(0), np.empty((0, features.shape[1]), np.float32), None
        low, high = int(rows.min()), int(rows.max()) + 1
        block = self._read(features, low, high, video)
        if not np.array_equal(rows, np.arange(low, high)):  # the file's order is not that of time, or intervals overlap
            block = block[rows - low]
        with np.errstate(over="ignore"):
            values = block.astype(np.float32)
        values[~np.isfinite(values)] = np.nan
        return (inside[:, 0] + inside[:, 1]) / 2, values, None

    def _video(self, video: str, text: bool = False) -> _Video:
        """The last video is kept: clips of one video follow each other."""
        if self._last is not None and self._last[:2] == (video, text):
            return self._last
        self._last = None
        where = f"{self.where}, video {video!r}"
        group = self._group(self._data, video)
        if group is None:
            raise CsdError(f"{where}: there is no such video")
        intervals, features = (self._dataset(group, name, f"{where}, {name}") for name in ("intervals", "features"))
        if intervals is None or features is None:
            raise CsdError(f"{where}: expected the datasets intervals and features, found {_some(group)}")
        with _hdf5(where):
            timed: tuple[int, ...] = intervals.shape or ()
            shape: tuple[int, ...] = features.shape or ()
            is_text = features.dtype.kind == "S" or h5py.check_string_dtype(features.dtype) is not None
            right = is_text if text else features.dtype.kind in "fiu"
            said = f"intervals are {intervals.dtype} {timed}, features {features.dtype} {shape}"
            are_times = intervals.dtype.kind in "fiu" and len(timed) == 2 and timed[1] == 2
        if not are_times:
            raise CsdError(f"{where}: {said}; expected numbers (n, 2) as intervals")
        if len(shape) != 2 or not right:
            raise CsdError(f"{where}: {said}; expected {'text' if text else 'numbers'} (n, d) as features")
        if timed[0] != shape[0]:
            raise CsdError(f"{where}: {timed[0]} intervals and {shape[0]} features, expected as many of both")
        if timed[0] > MAX_FRAMES:
            raise CsdError(f"{where}: claims {timed[0]} frames, expected at most {MAX_FRAMES}")
        read = self._read(intervals, 0, timed[0], video).astype(np.float64)
        self._last = _Video(video, text, read, features)
        return self._last

    def _read(self, dataset: h5py.Dataset, low: int, high: int, video: str) -> npt.NDArray[Any]:
        where = f"{self.where}, video {video!r}"
        size = (high - low) * dataset.shape[1] * dataset.dtype.itemsize
        if size > MAX_BYTES:
            raise CsdError(f"{where}: {high - low} rows would take {size} bytes, expected at most {MAX_BYTES}")
        with _hdf5(where):
            read: npt.NDArray[Any] = dataset[low:high]
        return read

    def _group(self, parent: h5py.Group, name: str) -> h5py.Group | None:
        found = self._member(parent, name, f"{self.where}, {name!r}")
        return found if isinstance(found, h5py.Group) else None

    def _dataset(self, parent: h5py.Group, name: str, where: str) -> h5py.Dataset | None:
        """A dataset whose values are in this file, in pieces that fit into memory."""
        found = self._member(parent, name, where)
        if not isinstance(found, h5py.Dataset):
            return None
        with _hdf5(where):
            elsewhere = found.is_virtual or found.external is not None
            chunk = 0 if elsewhere or not found.chunks else math.prod(found.chunks) * found.dtype.itemsize
        if elsewhere:
            raise CsdError(f"{where}: its values are in other files, expected them in this one")
        if chunk > MAX_CHUNK_BYTES:
            raise CsdError(f"{where}: is in pieces of {chunk} bytes, expected at most {MAX_CHUNK_BYTES}")
        return found

    def _member(self, parent: h5py.Group, name: str, where: str) -> Any:
        """What a group holds under a name, not a path; None where it holds nothing. Links are not followed."""
        if not name or name == "." or "/" in name or "\0" in name:
            return None
        with _hdf5(where):
            links, key = parent.id.links, name.encode(errors="surrogateescape")
            if not links.exists(key):
                return None
            if links.get_info(key).type != h5py.h5l.TYPE_HARD:
                raise CsdError(f"{where} is a link to somewhere else, expected it to be here")
            return parent[key]


def cut(
    intervals: npt.NDArray[np.float64], start: float, end: float | None
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Which intervals (n, 2) lie in a segment, (k,) row numbers, and what of each lies inside, (k, 2) seconds.

    As the reference reader has it: an interval counts where it overlaps the segment, is clipped to it, and is left out
    where no more than 1e-5 s remain, so that neighbours that only touch at a border are in one segment each. In the order
    of the middles of what remains; the reference's order is that of the starts, which differs only where intervals
    overlap each other. Intervals that are no numbers are in no segment. end: None is the end of the video.
    """
    stop = np.inf if end is None else end
    rows = np.flatnonzero((intervals[:, 0] < stop + EPSILON) & (intervals[:, 1] > start - EPSILON))
    begins, ends = np.maximum(intervals[rows, 0], start), np.minimum(intervals[rows, 1], stop)
    counts = np.isfinite(begins) & np.isfinite(ends) & (np.abs(ends - begins) > EPSILON)
    rows, begins, ends = rows[counts], begins[counts], ends[counts]
    order = np.lexsort((intervals[rows, 0], begins + ends))
    return rows[order], np.column_stack([begins, ends])[order]


def read_segment(path: str, video: str, start: float, end: float | None) -> Segment:
    """Frames of one video that overlap a segment: times (n,), values (n, d) float32, and no tokens. None overlap: n is 0.

    Times are the middles of what of each frame lies within the segment (see cut()), in seconds within the video. NaN and
    infinities are missing, NaN. Reads the video's intervals and one slice of its features. Raises ClipError.
    """
    try:
        return _opened(path).segment(video, start, end)
    except (CsdError, FileNotFoundError) as e:
        raise ClipError(str(e)) from e


_open: OrderedDict[tuple[str, int, int], CsdFile] = OrderedDict()


def _opened(url: str) -> CsdFile:
    """The file, which stays open; a local one that was replaced meanwhile is opened anew."""
    there = os.stat(url) if os.path.isfile(url) else None
    key = (url, there.st_mtime_ns, there.st_size) if there else (url, 0, 0)
    if key not in _open:
        for stale in [k for k in _open if k[0] == url]:  # HDF5 takes a file that was written over for the one it has open
            _open.pop(stale).close()
        _open[key] = CsdFile(url)
        while len(_open) > MAX_OPEN:
            _open.popitem(last=False)[1].close()
    _open.move_to_end(key)
    return _open[key]


def _names(group: h5py.Group) -> list[str]:
    """Of a group's members, in order. h5py gives bytes for a name that is not UTF-8."""
    return [name if isinstance(name, str) else name.decode("utf-8", "surrogateescape") for name in group]


def _some(group: h5py.Group) -> str:
    with _hdf5("group"):
        return ", ".join(map(repr, _names(group)[:5])) or "nothing"


@contextlib.contextmanager
def _hdf5(where: str) -> Iterator[None]:
    """What h5py raises on a damaged file, as CsdError: it has no error of its own."""
    try:
        yield
    except CsdError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError, MemoryError) as e:
        said = str(e)[:200].encode("utf-8", "replace").decode()  # it may quote bytes of the file
        raise CsdError(f"{where}: can't be read as HDF5 ({said})") from e
