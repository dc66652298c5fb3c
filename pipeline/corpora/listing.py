"""Walking a source of media files, on disk or in a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import fsspec

from pipeline.corpora.base import Problem, Report
from pipeline.files import is_remote

MEDIA_SUFFIXES = frozenset(
    ".3gp .aac .aif .aiff .amr .asf .au .avi .caf .dv .flac .flv .m4a .m4v .mkv .mka .mov .mp3 .mp4 .mpeg .mpg .mts .m2ts .mxf "
    ".oga .ogg .ogv .opus .ts .vob .w64 .wav .webm .wma .wmv".split()
)


def suffix_of(address: str) -> str:
    return os.path.splitext(address)[1].lower()


def media_files(source: str, report: Report) -> Iterator[tuple[str, str]]:
    """Every media file below the source, as (path relative to the source, address), ordered by relative path.

    Hidden files and folders are left out; a name that is not UTF-8 is reported, for no table could hold it. Raises
    FileNotFoundError where the source is not a folder that can be listed.
    """
    return only_media(all_files(source), report)


def all_files(source: str) -> list[tuple[str, str]]:
    """Every file below the source, as media_files() gives them: one listing, however many files there are."""
    if is_remote(source):
        fs, root = fsspec.core.url_to_fs(source.rstrip("/"))
        found = fs.find(root)
        if not found:
            raise FileNotFoundError(f"nothing below {source}")
        pairs = [(path[len(root.rstrip("/")) + 1 :], fs.unstrip_protocol(path)) for path in found]
    else:
        root = os.path.abspath(source.removeprefix("file://"))
        if not os.path.isdir(root):
            raise FileNotFoundError(f"no such folder: {source}")
        pairs = [(os.path.relpath(path, root), path) for path in _walk(root)]
    return sorted(pair for pair in pairs if not any(part.startswith(".") for part in pair[0].split("/")))


def only_media(files: Iterable[tuple[str, str]], report: Report) -> Iterator[tuple[str, str]]:
    """Of all_files(), those that are recordings by their suffix."""
    for relative, address in files:
        if suffix_of(relative) in MEDIA_SUFFIXES:
            try:
                address.encode()
            except UnicodeEncodeError:
                name = os.fsencode(relative).decode(errors="backslashreplace")
                report(Problem("broken", name, "the file's name is not UTF-8, and it is no clip: rename it"))
                continue
            yield relative, address


def files_in(folder: str) -> list[str]:
    """Addresses of the files directly in a folder, by one listing; none where it can't be listed."""
    try:
        if is_remote(folder):
            fs, root = fsspec.core.url_to_fs(folder)
            return [fs.unstrip_protocol(path) for path in fs.ls(root, detail=False)]
        with os.scandir(folder) as entries:
            return [f"{folder.rstrip('/')}/{entry.name}" for entry in entries]
    except (FileNotFoundError, NotADirectoryError, PermissionError, ValueError):  # ValueError: a NUL in its name
        return []


def _walk(root: str) -> Iterator[str]:
    """Files below a folder, through links to folders (corpora are often linked together), each real folder once."""
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        yield from (os.path.join(folder, name) for name in files)
