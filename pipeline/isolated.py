"""Extraction in a process of its own, so that no clip can take its worker down or keep it for ever.

Decoders and models are native code: a clip can make them crash, hang, or take all memory. The worker hands clips one by
one to a child; when the child dies, the worker knows on which clip, tries that clip once more in a new child (the machine
may have killed the first one, for memory or at shutdown), and then makes it a row with a reason.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from pipeline.clip import Clip
from pipeline.extract import extract_rows
from pipeline.files import StorageError, is_remote
from pipeline.media import FETCH_SECONDS
from pipeline.store import ClipRow
from pipeline.streams.base import Extractor

ATTEMPTS = 2
GRACE = 30.0
"""Seconds past the clip's own limit after which an extractor that does not stop by itself is killed."""


class ExtractorError(RuntimeError):
    """A bug in an extractor, with the child's traceback."""


class IsolatedExtractors:
    """The given extractors in one child process, each loaded when it is first asked for."""

    def __init__(self, extractors: Sequence[Extractor], clip_seconds: float, grace: float = GRACE) -> None:
        self.extractors = {e.name: e for e in extractors}
        self.clip_seconds, self.grace = clip_seconds, grace
        self._child: tuple[Any, Connection] | None = None
        self._loaded: set[str] = set()

    def rows(self, extractor: Extractor, clips: Sequence[Clip], clip_seconds: float | None = None) -> list[ClipRow]:
        """One row a clip, in the clips' order. Raises ExtractorError where an extractor raised what is not ClipError, and
        StorageError where a bucket can't be used."""
        seconds = self.clip_seconds if clip_seconds is None else clip_seconds
        return [self._row(extractor.name, clip, seconds) for clip in clips]

    def close(self) -> None:
        if self._child is not None:
            process, pipe = self._child
            self._child = None
            pipe.close()
            process.kill()
            process.join()

    def _row(self, stream: str, clip: Clip, seconds: float) -> ClipRow:
        reason = ""
        limit = seconds + self.grace + (FETCH_SECONDS if is_remote(clip.uri) else 0.0)
        for _ in range(ATTEMPTS):
            process, pipe = self._ready(stream)
            try:
                pipe.send((stream, clip, seconds))
                if not pipe.poll(limit):
                    self.close()
                    return ClipRow(clip.clip_id, "error", f"timeout: the extractor did not stop after {seconds:g} s", None)
                answer = pipe.recv()
            except (EOFError, BrokenPipeError, ConnectionResetError):
                process.join()
                reason = f"the extractor's process died on this clip ({_how(process.exitcode)})"
                self.close()
                continue
            if isinstance(answer, str):
                raise ExtractorError(f"stream {stream!r}, clip {clip.clip_id!r}:\n{answer}")
            if isinstance(answer, StorageError):
                raise answer
            row: ClipRow = answer
            return row
        return ClipRow(clip.clip_id, "error", reason, None)

    def _ready(self, stream: str) -> tuple[Any, Connection]:
        """The child, with the stream's extractor loaded: that is no clip's fault, and takes the time it takes."""
        if self._child is not None and not self._child[0].is_alive():  # it was killed between two clips
            self.close()
        if self._child is None:
            # A fresh interpreter: a fork of a process that runs threads may deadlock.
            context = multiprocessing.get_context("spawn")
            pipe, childs = context.Pipe()
            process = context.Process(target=_serve, args=(childs, self.extractors), daemon=True)
            process.start()
            childs.close()
            self._child = process, pipe
            self._loaded = set()
        process, pipe = self._child
        if stream not in self._loaded:
            pipe.send((stream, None, 0.0))
            try:
                answer = pipe.recv()
            except (EOFError, ConnectionResetError) as e:
                process.join()
                raise ExtractorError(f"stream {stream!r}: the process died while loading ({_how(process.exitcode)})") from e
            if isinstance(answer, str):
                raise ExtractorError(f"stream {stream!r}, while loading:\n{answer}")
            self._loaded.add(stream)
        return process, pipe


def _serve(pipe: Connection, extractors: dict[str, Extractor]) -> None:
    """The child: a clip in, a row out, or no clip, and the extractor is loaded; until the worker is gone."""
    while True:
        try:
            stream, clip, seconds = pipe.recv()
        except EOFError:
            return
        answer: ClipRow | str | StorageError | None = None
        try:
            if clip is None:
                extractors[stream].load()
            else:
                (answer,) = extract_rows(extractors[stream], [clip], seconds)
        except StorageError as e:
            answer = e
        except Exception:  # whatever it is, it is the worker's to raise: this process only carries it over
            answer = traceback.format_exc()
        pipe.send(answer)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
