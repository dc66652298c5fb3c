"""Files on a disk or in a bucket: list them, read them, and write them whole or not at all.

How a bucket is spoken to, and what is tried again, says pipeline.s3, which is registered here for s3:// addresses.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import fsspec
import fsspec.asyn
import pyarrow.fs

SWEEP_AFTER = 3600.0  # seconds
TEMPORARY = re.compile(r"^\..*\.tmp-[0-9a-f]{32}$")

REMOTE_SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
POINTER = b"version https://git-lfs"
S3_SCHEMES = ("s3", "s3a")
CHECK_SECONDS, CHECK_ATTEMPTS = 30.0, 5
A_POINTER = "a git-lfs pointer, not the file: run `git lfs pull` where it came from"

for _scheme in S3_SCHEMES:
    fsspec.register_implementation(_scheme, "pipeline.s3.S3", clobber=True)


DISK_ERRORS = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS))
"""Of an OSError: the disk is full, its user's share of it is, or it is read-only."""


class StorageError(Exception):
    """A bucket can't be used, whatever is asked of it: it was not reached, was too busy for too long, or refused who asks; or a
    disk is full or read-only. Its text is one line that names the address. Nothing is wrong with any clip, and what was written
    is there."""


def is_remote(url: str) -> bool:
    return "://" in url and not url.startswith("file://")


def can_be_read(address: str) -> bool:
    """Whether an address that a manifest names is a path, or in a bucket: fsspec would call any host, and read files in files
    (a::b)."""
    scheme, separator, _ = address.partition("://")
    return "::" not in address and (not separator or scheme == "file" or scheme in REMOTE_SCHEMES)


def readable() -> str:
    """What can_be_read() wants, for errors."""
    return f"expected a path or one of {', '.join(sorted(REMOTE_SCHEMES))}://"


def check_buckets(*addresses: str) -> None:
    """Ask the buckets of the given addresses for their listing, before anything is started that costs; others pass.

    Raises StorageError where one can't be reached within CHECK_SECONDS or refuses the credentials, PermissionError where it
    may not be listed, FileNotFoundError where there is none of that name, ValueError for an address that holds a password.
    """
    for address in addresses:
        scheme, separator, rest = address.partition("://")
        bucket, _, key = rest.partition("/")
        if "@" in bucket:  # pyarrow would take it, and it would be in a run's record
            raise ValueError(f"expected {scheme}://BUCKET/..., found credentials in the address: set AWS_ACCESS_KEY_ID instead")
        if not separator or scheme not in S3_SCHEMES:
            continue
        fs = fsspec.filesystem("s3", config_kwargs={"retries": {"total_max_attempts": CHECK_ATTEMPTS, "mode": "standard"}})
        try:
            fs.check(bucket, key, CHECK_SECONDS)
        except fsspec.asyn.FSTimeoutError:
            raise StorageError(f"{address}: no answer within {CHECK_SECONDS:g} s") from None


def ray_storage(url: str) -> dict[str, Any]:
    """storage_path and storage_filesystem of Ray Train and Tune for a path or URL: on S3 the file system of all others, since
    pyarrow's own gives up after three attempts."""
    if url.partition("://")[0] not in S3_SCHEMES:
        return {"storage_path": url}
    fs, path = fsspec.core.url_to_fs(url)
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))}


def read_head(address: str, n: int) -> bytes:
    """The first n bytes of a file, fewer where it has no more. Raises as read_whole()."""
    _, read = _regular(address)
    return read(n)


def read_whole(address: str, limit: int) -> bytes:
    """A file of at most so many bytes, at an address that can_be_read().

    Raises FileNotFoundError and what else the file system raises; ValueError, whose text says why without naming the file,
    where it is too large, no regular file, a git-lfs pointer, or at an address of another kind.
    """
    size, read = _regular(address)
    if size > limit:
        raise ValueError(f"has {size} bytes, expected at most {limit}")
    data = read(size)
    if data.startswith(POINTER):
        raise ValueError(A_POINTER)
    return data


def _regular(address: str) -> tuple[int, Callable[[int], bytes]]:
    """A file's size, and what reads its first bytes."""
    if not can_be_read(address):
        raise ValueError(readable())
    if not is_remote(address):
        return regular_file(address.removeprefix("file://"))
    fs, path = fsspec.core.url_to_fs(address)
    size = int(fs.info(path)["size"])

    def read(n: int) -> bytes:
        return bytes(fs.cat_file(path, start=0, end=min(n, size))) if min(n, size) else b""

    return size, read


def regular_file(path: str) -> tuple[int, Callable[[int], bytes]]:
    """The same of a path of this machine, whatever it holds. Raises OSError, or ValueError for what is no regular file."""
    about = os.stat(path)  # asked before opening, which a pipe would never answer
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a file but a folder, a pipe or a device")

    def read(n: int) -> bytes:
        with open(path, "rb") as file:
            return file.read(n)

    return about.st_size, read


@dataclass(frozen=True)
class Folder:
    """A folder of a file system, or a prefix of a bucket, named by a path or an fsspec URL."""

    url: str

    def _resolve(self) -> tuple[Any, str]:
        fs, path = fsspec.core.url_to_fs(self.url)
        return fs, path.rstrip("/")

    @property
    def local(self) -> bool:
        return not is_remote(self.url)

    def at(self, *parts: str) -> Folder:
        return Folder("/".join((self.url.rstrip("/"), *parts)))

    def exists(self, name: str) -> bool:
        fs, path = self._resolve()
        return bool(fs.exists(f"{path}/{name}"))

    def names(self, suffix: str = "") -> list[str]:
        """Names directly inside, sorted; none where the folder does not exist. What is being written is not listed."""
        fs, path = self._resolve()
        fs.invalidate_cache()
        try:
            found = fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
        names = (entry.rstrip("/").rpartition("/")[2] for entry in found)
        return sorted(n for n in names if n.endswith(suffix) and not TEMPORARY.match(n))

    def read(self, name: str) -> bytes:
        fs, path = self._resolve()
        return bytes(fs.cat_file(f"{path}/{name}"))

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all: rename on a file system, one object on a store. Replaces what was there. Raises
        StorageError where the disk is full or can't be written to."""
        fs, path = self._resolve()
        if not self.local:
            fs.pipe_file(f"{path}/{name}", data)
            return
        temporary = f"{path}/.{name}.tmp-{uuid.uuid4().hex}"
        try:
            os.makedirs(path, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, f"{path}/{name}")
        except BaseException as e:
            if os.path.exists(temporary):
                os.unlink(temporary)
            if isinstance(e, OSError) and e.errno in DISK_ERRORS:
                raise StorageError(f"{path}/{name}: {e.strerror}") from e
            raise

    def remove(self, name: str) -> None:
        """Delete a file. Raises FileNotFoundError where it is not there."""
        fs, path = self._resolve()
        fs.rm_file(f"{path}/{name}")

    def sweep(self) -> int:
        """Delete what a killed write() left behind; returns how many. What is young may be another's that still writes. In a
        bucket these are the parts of large objects, at any depth below."""
        fs, path = self._resolve()
        if not self.local:
            return int(fs.sweep(path, SWEEP_AFTER)) if hasattr(fs, "sweep") else 0
        swept = 0
        for name in os.listdir(path) if os.path.isdir(path) else ():
            with contextlib.suppress(FileNotFoundError):
                if TEMPORARY.match(name) and time.time() - os.stat(f"{path}/{name}").st_mtime > SWEEP_AFTER:
                    os.unlink(f"{path}/{name}")
                    swept += 1
        return swept
