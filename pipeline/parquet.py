"""Parquet files in a Folder."""

from __future__ import annotations

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import Folder


def parquet_bytes(table: pa.Table, row_group_size: int | None = None, compression: str = "none") -> bytes:
    # Features are not compressed: general codecs gain a tenth on float32 and cost the zero-copy read.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=row_group_size, compression=compression, use_dictionary=False)
    return bytes(sink.getvalue())


def open_parquet(folder: Folder, name: str, whole: bool = True) -> pq.ParquetFile:
    """A file, to be read whole or, of a large one, some of its row groups: of a bucket's, no more than these are fetched."""
    if folder.local:
        return pq.ParquetFile(f"{folder.url.removeprefix('file://')}/{name}", memory_map=True)
    if whole:
        return pq.ParquetFile(pa.BufferReader(folder.read(name)))
    fs, path = fsspec.core.url_to_fs(f"{folder.url}/{name}")
    return pq.ParquetFile(fs.open(path, "rb", cache_type="none"), pre_buffer=True)  # a row group by one request
