"""Decoding a clip with the bundled ffmpeg: samples with a known rate, frames with their real timestamps.

Media is hostile input. ffmpeg runs in a process of its own, on one thread, may open nothing but the file it is given
(no network protocol, no playlist, no concatenation, no image pattern), may not allocate without bound, and is killed
when the clip's time is up.

Times are in seconds from the start of the clip; the start of a recording is the earlier of its tracks, so that audio
and vision of one clip share one clock. A late track is padded (audio) or starts late (vision), never shifted. Cutting
with start and end gives the same as decoding everything and cutting then; in AVI alone, which counts frames and packets
in place of time, it may be up to half a frame or half a packet of sound off.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import resource
import signal
import subprocess
import sys
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
from pipeline.files import A_POINTER, POINTER, can_be_read, is_remote, readable, regular_file

AUDIO_RATE = 16_000
FRAME_HEIGHT = 360  # of a decoded frame, at most: taller changes face blendshapes by at most 0.01 and costs time

# Containers that hold one recording. Left out on purpose: playlists and scripts that name other files (hls, dash,
# concat, avisynth, sdp, ...), image sequences and patterns, and formats that people do not speak in.
DEMUXERS = (
    "3gp,aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dv,eac3,flac,flv,h264,hevc,ivf,m4v,matroska,webm,mjpeg,mov,mp4,m4a,"
    "3g2,mj2,mp3,mpeg,mpegts,mpegvideo,mxf,nistsphere,nut,ogg,rm,tta,voc,w64,wav,wtv,wv"
)
# How files begin in which ffmpeg finds any time exactly: Matroska, FLV, ASF, FLAC, MP3 (with tags), AVI and WAV; and, from
# the fifth byte on, MP4 and QuickTime. Anywhere else (MPEG, Ogg, raw streams) it may land on frames that it can't decode
# or can't date, so those are decoded from their beginning.
SEEKABLE = (b"\x1a\x45\xdf\xa3", b"FLV", b"\x30\x26\xb2\x75", b"fLaC", b"ID3", b"RIFF", b"RF64")
SEEKABLE_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
PREROLL = 1.0  # seconds decoded before a cut, since the sound of one packet overlaps the next

MAX_PIXELS = 8192 * 8192
MAX_WIDTH = 8192  # of a decoded frame, whatever pixel shape the file claims
MAX_AUDIO_SECONDS = 4 * 3600  # 0.9 GB of samples
MAX_ALLOC_BYTES = 1 << 30
MAX_MEMORY_BYTES = 4 << 30  # address space of one ffmpeg process
STDERR_KEPT = 1 << 20

TICKS = 90_000  # of a frame's timestamp, per second
RAW: dict[str, dict[str, str]] = {  # how ffmpeg hands over a track, and what its stats say of each piece
    "audio": {"format": "f32le", "acodec": "pcm_f32le", "stats_enc_pre_fmt": "{pts} {samp}"},
    "video": {
        "format": "image2pipe",
        "vcodec": "ppm",
        "pix_fmt": "rgb24",
        "fps_mode": "passthrough",
        "enc_time_base": f"1:{TICKS}",
        "stats_enc_pre_fmt": "{pts}",
    },
}
TIMESTAMP_JITTER = 0.1  # seconds by which audio may stray from its timestamps before it is put right
TIMESTAMP_LEAP = 300  # seconds; one damaged timestamp must not turn a clip into hours of silence
PAST_THE_END = 0.5  # seconds of a clip after the end of its recording that are passed over: manifests round
SAMPLE_BYTES = 4
FETCH_SECONDS = 900.0
"""The most that fetching a recording from a bucket may take: longer than an outage that is waited for (pipeline.s3)."""


@dataclass
class Deadline:
    """The time that one clip may take, in seconds of wall clock. Decoders and extractors call check() as they go."""

    seconds: float = 600.0
    _end: float = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
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
    stays usable with what came out, and its row says so. A track of which nothing comes out raises ClipError, and so
    does a decoder that crashes or runs out of time: how much came out before would depend on the machine.
    """

    path: str
    start: float | None = None
    end: float | None = None
    deadline: Deadline = field(default_factory=Deadline)
    notes: list[str] = field(default_factory=list)

    def audio(self, rate: int = AUDIO_RATE) -> npt.NDArray[np.float32]:
        """Mono samples in [-1, 1] at `rate` Hz, shape (n,). Sample i is at i / rate seconds from the clip's start.

        Of the first audio track: the mean of a stereo pair, the standard downmix of more channels. Gaps before it and in
        it are filled with silence. Raises Absent where there is no audio track, ClipError where it can't be decoded,
        holds no sample, or lasts longer than MAX_AUDIO_SECONDS.
        """
        # Each block is put where its timestamp says here, and not by the filter's own `async`: ffmpeg builds the filter
        # anew whenever a packet, perhaps a damaged one, changes the number of channels. rematrix_maxval keeps a downmix
        # within [-1, 1].
        mono = {"out_chlayout": "mono", "rematrix_maxval": 1.0}
        jitter, leap = (round(seconds * rate) * SAMPLE_BYTES for seconds in (TIMESTAMP_JITTER, TIMESTAMP_LEAP))
        longest = MAX_AUDIO_SECONDS * rate * SAMPLE_BYTES
        data, filled = bytearray(), 0
        with self._decode("audio", "aresample", rate, **mono) as run:
            for line in run.stats:
                position, size = (int(number) * SAMPLE_BYTES for number in line.split())
                block = memoryview(run.stdout.read(size))
                gap = position - len(data)
                if abs(gap) > leap:
                    self._note(f"a timestamp of the audio leaps by more than {TIMESTAMP_LEAP} s: taken for damage")
                    gap = 0
                elif data and abs(gap) <= jitter:
                    gap = 0
                if len(data) + max(gap, 0) + size > longest:
                    raise ClipError(f"the audio lasts longer than {MAX_AUDIO_SECONDS} s: cut it with start and end")
                filled += max(gap, 0) if data else 0
                data += bytes(max(gap, 0))
                data += block[max(-gap, 0) :]
            missing = 0.0
            if self.end is not None:  # ffmpeg ends with the block that holds the end
                asked = round((self.end - (self.start or 0.0)) * rate) * SAMPLE_BYTES
                missing = (asked - len(data)) / SAMPLE_BYTES / rate
                del data[asked:]
            run.finish(delivered=len(data) > 0)
        if missing > PAST_THE_END:
            self._note(f"the audio ends {missing:.1f} s before the clip does")
        if filled:
            self._note(f"gaps in the audio, {filled / SAMPLE_BYTES / rate:.1f} s in all, were filled with silence")
        samples = np.frombuffer(data, dtype="<f4")
        peak = float(max(-samples.min(), samples.max()))  # one sample that is NaN makes it NaN
        if not math.isfinite(peak):
            self._note("audio held samples that are not numbers: set to 0")
            np.nan_to_num(samples, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        elif peak > 2:  # lossy codecs overshoot 1, by less
            self._note(f"audio reached {peak:g}: clipped to 1")
        return np.clip(samples, -1.0, 1.0, out=samples)

    def frames(self, max_height: int = FRAME_HEIGHT) -> Iterator[tuple[float, npt.NDArray[np.uint8]]]:
        """Every frame, as (seconds from the clip's start, RGB array (height, width, 3)), upright, in order.

        One frame is in memory at a time. Frames taller than max_height are scaled down; pixels become square, both sides
        even, and all frames as large as the first. Times never decrease. Raises Absent where there is no video track
        (cover art is none), ClipError where no frame can be decoded.
        """
        # Each frame is a PPM image, so its size travels with it: rotation and odd sizes need no guess. Both sides are
        # given as numbers, because scale=-2 rounds and shears frames silently.
        width = f"clip(2*round(iw*sar*min(1,{max_height}/ih)/2),2,{MAX_WIDTH})"
        height = f"max(2,2*round(min(ih,{max_height})/2))"
        seconds, delivered = 0.0, False
        with self._decode("video", "scale", width, height) as run:
            for line in run.stats:
                frame = _read_ppm(run.stdout)
                if frame is None:
                    break
                self.deadline.check()
                seconds = max(seconds, int(line) / TICKS)
                yield seconds, frame
                delivered = True
            run.finish(delivered)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    @contextlib.contextmanager
    def _decode(self, track: str, filter_name: str, *arguments: Any, **options: Any) -> Iterator[_Run]:
        """A process that decodes the first audio or video track through one filter.

        It writes raw samples or PPM images to its stdout, and before each block or image a line of text to its stats:
        audio "position count", in samples; video "time", in ticks.
        """
        self.deadline.check()
        seekable = _is_seekable(self.path)
        source, window = self._cut(seekable)
        read_fd, write_fd = os.pipe()
        stream = {"audio": "a:0", "video": "V:0"}[track]  # V leaves cover art out
        raw = {**RAW[track], "stats_enc_pre": f"pipe:{write_fd}", "flush_packets": 1, "threads": 1}
        node = source[stream].filter(filter_name, *arguments, **options).output("pipe:1", **raw, **window)
        if not seekable:
            # There, ffmpeg's zero is the start of the tracks in use: use them all, so that audio and vision agree.
            others = source["a?"], source["V?"]
            node = ffmpeg.merge_outputs(node, ffmpeg.output(*others, "pipe:1", format="null", codec="copy", **window))
        run = _Run(ffmpeg.compile(node, cmd=ffmpeg_path()), track, self.deadline, read_fd, write_fd)
        try:
            yield run
        finally:
            run.close()
            if complaint := run.complaint():
                self._note(complaint)

    def _cut(self, seekable: bool) -> tuple[Any, dict[str, str]]:
        """The input, and the options of an output that cut the clip out of it."""
        start = self.start or 0.0
        options: dict[str, Any] = {
            "protocol_whitelist": "file",
            "format_whitelist": DEMUXERS,
            "max_pixels": MAX_PIXELS,
            "threads": 1,
        }
        # Whole seconds, because a container that counts frames rounds what it is asked for.
        seek = max(0.0, math.floor(start - PREROLL)) if seekable else 0.0
        if seek:
            options["ss"] = f"{seek:.0f}"
        if start < 0:  # the clip begins before the recording does
            options["itsoffset"] = f"{-start:.6f}"
        window = {}
        if start > 0:
            window["ss"] = f"{start - seek:.6f}"
        if self.end is not None:
            window["t"] = f"{self.end - start:.6f}"
        return ffmpeg.input("file:" + self.path, **options), window


class _Run:
    """One ffmpeg process and its complaints. Killed when the deadline passes or the reader leaves."""

    def __init__(self, command: list[str], track: str, deadline: Deadline, stats: int, stats_end: int) -> None:
        self.track, self.deadline = track, deadline
        self.stats = open(stats, "rb")  # noqa: SIM115 (closed in close())
        self._log = bytearray()
        extra = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "level+error", "-max_error_rate", "1"]
        extra += ["-max_alloc", str(MAX_ALLOC_BYTES), "-filter_complex_threads", "1"]
        # Of the environment only what finds the binary and its libraries: others make ffmpeg write files (FFREPORT) or
        # colour its log.
        environment = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        try:
            self.process = subprocess.Popen(
                [command[0], *extra, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(stats_end,),
                env=environment,
            )
        except BaseException:
            self.stats.close()
            raise
        finally:
            os.close(stats_end)
        assert self.process.stdout is not None
        self.stdout = self.process.stdout
        if sys.platform == "linux":
            with contextlib.suppress(ProcessLookupError):  # it may have ended already
                resource.prlimit(self.process.pid, resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        self._timed_out = threading.Event()
        self._timer = threading.Timer(max(deadline.left(), 0.0), self._time_is_up)
        self._reader = threading.Thread(target=self._read_log)
        for thread in (self._timer, self._reader):
            thread.daemon = True
            thread.start()

    def _time_is_up(self) -> None:
        self._timed_out.set()
        self.process.kill()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as pipe:
            while chunk := os.read(pipe.fileno(), 65536):
                if len(self._log) < STDERR_KEPT:
                    self._log += chunk

    def finish(self, delivered: bool) -> None:
        """Wait for the end; raise Absent or ClipError where the track is not there or nothing of it came out."""
        code = self.process.wait()
        self._reader.join()
        if self._timed_out.is_set():
            raise ClipError(f"timeout: took longer than {self.deadline.seconds:g} s")
        if self.absent():
            raise Absent(f"no {self.track} track")
        if code < 0:
            raise ClipError(f"the decoder crashed ({signal.Signals(-code).name}): {self.complaint() or 'no reason given'}")
        if not delivered:
            if code:
                raise ClipError(f"can't decode: {self.complaint() or f'ffmpeg ended with code {code}'}")
            found = f" ({complaint})" if (complaint := self.complaint()) else ""
            raise ClipError(f"the {self.track} track holds nothing between the clip's start and end{found}")

    def absent(self) -> bool:
        """Whether the recording could be opened and has no such track."""
        return any(error.startswith("Stream specifier") and "matches no streams" in error for error in self._errors())

    def complaint(self) -> str:
        """What ffmpeg first complained about, in its own words; empty where it did not, or only about a track's absence."""
        for error in () if self.absent() else self._errors():
            if "Format not on whitelist" in error:
                return "not a recording in a format that is read here (playlists and scripts are not)"
            if "to muxer in stream" not in error:  # times of what it writes to us, which are put right here
                return error[:300]
        return ""

    def _errors(self) -> list[str]:
        lines = self._log.decode("utf-8", "replace").splitlines()
        parts = (re.split(r"\[(?:error|fatal|panic)\] ", line, maxsplit=1) for line in lines)
        return [after[0].strip() for _, *after in parts if after]

    def close(self) -> None:
        self._timer.cancel()
        self.process.kill()  # does nothing to one that has ended
        self.stdout.close()
        self.stats.close()
        self.process.wait()
        self._reader.join()
        self._timer.join()


def _read_ppm(pipe: IO[bytes]) -> npt.NDArray[np.uint8] | None:
    """The next binary PPM image (RGB, 8 bits), as (height, width, 3); None at the end or at a cut frame."""
    magic, size, depth = pipe.readline(), pipe.readline(), pipe.readline()
    if not depth:
        return None
    width, height = (int(x) for x in size.split())
    if magic != b"P6\n" or depth != b"255\n":
        raise RuntimeError(f"expected a PPM frame, found {magic + size + depth!r}")
    frame = np.empty((height, width, 3), np.uint8)
    return frame if pipe.readinto(frame) == frame.nbytes else None  # type: ignore[attr-defined]


def _is_seekable(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(8)
    return head.startswith(SEEKABLE) or head[4:] in SEEKABLE_BOXES


@functools.cache
def ffmpeg_path() -> str:
    """The ffmpeg binary that comes with imageio-ffmpeg (IMAGEIO_FFMPEG_EXE names another)."""
    return str(imageio_ffmpeg.get_ffmpeg_exe())


@contextlib.contextmanager
def open_media(clip: Clip, deadline: Deadline | None = None) -> Iterator[Media]:
    """The clip's recording as a local file; one that is remote is fetched for as long as the context lasts, and its deadline
    begins when it is here: that the network was slow is not the clip's fault.

    Raises ClipError where the file is missing, empty, no regular file, a git-lfs pointer, or at an address of an unknown
    kind, and where the clip's start and end make no sense; StorageError where its bucket can't be used.
    """
    deadline = deadline or Deadline()
    _check_times(clip)
    if "#" in clip.uri and clip.uri.partition("#")[0].endswith(".csd"):
        raise Absent("no recording: the corpus is read from sequences that somebody else extracted")
    remote = is_remote(clip.uri)
    if remote and not can_be_read(clip.uri):
        raise ClipError(f"can't read {clip.uri}: {readable()}")
    with contextlib.ExitStack() as stack:
        if remote:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="clip-"))
            path = os.path.join(folder, "clip" + Path(clip.uri).suffix[:16])
            try:
                _fetch(clip.uri, path, Deadline(FETCH_SECONDS))
            except FileNotFoundError as e:  # wrong credentials stop the job: they are not the clip's fault
                raise ClipError(f"can't read {clip.uri}: {type(e).__name__}") from e
            deadline.begin()
        else:
            path = os.path.abspath(clip.uri.removeprefix("file://"))
        _check_file(path)
        yield Media(path, clip.start, clip.end, deadline)


@contextlib.contextmanager
def no_media(clip: Clip, deadline: Deadline) -> Iterator[Media]:
    """What an extractor gets that reads no recording: nothing but the clip's times and its deadline."""
    _check_times(clip)
    yield Media("", clip.start, clip.end, deadline)


def _check_times(clip: Clip) -> None:
    start = clip.start or 0.0
    if not math.isfinite(start) or not math.isfinite(clip.end or 0.0):
        raise ClipError(f"the clip goes from {clip.start} to {clip.end} s: expected finite numbers")
    if clip.end is not None and clip.end <= start:
        raise ClipError(f"the clip ends at {clip.end:g} s, not after its start at {start:g} s")


def _fetch(uri: str, path: str, deadline: Deadline) -> None:
    with fsspec.open(uri, "rb") as source, open(path, "wb") as target:
        while chunk := source.read(1 << 20):
            deadline.check()
            target.write(chunk)


def _check_file(path: str) -> None:
    try:
        _, read = regular_file(path)
        head = read(64)
    except OSError as e:
        raise ClipError(f"can't read the file: {e.strerror or type(e).__name__}") from e
    except ValueError as e:  # no file; or a NUL or half a surrogate pair in its name
        raise ClipError(f"can't read the file: {e}") from e
    if not head:
        raise ClipError("the file is empty")
    if head.startswith(POINTER):
        raise ClipError(f"the file is {A_POINTER}")
