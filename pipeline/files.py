"""Files on a disk or in a bucket: list them, read them, and write them whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from dataclasses import dataclass
from typing import Any

import fsspec

SWEEP_AFTER = 3600.0  # seconds
TEMPORARY = re.compile(r"^\..*\.tmp-[0-9a-f]{32}$")


@dataclass(frozen=True)
class Folder:
    """A folder of a file system, or a prefix of a bucket, named by a path or an fsspec URL."""

    url: str

    def _resolve(self) -> tuple[Any, str]:
        fs, path = fsspec.core.url_to_fs(self.url)
        return fs, path.rstrip("/")

    @property
    def local(self) -> bool:
        return "://" not in self.url or self.url.startswith("file://")

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
        """Write a file whole or not at all: rename on a file system, one object on a store. Replaces what was there."""
        fs, path = self._resolve()
        if not self.local:
            fs.pipe_file(f"{path}/{name}", data)
            return
        os.makedirs(path, exist_ok=True)
        temporary = f"{path}/.{name}.tmp-{uuid.uuid4().hex}"
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, f"{path}/{name}")
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise

    def sweep(self) -> int:
        """Delete what a killed write() left behind; returns how many. What is young may be another's that still writes."""
        if not self.local:
            return 0
        _, path = self._resolve()
        swept = 0
        for name in os.listdir(path) if os.path.isdir(path) else ():
            with contextlib.suppress(FileNotFoundError):
                if TEMPORARY.match(name) and time.time() - os.stat(f"{path}/{name}").st_mtime > SWEEP_AFTER:
                    os.unlink(f"{path}/{name}")
                    swept += 1
        return swept
