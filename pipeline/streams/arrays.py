"""Arrays with times, from any program: .npz (NumPy) and .parquet."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.clip import MODALITIES, Clip, ClipError, Modality
from pipeline.streams.imported import MAX_ARRAY_BYTES, MAX_COLUMNS, Importer, Sequence2D, names_of

VALUES = ("values", "features")
TIMES = ("times", "time", "timestamps", "timestamp")

Named = tuple[npt.NDArray[np.float64], npt.NDArray[Any], tuple[str, ...] | None]


@dataclass(frozen=True)
class Array(Importer):
    """Sequences of one's own, at any rate.

    A .npz file (numpy.savez) holds `values` or `features` (n, F), `times` or `timestamps` (n,) in seconds from the start of
    the recording, the middle of each frame, and perhaps `columns`, F names. A .parquet file has a column of times, called
    `times`, `time`, `timestamps` or `timestamp`, and a column of numbers for each feature. NaN is "not observed".

    modality: audio, vision or text; must be given. columns: names; none means all, as the first clip's file has them, which
    fixes the columns of the stream. Files whose columns have names are read by them, others must have as many.

    For several streams of a store: --streams wav2vec=array,clip=array --set wav2vec.modality=audio ...
    """

    modality: Modality = ""  # type: ignore[assignment, misc]  # an option here, of the class elsewhere
    columns: tuple[str, ...] = ()

    name: ClassVar[str] = "array"
    version: ClassVar[str] = "1"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "of whatever made the arrays"
    suffixes: ClassVar[tuple[str, ...]] = (".npz", ".parquet")

    def __post_init__(self) -> None:
        if self.modality not in MODALITIES:
            raise ValueError(f"array: modality is {self.modality!r}, expected {', '.join(MODALITIES[:-1])} or {MODALITIES[-1]}")
        object.__setattr__(self, "columns", names_of(self.columns))

    def settled(self, clips: Iterable[Clip]) -> Self:
        made = super().settled(clips)
        if made.columns:
            return made

        def names(data: bytes, path: str) -> tuple[str, ...]:
            _, values, given = _read(data, path, ())
            return given or tuple(f"{made.name}_{i:03d}" for i in range(values.shape[1]))

        return made.changed(columns=made.of_first_file(clips, names))

    def parse(self, data: bytes, path: str, deadline: Callable[[], None]) -> Sequence2D:
        file = path.rpartition("/")[2]
        times, values, names = _read(data, path, self.columns)
        if names is None:
            if values.shape[1] != len(self.columns):
                raise ClipError(
                    f"{file} has {values.shape[1]} columns, expected {len(self.columns)}, as in the first clip's file"
                )
        elif names != self.columns:
            if missing := [name for name in self.columns if name not in names]:
                raise ClipError(f"{file} has no column {', '.join(missing[:5])}: it has {', '.join(names[:5])}, ...")
            values = values[:, [names.index(name) for name in self.columns]]
        with np.errstate(over="ignore"):  # what float32 can't hold becomes infinite, and NaN
            return Sequence2D(times, values.astype(np.float32))


def _read(data: bytes, path: str, columns: Sequence[str]) -> Named:
    """Times, values and the columns' names, where they have any. columns: those that are wanted, all where there are none."""
    name = path.rpartition("/")[2]
    if path.lower().endswith(".parquet"):
        return _from_parquet(data, name, columns)
    if path.lower().endswith(".npz"):
        return _from_npz(data, name)
    raise ClipError(f"{name}: expected a .npz or .parquet file")


# ---------------------------------------------------------------------------------------------------------------- .npz


def _from_npz(data: bytes, name: str) -> Named:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            values = _member(archive, members, VALUES, name)
            times = _member(archive, members, TIMES, name)
            names = _member(archive, members, ("columns",), name) if "columns" in members else None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as e:
        raise ClipError(f"{name} can't be read as a .npz file: {e}") from e
    if values.ndim != 2 or values.dtype.kind not in "fiub" or times.ndim != 1 or times.dtype.kind not in "fiu":
        found = f"found {_kind(values)} and {_kind(times)}"
        raise ClipError(f"{name}: expected values (frames, columns) and times (frames,), in numbers; {found}")
    if len(values) != len(times):
        raise ClipError(f"{name}: {len(values)} rows of values and {len(times)} times, expected one time a row")
    given = None
    if names is not None:
        if names.dtype.kind != "U" or names.shape != values.shape[1:]:
            raise ClipError(f"{name}: columns is {_kind(names)}, expected {values.shape[1]} strings")
        try:
            given = tuple(str(n) for n in names)
        except ValueError as e:
            raise ClipError(f"{name}: columns holds what is no text: {e}") from e
    return times.astype(np.float64), values, _checked(given, values.shape[1], name)


