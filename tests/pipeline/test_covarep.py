"""COVAREP's files, written with SciPy, h5py and the csv module."""

from __future__ import annotations

import csv
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from csd_files import write_csd
from scipy.io import savemat

from pipeline.clip import Clip
from pipeline.extract import extract_rows
from pipeline.store import ClipRow
from pipeline.streams import make_stream
from pipeline.streams.covarep import COLUMNS

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(30, 74))
CELL = np.array([*COLUMNS], dtype=object)[None]  # a 1 x 74 cell array of strings, as COVAREP saves it


def extract(path: Path | str) -> ClipRow:
    return extract_rows(make_stream("covarep", {"files": str(path)}), [Clip("c", "")])[0]


def values(path: Path | str) -> np.ndarray:
    result = extract(path)
    assert result.features is not None, result.reason
    return result.features.values


def reason(path: Path | str) -> str:
    result = extract(path)
    assert result.status == "error"
    return str(result.reason)


def save_v73(path: Path, **variables: np.ndarray) -> Path:
    """As MATLAB's save -v7.3: HDF5 behind a block of 512 bytes, arrays transposed, strings as references to UTF-16."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in variables.items():
            if array.dtype == object:
                cells = np.empty(array.shape[::-1], h5py.ref_dtype)
                for i, text in enumerate(array.ravel()):
                    codes = np.array([[ord(c)] for c in text], np.uint16)
                    cells.ravel()[i] = file.create_dataset(f"#refs#/{name}{i}", data=codes).ref
                file.create_dataset(name, data=cells, dtype=h5py.ref_dtype)
            else:
                file.create_dataset(name, data=array.T, compression="gzip")
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\x02IM")
    return path


def save(path: Path, version: str, **variables: Any) -> Path:
    if version == "7.3":
        return save_v73(path, **variables)
    savemat(path, variables, do_compression=version == "7")
    return path


def test_the_columns_are_covareps() -> None:
    assert len(COLUMNS) == 74
    assert COLUMNS[:12] == tuple("F0 VUV NAQ QOQ H1H2 PSP MDQ peakSlope Rd Rd_conf creak MCEP_0".split())
    assert COLUMNS[-1] == "HMPDD_12"


@pytest.mark.parametrize("version", ["5", "7", "7.3"])
def test_features_of_every_version_of_mat_files(tmp_path: Path, version: str) -> None:
    result = extract(save(tmp_path / "a.mat", version, features=FEATURES))
    assert result.features is not None, result.reason
    assert np.array_equal(result.features.values, FEATURES.astype(np.float32))
    assert result.features.times == pytest.approx(0.005 + 0.01 * np.arange(30))


@pytest.mark.parametrize("version", ["5", "7", "7.3"])
def test_columns_are_found_by_name(tmp_path: Path, version: str) -> None:
    order = RNG.permutation(74)
    more = np.concatenate([FEATURES[:, order], np.ones((30, 1))], axis=1)
    names = np.append(CELL[:, order], [["of one's own"]], axis=1)
    path = save(tmp_path / "a.mat", version, features=more, names=names)
    assert np.array_equal(values(path), FEATURES.astype(np.float32))
    old = np.array([["F0", "VUV", *(f"MFCC_{i}" for i in range(33))]], dtype=object)
    path = save(tmp_path / "b.mat", version, features=FEATURES[:, :35], names=old)
    assert "has no column NAQ, QOQ, H1H2 and 69 more: expected COVAREP's 74" in reason(path)


def test_csv_with_and_without_a_header(tmp_path: Path) -> None:
    order = RNG.permutation(74)
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows(FEATURES)
    with (tmp_path / "b.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[COLUMNS[i] for i in order], *FEATURES[:, order]])
    for name in ("a.csv", "b.csv"):
        assert np.array_equal(values(tmp_path / name), FEATURES.astype(np.float32))
    (tmp_path / "c.csv").write_text("1,2,3\n4,5,6\n")
    assert "has 3 columns and no names, expected COVAREP's 74" in reason(tmp_path / "c.csv")
    (tmp_path / "d.csv").write_text("time,f0_SRH\n0.005,1\n")
    assert "expected COVAREP's numbers, or a header with F0" in reason(tmp_path / "d.csv")


def test_what_is_not_finite_is_not_observed_and_unvoiced_frames_stay(tmp_path: Path) -> None:
    features = FEATURES.copy()
    features[3, 5], features[4, 6], features[5, 7] = np.nan, np.inf, -np.inf
    features[7, :2] = 0
    found = values(save(tmp_path / "a.mat", "5", features=features))
    assert np.argwhere(np.isnan(found)).tolist() == [[3, 5], [4, 6], [5, 7]]
    assert found[7, :2].tolist() == [0, 0]
    times = np.column_stack([np.arange(30), np.arange(30) + 1]) / 100
    sequence = write_csd(tmp_path / "c.csd", "COVAREP", {"v": (times, features), "w": (times, features[:, 1:])})
    assert np.array_equal(values(f"{sequence}#v"), found, equal_nan=True)
    assert "has 73 columns, expected 74 of COVAREP" in reason(f"{sequence}#w")


@pytest.mark.parametrize("version", ["5", "7", "7.3"])
def test_variables_that_are_no_features_are_named(tmp_path: Path, version: str) -> None:
    path = tmp_path / "a.mat"
    assert "features" in reason(save(path, version, other=FEATURES))
    assert "expected an array (frames, 74) of numbers" in reason(save(path, version, features=CELL))
    assert "has 73 columns and no names" in reason(save(path, version, features=FEATURES[:, 1:]))
    assert extract(save(path, version, features=FEATURES, names=FEATURES)).status == "ok"  # no names then
    if version != "7.3":
        assert "features is no array of real numbers" in reason(save(path, version, features=FEATURES * 1j))
        assert "expected an array" in reason(save(path, version, features={"a": 1}))
        assert "of shape (2, 3, 4), expected an array" in reason(save(path, version, features=np.ones((2, 3, 4))))


@pytest.mark.parametrize("version", ["5", "7", "7.3"])
def test_damaged_files_are_rows_and_never_crashes(tmp_path: Path, version: str) -> None:
    whole = save(tmp_path / "a.mat", version, features=FEATURES, names=CELL).read_bytes()
    path = tmp_path / "b.mat"
    for end in (1, 100, 128, 129, 200, 600, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert extract(path).status in ("error", "ok"), end
    for seed in range(60):
        damaged = bytearray(whole)
        at = np.random.default_rng(seed)
        for place in at.integers(0, len(whole), 8):
            damaged[place] = at.integers(256)
        path.write_bytes(damaged)
        assert extract(path).status in ("error", "ok"), seed
    path.write_bytes(whole[: len(whole) // 2])
    assert "can't be read as a .mat file" in reason(path)
    path.write_bytes(b"no MATLAB file at all, but text that is long enough to hold its header. " * 5)
    assert "is no .mat file of MATLAB 5 to 7.3" in reason(path)


def test_huge_declared_sizes_are_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    whole = bytearray(save(tmp_path / "a.mat", "5", features=FEATURES).read_bytes())
    at = whole.index(struct.pack("<2i", 30, 74))
    whole[at : at + 8] = struct.pack("<2i", 2**31 - 1, 74)
    (tmp_path / "b.mat").write_bytes(whole)
    assert "expected at most" in reason(tmp_path / "b.mat")
    header = whole[:128]
    packed = zlib.compress(bytes(whole[128:]))
    (tmp_path / "c.mat").write_bytes(header + struct.pack("<2i", 15, len(packed)) + packed)
    assert "expected at most" in reason(tmp_path / "c.mat")
    with h5py.File(tmp_path / "d.mat", "w", userblock_size=512) as file:
        file.create_dataset("features", (74, 1 << 40), np.float64, chunks=(74, 1000), compression="gzip")
    with (tmp_path / "d.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(128))
    assert "expected at most" in reason(tmp_path / "d.mat")


def test_no_other_file_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["features"] = FEATURES.T
    raw = tmp_path / "secret.bin"
    raw.write_bytes(FEATURES.tobytes())
    for kind in ("link", "soft", "external", "virtual"):
        path = tmp_path / f"{kind}.mat"
        with h5py.File(path, "w", userblock_size=512) as file:
            if kind == "link":
                file["features"] = h5py.ExternalLink(str(secret), "features")
            elif kind == "soft":
                file["there"] = h5py.ExternalLink(str(secret), "/")
                file["features"] = h5py.SoftLink("/there/features")
            elif kind == "external":
                file.create_dataset("features", (74, 30), "f8", external=[(str(raw), 0, h5py.h5f.UNLIMITED)])
            else:
                layout = h5py.VirtualLayout((74, 30), "f8")
                layout[:] = h5py.VirtualSource(str(secret), "features", shape=(74, 30))
                file.create_virtual_dataset("features", layout)
        content = io.BytesIO(path.read_bytes())
        content.write(b"MATLAB 7.3 MAT-file".ljust(128))
        path.write_bytes(content.getvalue())
        assert "has no array `features`" in reason(path), kind
