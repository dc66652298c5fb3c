"""Walking a source of media files, on disk or in a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator

import fsspec

MEDIA_SUFFIXES = frozenset(
    ".3gp .aac .aif .aiff .amr .asf .au .avi .caf .dv .flac .flv .m4a .m4v .mkv .mka .mov .mp3 .mp4 .mpeg .mpg .mts .m2ts .mxf "
    ".oga .ogg .ogv .opus .ts .vob .w64 .wav .webm .wma .wmv".split()
)


def is_remote(url: str) -> bool:
    return "://" in url and not url.startswith("file://")


def media_files(source: str) -> Iterator[tuple[str, str]]:
    """Every media file below the source, as (path relative to the source, address), ordered by relative path.

    Hidden files and folders are left out. Raises FileNotFoundError where the source is not a folder that can be listed.
    """
    fs, root = fsspec.core.url_to_fs(source if is_remote(source) else os.path.abspath(source.removeprefix("file://")))
    root = root.rstrip("/")
    if not fs.isdir(root):
        raise FileNotFoundError(f"no such folder: {source}")
    for path in sorted(fs.find(root)):
        relative = path[len(root) + 1 :]
        parts = relative.split("/")
        if any(p.startswith(".") for p in parts) or os.path.splitext(relative)[1].lower() not in MEDIA_SUFFIXES:
            continue
        yield relative, (fs.unstrip_protocol(path) if is_remote(source) else path)
