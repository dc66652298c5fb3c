"""Decoding a clip with the bundled ffmpeg: samples with a known rate, frames with their real timestamps.

Media is hostile input. ffmpeg runs in a process of its own, on one thread, may open nothing but the file it is given
(no network protocol, no playlist, no concatenation, no image pattern), may not allocate without bound, and is killed
when the clip's time is up.

Times are in seconds from the start of the clip; the start of a recording is the earlier of its tracks, so that audio
and vision of one clip share one clock. A late track is padded (audio) or starts late (vision), never shifted.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import resource
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import ffmpeg
import fsspec
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

from pipeline.clip import Absent, Clip, ClipError

AUDIO_RATE = 16_000
FRAME_HEIGHT = 360  # of a decoded frame, at most: taller changes face blendshapes by at most 0.01 and costs time

REMOTE_SCHEMES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})

# Containers that hold one recording. Left out on purpose: playlists and scripts that name other files (hls, dash,
# concat, avisynth, sdp, ...), image sequences and patterns, and formats that people do not speak in.
DEMUXERS = (
    "3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dv,eac3,flac,flv,h264,hevc,ivf,m4v,matroska,webm,mjpeg,mov,mp4,m4a,"
    "3g2,mj2,mp3,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,tta,voc,w64,wav,wtv,wv"
)
MAX_PIXELS = 8192 * 8192
MAX_ALLOC_BYTES = 1 << 30
MAX_MEMORY_BYTES = 4 << 30  # address space of one ffmpeg process
STDERR_KEPT = 64 * 1024


@dataclass
class Deadline:
    """The time that one clip may take, in seconds of wall clock. Decoders and extractors call check() as they go."""

    seconds: float = 600.0
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self._end = time.monotonic() + self.seconds

    def left(self) -> float:
        return self._end - time.monotonic()

    def check(self) -> None:
        """Raise ClipError when the time is up."""
        if self.left() <= 0:
            raise ClipError(f"timeout: took longer than {self.seconds:g} s")


@dataclass
class Media:
    """One clip's recording, as a local file.

    `notes` collects what the decoder complained about while it still delivered (a damaged packet, a cut end): the clip
    stays usable, and its row says so.
    """

    path: str
    start: float | None = None
    end: float | None = None
    deadline: Deadline = field(default_factory=Deadline)
    notes: list[str] = field(default_factory=list)

    def audio(self, rate: int = AUDIO_RATE) -> npt.NDArray[np.float32]:
        """Mono samples in [-1, 1] at `rate` Hz, shape (n,). Sample i is at i / rate seconds from the clip's start.

        Gaps in the track are filled with silence. Raises Absent where there is no audio track, ClipError where it
        can't be decoded or holds no sample.
        """
        # async fills gaps; first_pts pads a track that starts after the clip does; rematrix_maxval keeps a stereo
        # track's mean within [-1, 1].
        node = (
            self._input()["a:0"]
            .filter("aresample", rate, **{"async": 1}, first_pts=0, out_chlayout="mono", rematrix_maxval=1.0)
            .output("pipe:1", format="f32le", acodec="pcm_f32le", ar=rate)
        )
        with tempfile.TemporaryFile() as spool, self._run(node, "audio", stdout=spool) as run:
            run.wait()
            spool.seek(0)
            samples = np.fromfile(spool, dtype="<f4")
        if not len(samples):
            raise ClipError(run.complaint() or "the audio track holds no sample")
        if not np.isfinite(samples).all():
            self.notes.append("audio held samples that are not numbers; they were set to 0")
            samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
        return samples

    def frames(self, max_height: int = FRAME_HEIGHT) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
        """Every frame, as (seconds from the clip's start, RGB array (height, width, 3)), upright, in order.

        One frame is in memory at a time. Frames taller than max_height are scaled down; both sides stay even. Raises
        Absent where there is no video track (cover art is none), ClipError where no frame can be decoded.
        """
        width = f"max(2,2*round(iw*sar*min(1,{max_height}/ih)/2))"
        height = f"max(2,2*round(min(ih,{max_height})/2))"
        # Each frame is a PPM image, so its size travels with it: rotation, odd sizes and a change of size in mid-file
        # need no guess. Both sides are given as numbers, because scale=-2 rounds and shears frames silently.
        node = (
            self._input()["V:0"]
            .filter("scale", width, height)
            .output(
                "pipe:1", format="image2pipe", vcodec="ppm", pix_fmt="rgb24", fps_mode="passthrough", enc_time_base="1:90000"
            )
        )
        n = 0
        with self._run(node, "video", timestamps=True) as run:
            assert run.stdout is not None
            while (frame := _read_ppm(run.stdout)) is not None:
                self.deadline.check()
                yield run.next_timestamp(), frame
                n += 1
            run.wait()
        if not n:
            raise ClipError(run.complaint() or "the video track holds no frame")

    def _input(self) -> Any:
        options: dict[str, Any] = {
            "protocol_whitelist": "file,pipe",
            "format_whitelist": DEMUXERS,
            "max_pixels": MAX_PIXELS,
            "threads": 1,
        }
        if self.start is not None:
            options["ss"] = f"{self.start:.6f}"
        if self.end is not None:
            options["t"] = f"{self.end - (self.start or 0.0):.6f}"
        return ffmpeg.input("file:" + self.path, **options)

    @contextlib.contextmanager
    def _run(self, node: Any, track: str, *, stdout: IO[bytes] | None = None, timestamps: bool = False) -> Iterator[_Run]:
        run = _Run(node, track, self.deadline, stdout, timestamps)
        try:
            yield run
        finally:
            run.close()
            if note := run.complaint():
                self.notes.append(note)


class _Run:
    """One ffmpeg process, its timestamps and its complaints. Killed when the deadline passes or the reader leaves."""

    def __init__(self, node: Any, track: str, deadline: Deadline, stdout: IO[bytes] | None, timestamps: bool) -> None:
        self.track, self.deadline = track, deadline
        self._stderr = bytearray()
        self._times: queue.Queue[float | None] = queue.Queue()
        command = ffmpeg.compile(node, cmd=ffmpeg_path())
        head, tail = command[:1], command[1:]
        extra = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+info"]
        extra += ["-max_alloc", str(MAX_ALLOC_BYTES), "-filter_threads", "1"]
        pass_fds: tuple[int, ...] = ()
        if timestamps:
            read_fd, write_fd = os.pipe()
            pass_fds = (write_fd,)
            tail = [*tail[:-1], "-stats_enc_pre:v", f"pipe:{write_fd}", "-stats_enc_pre_fmt:v", "{t}", tail[-1]]
        try:
            self.process = subprocess.Popen(
                head + extra + tail,
                stdin=subprocess.DEVNULL,
                stdout=stdout or subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=pass_fds,
            )
        finally:
            for fd in pass_fds:
                os.close(fd)
        self.stdout = self.process.stdout
        with contextlib.suppress(ProcessLookupError):  # it may have ended already
            resource.prlimit(self.process.pid, resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        self.timed_out = threading.Event()
        self._timer = threading.Timer(max(deadline.left(), 0.0), self._time_is_up)
        self._timer.daemon = True
        self._threads = [threading.Thread(target=self._drain_stderr, daemon=True)]
        if timestamps:
            self._threads.append(threading.Thread(target=self._drain_times, args=(read_fd,), daemon=True))
        for thread in (self._timer, *self._threads):
            thread.start()

    def _time_is_up(self) -> None:
        self.timed_out.set()
        self.process.kill()

    def _drain_stderr(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as pipe:
            while chunk := os.read(pipe.fileno(), 65536):
                if len(self._stderr) < STDERR_KEPT:
                    self._stderr += chunk

    def _drain_times(self, fd: int) -> None:
        with open(fd, "rb") as pipe:
            for line in pipe:
                self._times.put(float(line))
        self._times.put(None)

    def next_timestamp(self) -> float:
        seconds = self._times.get(timeout=max(self.deadline.left(), 1.0))
        if seconds is None:
            raise RuntimeError("ffmpeg delivered a frame without its timestamp")
        return seconds

    def wait(self) -> None:
        """Wait for the end; raise Absent or ClipError when ffmpeg could not open or decode what was asked for."""
        code = self.process.wait()
        self._join()
        if self.timed_out.is_set():
            raise ClipError(f"timeout: took longer than {self.deadline.seconds:g} s")
        log = self._stderr.decode("utf-8", "replace")
        if "matches no streams" in log:
            raise Absent(f"no {self.track} track")
        if code != 0:
            raise ClipError(f"can't decode: {self.complaint() or f'ffmpeg ended with code {code}'}")

    def complaint(self) -> str:
        """The first error that ffmpeg reported, in its own words; empty when it reported none."""
        for line in self._stderr.decode("utf-8", "replace").splitlines():
            for level in ("[error] ", "[fatal] ", "[panic] "):
                if level in line:
                    return line.partition(level)[2].strip()[:300]
        return ""

    def close(self) -> None:
        self._timer.cancel()
        if self.process.poll() is None:
            self.process.kill()
        if self.stdout is not None:
            self.stdout.close()
        self.process.wait()
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()


def _read_ppm(pipe: IO[bytes]) -> npt.NDArray[np.uint8] | None:
    """The next binary PPM image (RGB, 8 bits), as (height, width, 3); None at the end or at a cut frame."""
    magic, size, depth = pipe.readline(), pipe.readline(), pipe.readline()
    if not depth:
        return None
    width, height = (int(x) for x in size.split())
    if magic != b"P6\n" or depth != b"255\n":
        raise RuntimeError(f"expected a PPM frame, found {magic + size + depth!r}")
    pixels = pipe.read(width * height * 3)
    if len(pixels) < width * height * 3:
        return None
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


@functools.cache
def ffmpeg_path() -> str:
    """The ffmpeg binary that comes with imageio-ffmpeg (IMAGEIO_FFMPEG_EXE names another)."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@contextlib.contextmanager
def open_media(clip: Clip, deadline: Deadline | None = None) -> Iterator[Media]:
    """The clip's recording as a local file; one that is remote is fetched for as long as the context lasts.

    Raises ClipError where the file is missing, empty, a git-lfs pointer, or at an address of an unknown kind.
    """
    deadline = deadline or Deadline()
    if clip.end is not None and clip.end <= (clip.start or 0.0):
        raise ClipError(f"the clip ends at {clip.end:g} s, before it starts at {clip.start or 0.0:g} s")
    scheme, _, rest = clip.uri.partition("://")
    with contextlib.ExitStack() as stack:
        if not rest:
            path = os.path.abspath(clip.uri)
        elif scheme == "file":
            path = rest
        elif scheme in REMOTE_SCHEMES and "::" not in clip.uri:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="clip-"))
            path = os.path.join(folder, "clip" + Path(rest).suffix)
            try:
                with fsspec.open(clip.uri, "rb") as source, open(path, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            except (FileNotFoundError, PermissionError) as e:
                raise ClipError(f"can't read {clip.uri}: {type(e).__name__}") from e
        else:
            raise ClipError(f"can't read {clip.uri}: expected a path or one of {', '.join(sorted(REMOTE_SCHEMES))}://")
        _check_file(path)
        yield Media(path, clip.start, clip.end, deadline)


def _check_file(path: str) -> None:
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except OSError as e:
        raise ClipError(f"can't read the file: {e.strerror or type(e).__name__}") from e
    if not head:
        raise ClipError("the file is empty")
    if head.startswith(b"version https://git-lfs"):
        raise ClipError("the file is a git-lfs pointer, not the recording: run `git lfs pull` where it came from")
