"""COVAREP's features (Degottex et al. 2014): .mat files as COVAREP_feature_extraction.m writes them, or CSV."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.clip import ClipError, Modality
from pipeline.streams.imported import (
    MAX_ARRAY_BYTES,
    MAX_COLUMNS,
    Importer,
    Sequence2D,
    bare_table,
    is_number,
    open_table,
)

RATE = 100  # frames a second

# Of MATLAB 5's files: types of data elements, and classes of matrices.
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 17: "u2", 18: "u4"}
MATRIX, COMPRESSED, UTF8 = 14, 15, 16
CELL, NUMERIC = 1, range(6, 16)
COLUMNS = (
    *"F0 VUV NAQ QOQ H1H2 PSP MDQ peakSlope Rd Rd_conf creak".split(),
    *(f"MCEP_{i}" for i in range(25)),
    *(f"HMPDM_{i}" for i in range(25)),
    *(f"HMPDD_{i}" for i in range(13)),
)


@dataclass(frozen=True)
class Covarep(Importer):
    """COVAREP's 74 features of voice quality and spectrum, 100 frames a second.

    A .mat file (MATLAB 5 to 7.3) holds `features` (n, 74) and perhaps `names`; a CSV has 74 columns and perhaps a header. With
    names, columns are found by them and others are ignored; without, they are in COVAREP's order.

    Frame i is at (i + 0.5) / 100 s: COVAREP samples its features every 10 ms, the first time after 5 ms. What is not finite is
    NaN; but COVAREP itself writes 0 where it could not tell, which can't be told from a value. Unvoiced frames (VUV 0) are
    kept as they are.
    """

    name: ClassVar[str] = "covarep"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "audio"
    frame_shift: ClassVar[float | None] = 1 / RATE
    licence: ClassVar[str] = "COVAREP: LGPL-3.0 and the licences of its parts"
    suffixes: ClassVar[tuple[str, ...]] = (".mat", ".csv")
    sequence: ClassVar[tuple[str, int] | None] = ("COVAREP", 74)

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS

    def parse(self, data: bytes, path: str, deadline: Callable[[], None]) -> Sequence2D:
        values = _from_csv(data, path, deadline) if path.lower().endswith(".csv") else _from_mat(data, path)
        return Sequence2D((np.arange(len(values)) + 0.5) / RATE, values)


def _from_csv(data: bytes, path: str, deadline: Callable[[], None]) -> npt.NDArray[np.float32]:
    table = bare_table(data, path)
    names: Sequence[str] | None = None
    if not any(is_number(field) for field in table.first()):
        table = open_table(data, path, lambda header: "F0" in header, "COVAREP's numbers, or a header with F0 and the others")
        names = table.header
    return table.read(deadline, _places(names, len(table.header), table.name)).values


def _from_mat(data: bytes, path: str) -> npt.NDArray[np.float32]:
    name = path.rpartition("/")[2]
    read = _from_hdf5 if data[:10] == b"MATLAB 7.3" else _from_mat5
    try:
        features, names = read(data, name)
    except ClipError:
        raise
    except Exception as e:  # of a file that is damaged or made to do harm, HDF5 and zlib raise nearly anything
        raise ClipError(f"{name} can't be read as a .mat file: {type(e).__name__}: {str(e)[:200]}") from e
    with np.errstate(over="ignore", invalid="ignore"):  # what float32 can't hold becomes infinite, and NaN
        return features[:, _places(names, features.shape[1], name)].astype(np.float32)


def _places(names: Sequence[str] | None, n: int, file: str) -> list[int]:
    """Where each of COLUMNS is."""
    if names is None:
        if n != len(COLUMNS):
            raise ClipError(f"{file} has {n} columns and no names, expected COVAREP's {len(COLUMNS)}")
        return list(range(n))
    place = {name: i for i, name in enumerate(names)}
    if missing := [name for name in COLUMNS if name not in place]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ClipError(f"{file} has no column {', '.join(missing[:3])}{more}: expected COVAREP's {len(COLUMNS)}")
    return [place[name] for name in COLUMNS]


def _from_mat5(data: bytes, name: str) -> tuple[npt.NDArray[Any], list[str] | None]:
    """Of a file of MATLAB 5 to 7 (MathWorks, "MAT-File Format").

    It is read here and not by scipy.io.loadmat, which damaged files make crash, and which unpacks without bound.
    """
    if data[126:128] != b"IM":  # little-endian, as on every machine that MATLAB still runs on
        raise ClipError(f"{name} is no .mat file of MATLAB 5 to 7.3")
    features, names = None, None
    for kind, body in _elements(memoryview(data)[128:]):
        head = memoryview(zlib.decompressobj().decompress(body, 1024))[8:] if kind == COMPRESSED else body
        if kind not in (COMPRESSED, MATRIX) or not len(head):
            continue
        variable, sort, shape, _ = _matrix(head)
        if variable == "features":
            _check(name, shape, 8, sort in NUMERIC, "no array of real numbers")
            *_, parts = _matrix(_unpacked(body, kind, math.prod(shape) * 8))
            features = _numbers(*next(parts)).reshape(shape, order="F")
        elif variable == "names" and sort == CELL and math.prod(shape) <= MAX_COLUMNS:
            *_, parts = _matrix(_unpacked(body, kind, MAX_COLUMNS * 128))
            names = [_mat5_string(cell) for _, cell in parts]
    if features is None:
        raise ClipError(f"{name} has no array `features`")
    return features, names if names and len(names) == features.shape[1] else None


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each data element."""
    place = 0
    while place < len(data):
        first, size = struct.unpack_from("<2I", data, place)
        if first >> 16:  # a short one, within its own tag
            kind, size, begin, after = first & 0xFFFF, min(first >> 16, 4), place + 4, place + 8
        else:
            kind, begin = first, place + 8
            after = begin + size + (0 if kind == COMPRESSED else -size % 8)
        if begin + size > len(data):
            raise ValueError(f"the file is cut off: an element of {size} bytes, of which {len(data) - begin} are there")
        yield kind, data[begin : begin + size]
        place = after