def _member(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], names: Sequence[str], file: str) -> npt.NDArray[Any]:
    found = next((name for name in names if name in members), None)
    if found is None:
        raise ClipError(f"{file} has no {' or '.join(names)}: it holds {', '.join(sorted(members)[:10]) or 'nothing'}")
    info = members[found]
    if info.file_size > MAX_ARRAY_BYTES:  # what is declared is also the most that is unpacked
        raise ClipError(f"{file}: {found} has {info.file_size} bytes, expected at most {MAX_ARRAY_BYTES}")
    return _from_npy(archive.read(info), f"{file}: {found}")


def _from_npy(data: bytes, what: str) -> npt.NDArray[Any]:
    """An array of numbers or strings. Nothing is allocated that the bytes don't hold."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as e:
        raise ClipError(f"{what} is no array of NumPy: {str(e)[:200]}") from e
    if dtype.hasobject:
        raise ClipError(
            f"{what} holds Python objects, which are pickles and could run code when loaded: save it with its numbers as "
            "float32 and its names as strings, numpy.savez(file, values=values.astype('float32'), ...)"
        )
    n, begin = math.prod(shape), stream.tell()
    if dtype.itemsize * n != len(data) - begin or not dtype.itemsize or any(side < 0 for side in shape):
        raise ClipError(f"{what} declares {dtype} of shape {shape}, and holds {len(data) - begin} bytes")
    flat = np.frombuffer(data, dtype, n, begin) if n else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _kind(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"


# ------------------------------------------------------------------------------------------------------------ .parquet


def _from_parquet(data: bytes, name: str, columns: Sequence[str]) -> Named:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        schema = file.schema_arrow
        clock = next((n for n in TIMES if n in schema.names), None)
        if clock is None:
            raise ClipError(f"{name}: no column {' or '.join(TIMES)}: it has {', '.join(schema.names[:10])}")
        wanted = [n for n in columns or schema.names if n != clock and not n.startswith("__index_level_")]  # of pandas
        for column in (clock, *wanted):
            _check_column(schema, column, name)
        _checked(wanted, len(wanted), name)
        rows = file.metadata.num_rows
        if rows * (len(wanted) + 1) * 8 > MAX_ARRAY_BYTES:
            raise ClipError(f"{name} declares {rows} rows of {len(wanted)} columns, expected at most {MAX_ARRAY_BYTES} bytes")
        table = file.read([clock, *wanted], use_threads=False)
        times = table[clock].cast(pa.float64()).to_numpy()
        values = np.empty((len(table), len(wanted)), np.float32)
        for i, column in enumerate(wanted):
            values[:, i] = table[column].cast(pa.float32(), safe=False).to_numpy()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:  # the last of the names of its columns
        raise ClipError(f"{name} can't be read as a .parquet file: {str(e)[:200]}") from e
    return times, values, tuple(wanted)


def _check_column(schema: pa.Schema, column: str, name: str) -> None:
    if schema.names.count(column) != 1:
        found = "several columns" if column in schema.names else "no column"
        raise ClipError(f"{name} has {found} {column}: it has {', '.join(schema.names[:10])}")
    kind = schema.field(column).type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        raise ClipError(f"{name}: column {column} holds lists: expected a column of numbers for each feature")
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise ClipError(f"{name}: column {column} is {kind}, expected numbers; the option columns names those that are wanted")


def _checked(names: Sequence[str] | None, n: int, file: str) -> tuple[str, ...] | None:
    if not 0 < n <= MAX_COLUMNS:
        raise ClipError(f"{file} has {n} columns of features, expected 1 to {MAX_COLUMNS}")
    if names is not None and len(set(names)) < len(names):
        raise ClipError(f"{file}: the name of a column comes twice")
    return None if names is None else tuple(names)
