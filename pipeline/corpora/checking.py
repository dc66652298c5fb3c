"""Checking a source without extracting: what is missing, what can't be used, and what does not belong there.

Without decoding, only the first bytes of each file are read, also of those in a bucket. That finds what usually goes wrong
with downloads: git-lfs pointers, empty files, pages of an error in place of the recording, files of zeros.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from pipeline.clip import Absent, Clip, ClipError
from pipeline.corpora.base import Corpus, Problem
from pipeline.corpora.listing import media_files
from pipeline.files import A_POINTER, POINTER, is_remote, read_head
from pipeline.media import open_media

HEAD_BYTES = 512
TINY_FRAME = 16  # pixels of height: decoding takes as long, handing the frames over does not
REQUESTS = 16  # heads that are read at a time

NO_RECORDING = {b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "a gzip archive", b"%PDF": "a PDF document"}


def files(clips: Sequence[Clip]) -> dict[str, list[Clip]]:
    """Every file that clips name, with the clips that are cut out of it: none where it holds features and no recording."""
    found: dict[str, list[Clip]] = {}
    for clip in clips:
        recording, is_part = _file(clip.uri)
        found.setdefault(recording, []).extend(() if is_part else (clip,))
        for address in (clip.features or {}).values():
            found.setdefault(_file(address)[0], [])
    return found


def look(found: Mapping[str, Sequence[Clip]], decode: bool = False) -> Iterator[list[Problem]]:
    """Of each file, in order, what is wrong with it.

    decode: decode its clips to their ends as well; what the decoder complains about while it still delivers is a note.
    """
    with ThreadPoolExecutor(os.cpu_count() if decode else REQUESTS) as pool:
        todo = iter(found.items())
        waiting: deque[Future[list[Problem]]] = deque()
        try:
            while True:
                # No more are under way than the pool takes up soon: whoever stops early waits for those alone.
                for file, clips in islice(todo, 2 * REQUESTS - len(waiting)):
                    waiting.append(pool.submit(_look_at, file, clips, decode))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def strangers(corpus: Corpus, source: str, clips: Sequence[Clip], told: Sequence[Problem]) -> Iterator[Problem]:
    """Media files below a source that no clip names and that are no part of the corpus; told: what was reported before."""
    if not is_remote(source) and not os.path.isdir(source.removeprefix("file://")):
        return  # a manifest, or one recording
    known = {clip.uri for clip in clips} | {problem.where for problem in told}
    unnamed: list[Problem] = []
    with contextlib.suppress(FileNotFoundError):  # a URL of a manifest is no folder either
        for relative, address in media_files(source, unnamed.append):
            if not known & {relative, address} and not corpus.owns(relative.rpartition("/")[2]):
                yield Problem("unexpected", relative, "a media file that is no clip of this corpus")
    yield from (problem for problem in unnamed if problem.where not in known)


def _look_at(file: str, clips: Sequence[Clip], decode: bool) -> list[Problem]:
    if (problem := _head(file, recording=bool(clips))) is not None:
        return [problem]
    return [problem for clip in clips for problem in _decode(clip)] if decode else []


def _head(address: str, recording: bool) -> Problem | None:
    """What is wrong with a file, by its first bytes."""
    try:
        head = read_head(address, HEAD_BYTES)
    except FileNotFoundError:
        return Problem("missing", address, "no such file")
    except (OSError, ValueError) as e:  # a folder, no permission, a NUL in its name
        return Problem("broken", address, f"can't be read: {getattr(e, 'strerror', None) or e}")
    what = None
    if not head:
        what = "the file is empty"
    elif head.startswith(POINTER):
        what = A_POINTER
    elif recording and (magic := next((m for m in NO_RECORDING if head.startswith(m)), None)):
        what = f"{NO_RECORDING[magic]} and no recording"
    elif recording and not any(head):
        what = f"no recording: its first {len(head)} bytes are zeros"
    elif recording and (text := _text(head)):
        what = f"text and no recording: it begins {text[:60]!r}"
    return Problem("broken", address, what) if what else None


def _text(head: bytes) -> str:
    """The beginning of a file as text; empty where it is none, as of any recording within its first bytes."""
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        if e.start < len(head) - 4:  # else a character that is cut in two
            return ""
        text = head[: e.start].decode("utf-8-sig")
    return "" if any(c < " " and c not in "\t\n\r\f" for c in text) else " ".join(text.split())


def _decode(clip: Clip) -> list[Problem]:
    """What the decoder says of a clip, sound and picture, to its end."""
    wrong, absent = [], 0
    notes: list[str] = []
    try:
        with open_media(clip) as media:
            for track in ("audio", "video"):
                try:
                    if track == "audio":
                        media.audio()
                    else:
                        deque(media.frames(TINY_FRAME), maxlen=0)
                except Absent:
                    absent += 1
                except ClipError as e:
                    wrong.append(f"{track}: {e}")
            notes = media.notes
    except ClipError as e:
        wrong.append(str(e))
    if absent == 2:
        wrong.append("neither an audio nor a video track")
    where = clip.uri if clip.start is None and clip.end is None else f"{clip.uri} ({clip.clip_id})"
    return [Problem("broken", where, what) for what in wrong] or [Problem("note", where, note) for note in notes]


def _file(address: str) -> tuple[str, bool]:
    """The file of an address, and whether the address is of a part of it, as FILE.csd#VIDEO is."""
    path, _, part = address.partition("#")
    return (path, True) if part and path.lower().endswith(".csd") else (address, False)