def _matrix(body: memoryview) -> tuple[str, int, tuple[int, ...], Iterator[tuple[int, memoryview]]]:
    """Name, class (0 where its numbers are complex) and shape of a matrix, and the elements that hold its content."""
    parts = _elements(body)
    flags = int(_numbers(*next(parts))[0])
    shape = tuple(int(side) for side in _numbers(*next(parts)))
    name = bytes(next(parts)[1]).decode("latin-1")
    if any(side < 0 for side in shape):
        raise ValueError(f"{name} has the shape {shape}")
    return name, 0 if flags & 0x0800 else flags & 0xFF, shape, parts


def _numbers(kind: int, data: memoryview) -> npt.NDArray[Any]:
    return np.frombuffer(data, "<" + TYPES[kind])


def _unpacked(body: memoryview, kind: int, size: int) -> memoryview:
    """A matrix, whose content has `size` bytes at most."""
    return memoryview(zlib.decompressobj().decompress(body, size + 1024))[8:] if kind == COMPRESSED else body


def _mat5_string(cell: memoryview) -> str:
    *_, parts = _matrix(cell)
    kind, text = next(parts)
    return bytes(text).decode() if kind == UTF8 else "".join(chr(code) for code in _numbers(kind, text))


def _from_hdf5(data: bytes, name: str) -> tuple[npt.NDArray[Any], list[str] | None]:
    with h5py.File(io.BytesIO(data), "r") as file:
        features = _dataset(file, "features")
        if features is None:
            raise ClipError(f"{name} has no array `features`")
        shape = features.shape[::-1]  # MATLAB writes the transpose
        _check(name, shape, features.dtype.itemsize, features.dtype.kind in "fiu", str(features.dtype))
        cells = _dataset(file, "names")
        names = None
        if cells is not None and h5py.check_ref_dtype(cells.dtype) is h5py.Reference and cells.size == shape[1]:
            names = [_string(file[cell]) for cell in cells[()].ravel()]
        return features[()].T, names


def _dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """A dataset of the file itself: what is kept in other files is not looked at."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return None
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        return None
    return found


def _string(cell: Any) -> str:
    plain = (
        isinstance(cell, h5py.Dataset)
        and cell.dtype == np.uint16
        and cell.size <= 100
        and not (cell.external or cell.is_virtual)
    )
    return "".join(chr(code) for code in cell[()].ravel()) if plain else ""


def _check(name: str, shape: tuple[int, ...], itemsize: int, numeric: bool, kind: str) -> None:
    if not numeric or len(shape) != 2:
        raise ClipError(f"{name}: features is {kind} of shape {shape}, expected an array (frames, {len(COLUMNS)}) of numbers")
    if shape[1] > MAX_COLUMNS or shape[0] * shape[1] * itemsize > MAX_ARRAY_BYTES:
        raise ClipError(f"{name}: features has the shape {shape}, expected at most {MAX_ARRAY_BYTES} bytes")
