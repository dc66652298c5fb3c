"""Decoding: every frame and sample at its own time, every fault a reason, nothing opened but the one file."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ffmpeg
import fsspec
import numpy as np
import numpy.typing as npt
import pytest
from media_files import CONTAINERS, lag, noise, number, record, write
from scipy.io import wavfile

import pipeline.files
import pipeline.media
from pipeline.clip import Absent, Clip, ClipError
from pipeline.media import AUDIO_RATE, Deadline, open_media

Samples = npt.NDArray[np.float32]


def audio(path: Path | str, start: float | None = None, end: float | None = None, rate: int = AUDIO_RATE) -> Samples:
    with open_media(Clip("clip", str(path), start, end)) as media:
        return media.audio(rate)


def frames(path: Path | str, start: float | None = None, end: float | None = None) -> list[tuple[float, int]]:
    """(time, number) of each frame."""
    with open_media(Clip("clip", str(path), start, end)) as media:
        return [(seconds, number(frame)) for seconds, frame in media.frames()]


def shapes(path: Path, max_height: int = 360) -> list[tuple[int, ...]]:
    with open_media(Clip("clip", str(path))) as media:
        return [frame.shape for _, frame in media.frames(max_height)]


def outcome(path: Path | str, seconds: float = 20.0) -> tuple[str, str]:
    """What became of the video and of the audio: how many frames or samples, or the reason why there are none."""
    found = []
    for track in ("frames", "audio"):
        try:
            with open_media(Clip("clip", str(path)), Deadline(seconds)) as media:
                found.append(f"ok {len(list(media.frames()) if track == 'frames' else media.audio())}")
        except ClipError as e:
            found.append(f"{type(e).__name__}: {e}")
    return found[0], found[1]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Six seconds in every container, 25 frames a second, as few key frames as the codec allows."""
    folder = tmp_path_factory.mktemp("recordings")
    sound = noise(6)
    return {
        name: record(folder / f"r.{name}", frames=150, samples=sound, g=250, **options) for name, options in CONTAINERS.items()
    }


# --- time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "flac", "mkv", "caf", "aiff", "w64"])
def test_lossless_audio_comes_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    samples = np.round(noise(1.2345) * 32768) / 32768
    codec = {"wav": "pcm_s16le", "flac": "flac", "mkv": "flac", "caf": "pcm_s16be", "aiff": "pcm_s16be", "w64": "pcm_s16le"}
    path = record(tmp_path / f"a.{suffix}", samples=samples, sample_fmt="s16", acodec=codec[suffix])
    np.testing.assert_array_equal(audio(path), samples.astype(np.float32))


@pytest.mark.parametrize("suffix", ["m4a", "mp3", "opus", "ogg", "mka"])
def test_lossy_audio_keeps_its_time(tmp_path: Path, suffix: str) -> None:
    sound = noise(2)
    assert abs(lag(audio(record(tmp_path / f"a.{suffix}", samples=sound)), sound)) <= 1


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_moves_nothing(tmp_path: Path, rate: int) -> None:
    """A click at 0.5 s is at sample 8000 whatever the rate was, and 1.5 s stay 1.5 s."""
    click = np.zeros(rate * 3 // 2)
    click[rate // 2] = 0.9
    samples = audio(record(tmp_path / "a.wav", samples=click, rate=rate))
    assert abs(int(np.abs(samples).argmax()) - 8000) <= 1
    assert abs(len(samples) - 24000) <= 1


def test_rate_is_what_was_asked_for(tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav", samples=noise(1))
    assert [len(audio(path, rate=rate)) for rate in (8000, 16000, 44100)] == [8000, 16000, 44100]


@pytest.mark.parametrize("suffix", list(CONTAINERS))
def test_every_frame_is_there_in_order_at_a_constant_rate(recordings: dict[str, Path], suffix: str) -> None:
    times, numbers = zip(*frames(recordings[suffix]), strict=True)
    assert list(numbers) == list(range(150))
    np.testing.assert_allclose(np.diff(times), 0.04, atol=1e-6)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv", "avi", "mpg", "ts"])
def test_ntsc_rate(tmp_path: Path, suffix: str) -> None:
    path = record(tmp_path / f"v.{suffix}", frames=90, fps="30000/1001", **{"vcodec": CONTAINERS[suffix]["vcodec"]})
    times, numbers = zip(*frames(path), strict=True)
    assert list(numbers) == list(range(90))
    np.testing.assert_allclose(times, np.arange(90) * 1001 / 30000, atol=0.0011)  # mkv and flv count milliseconds


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_variable_frame_rate_keeps_every_frame_and_its_time(tmp_path: Path, suffix: str) -> None:
    """70 frames at 25 a second, then 70 at 10 a second: 140 frames, neither doubled nor dropped."""
    path = record(tmp_path / f"v.{suffix}", frames=140, times="if(lt(N,70),N/25,70/25+(N-70)/10)", **CONTAINERS["mp4"])
    times, numbers = zip(*frames(path), strict=True)
    assert list(numbers) == list(range(140))
    np.testing.assert_allclose(times, [n / 25 if n < 70 else 2.8 + (n - 70) / 10 for n in range(140)], atol=0.0011)


def test_times_stay_exact_late_in_a_long_recording(tmp_path: Path) -> None:
    """Frame 40 is at 40 * 100 + 1/90000 s: six digits would not hold that."""
    path = record(
        tmp_path / "v.mp4", frames=41, times="N*100+gte(N,40)/90000", video_track_timescale=90000, **CONTAINERS["mp4"]
    )
    assert frames(path)[40] == (4000 + 1 / 90000, 40)


@pytest.mark.parametrize("late", [(0.0, 0.52), (0.52, 0.0), (0.0, 0.0)], ids=["late audio", "late video", "together"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "flv", "mpg", "ts", "webm"])
def test_audio_and_vision_share_one_clock(tmp_path: Path, suffix: str, late: tuple[float, float]) -> None:
    """A click in the sound, 1 s after the sound begins, stays as far from the first frame as it was recorded."""
    video_late, audio_late = late
    click = np.zeros(32000)
    click[16000] = 0.9
    path = record(
        tmp_path / f"r.{suffix}", frames=50, samples=click, video_late=video_late, audio_late=audio_late, **CONTAINERS[suffix]
    )
    heard = int(np.abs(audio(path)).argmax()) / AUDIO_RATE
    first_frame, zero = frames(path)[0]
    assert zero == 0
    assert heard - first_frame == pytest.approx(1 + audio_late - video_late, abs=0.004)
    # The earlier track begins at zero; an encoder may put up to 70 ms of its own before it.
    assert first_frame == pytest.approx(video_late, abs=0.07)


CUTS = [(1.02, 3.33), (4.3, 5.1), (5.5, 8.0), (None, 0.4)]


@pytest.mark.parametrize("suffix", list(CONTAINERS))
def test_a_cut_is_a_slice_of_the_whole(recordings: dict[str, Path], suffix: str) -> None:
    path = recordings[suffix]
    whole, sound = frames(path), audio(path)
    for start, end in CUTS:
        begin = start or 0.0
        expected = [(seconds - begin, n) for seconds, n in whole if begin <= seconds < (end or 99)]
        found = frames(path, start, end)
        assert [n for _, n in found] == [n for _, n in expected], (start, end)
        np.testing.assert_allclose([s for s, _ in found], [s for s, _ in expected], atol=1e-4)
        part = sound[round(begin * AUDIO_RATE) : round((end or 99) * AUDIO_RATE)]
        cut = audio(path, start, end)
        assert abs(len(cut) - len(part)) <= 32, (start, end)
        assert abs(lag(cut, part)) <= 16, (start, end)


@pytest.mark.parametrize("suffix", list(CONTAINERS))
def test_a_cut_beyond_the_end_says_so(recordings: dict[str, Path], suffix: str) -> None:
    for decode in (frames, audio):
        with pytest.raises(ClipError, match="nothing between the clip's start and end"):
            decode(recordings[suffix], 15, 16)


@pytest.mark.parametrize("suffix", ["mp4", "flv", "avi", "mpg"])
def test_a_clip_may_start_before_its_recording(recordings: dict[str, Path], suffix: str) -> None:
    whole, sound = frames(recordings[suffix]), audio(recordings[suffix])
    found, heard = frames(recordings[suffix], -0.2, 1.0), audio(recordings[suffix], -0.2, 1.0)
    assert [n for _, n in found] == [n for seconds, n in whole if seconds < 1.0]
    assert found[0][0] == pytest.approx(whole[0][0] + 0.2, abs=1e-4)
    assert len(heard) == pytest.approx(19200, abs=1)
    assert not heard[:3190].any()
    assert abs(lag(heard[3200:], sound[:16000])) <= 1


@pytest.mark.parametrize(("start", "end"), [(2.0, 1.0), (1.0, 1.0), (float("nan"), 1.0), (0.0, float("inf")), (None, -1.0)])
def test_a_cut_that_makes_no_sense_is_refused(recordings: dict[str, Path], start: float | None, end: float) -> None:
    with pytest.raises(ClipError, match=r"not after its start|expected finite"):
        audio(recordings["mp4"], start, end)


def test_a_change_of_channels_in_mid_stream_moves_nothing(tmp_path: Path) -> None:
    one, two = noise(2), noise(2, channels=2)
    parts = [record(tmp_path / "1.mp3", samples=one, write_xing=0), record(tmp_path / "2.mp3", samples=two, write_xing=0)]
    path = tmp_path / "both.mp3"
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    samples = audio(path)
    assert len(samples) == pytest.approx(64000, abs=4000)  # each file has an encoder's delay and padding
    assert abs(lag(samples[34000:48000], two.mean(1)[:14000])) < 4000


def test_a_gap_in_the_audio_is_silence_and_is_noted(tmp_path: Path) -> None:
    """Sound at 0-1 s and at 3-4 s."""
    sound = noise(1)
    gap = np.zeros(16000 * 2)
    path = tmp_path / "gap.mkv"
    source = ffmpeg.input("pipe:0", format="f32le", ar=16000, ac=1)["a"]
    cut = source.filter("aselect", "lt(t,1)+gte(t,3)")
    write(cut.output(str(path), acodec="pcm_s16le"), np.concatenate([sound, gap, sound]).astype("<f4").tobytes())
    with open_media(Clip("clip", str(path))) as media:
        samples = media.audio()
        assert media.notes == ["gaps in the audio, 2.0 s in all, were filled with silence"]
    assert len(samples) == pytest.approx(64000, abs=2048)
    assert abs(lag(samples[48000:], sound)) <= 1024  # a packet's length: the gap begins where a packet does


def test_one_damaged_timestamp_costs_nothing(tmp_path: Path) -> None:
    """One packet of an FLV, in the middle, claims to be four hours late."""
    path = record(tmp_path / "a.flv", samples=noise(4), acodec="pcm_s16le", ar=44100)
    data = bytearray(path.read_bytes())
    tag, length = 13, 0  # a tag: type, length (3 bytes), time in ms (3 bytes, and a fourth on top), stream, data, its size
    for _ in range(60):
        tag += length
        length = 15 + int.from_bytes(data[tag + 1 : tag + 4], "big")
    data[tag + 4 : tag + 7] = (4 * 3_600_000 - 60_000).to_bytes(3, "big")
    path.write_bytes(data)
    with open_media(Clip("clip", str(path))) as media:
        samples = media.audio()
        assert media.notes == ["a timestamp of the audio leaps by more than 300 s: taken for damage"]
    assert len(samples) == pytest.approx(64000, abs=16)
    assert abs(lag(samples, noise(4))) <= 1


# --- values -------------------------------------------------------------------------------------------------------------


def test_stereo_becomes_its_mean(tmp_path: Path) -> None:
    stereo = noise(1, channels=2)
    path = record(tmp_path / "a.wav", samples=stereo, acodec="pcm_f32le")
    np.testing.assert_allclose(audio(path), stereo.mean(1), atol=1e-6)


@pytest.mark.parametrize("channels", [2, 3, 4, 6, 8])
def test_a_downmix_of_full_scale_stays_full_scale(tmp_path: Path, channels: int) -> None:
    path = record(tmp_path / "a.wav", samples=np.ones((8000, channels)), acodec="pcm_f32le")
    np.testing.assert_allclose(audio(path), 1.0, atol=1e-5)


def test_every_speaker_of_a_surround_track_is_heard(tmp_path: Path) -> None:
    for channel in (0, 1, 2, 4, 5):  # 3 is the low-frequency effects channel, which downmixes leave out
        samples = np.zeros((8000, 6))
        samples[:, channel] = 0.5
        assert 0.05 < audio(record(tmp_path / "a.wav", samples=samples))[4000] < 0.5


def test_silence_is_zeros(tmp_path: Path) -> None:
    samples = audio(record(tmp_path / "a.mp4", frames=25, samples=np.zeros(16000), **CONTAINERS["mp4"]))
    assert len(samples) >= 16000
    assert not samples.any()


def test_samples_beyond_full_scale_are_clipped_and_not_numbers_are_zero(tmp_path: Path) -> None:
    loud = record(tmp_path / "loud.wav", samples=np.array([0.5, -9000.0, 1.5, 0.25]), acodec="pcm_f32le")
    with open_media(Clip("clip", str(loud))) as media:
        assert media.audio().tolist() == [0.5, -1.0, 1.0, 0.25]
        assert media.notes == ["audio reached 9000: clipped to 1"]
    broken = record(tmp_path / "nan.wav", samples=np.array([0.5, np.nan, np.inf, 0.25]), acodec="pcm_f32le")
    with open_media(Clip("clip", str(broken))) as media:
        assert media.audio().tolist() == [0.5, 0.0, 0.0, 0.25]
        assert media.notes == ["audio held samples that are not numbers: set to 0"]


def test_one_frame_and_one_sample(tmp_path: Path) -> None:
    assert frames(record(tmp_path / "v.mp4", frames=1, **CONTAINERS["mp4"])) == [(0.0, 0)]
    assert audio(record(tmp_path / "a.wav", samples=np.array([0.5]))).tolist() == [0.5]


@pytest.mark.parametrize(
    ("size", "shape"),
    [((640, 480), (360, 480, 3)), ((641, 361), (360, 640, 3)), ((16, 16), (16, 16, 3)), ((64, 1000), (360, 24, 3))],
)
def test_size_of_a_frame(tmp_path: Path, size: tuple[int, int], shape: tuple[int, ...]) -> None:
    """At most 360 high, in proportion, both sides even."""
    path = record(tmp_path / "v.mkv", frames=2, size=size, vcodec="mjpeg", pix_fmt="yuvj444p")
    assert shapes(path) == [shape, shape]


def test_height_limit_is_an_argument(tmp_path: Path) -> None:
    path = record(tmp_path / "v.mp4", frames=1, size=(640, 480), **CONTAINERS["mp4"])
    assert [shapes(path, height)[0] for height in (480, 240, 2)] == [(480, 640, 3), (240, 320, 3), (2, 2, 3)]


def test_pixels_become_square(tmp_path: Path) -> None:
    wide = record(tmp_path / "wide.mp4", frames=1, size=(64, 48), aspect="2", **CONTAINERS["mp4"])
    assert shapes(wide) == [(48, 96, 3)]
    absurd = record(tmp_path / "absurd.mp4", frames=1, size=(64, 48), aspect="60000", **CONTAINERS["mp4"])
    assert shapes(absurd)[0][1] <= pipeline.media.MAX_WIDTH


def test_rotated_recordings_come_upright(tmp_path: Path) -> None:
    """A phone on its side: 48 x 64 once turned, and the bars lie."""
    flat = record(tmp_path / "flat.mp4", frames=200, **CONTAINERS["mp4"])
    turned = tmp_path / "turned.mp4"
    write(ffmpeg.input(str(flat), display_rotation=90).output(str(turned), c="copy"))
    with open_media(Clip("clip", str(turned))) as media:
        found = [frame for _, frame in media.frames()]
    assert {frame.shape for frame in found} == {(64, 48, 3)}
    # Turned by 90 degrees against the clock: what was at the left is at the bottom.
    assert [number(np.rot90(frame, -1)) for frame in found] == list(range(200))


def test_a_change_of_size_in_mid_file(tmp_path: Path) -> None:
    parts = [record(tmp_path / f"{w}.ts", frames=5, size=(w, 48), **CONTAINERS["mpg"]) for w in (64, 128)]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(p.read_bytes() for p in parts))
    assert set(shapes(path)) == {(48, 64, 3)}
    assert [n for _, n in frames(path)][-4:] == [1, 2, 3, 4]


# --- tracks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["wav", "mp3", "m4a", "mka", "ogg", "flac"])
def test_no_video_is_absent(tmp_path: Path, suffix: str) -> None:
    path = record(tmp_path / f"a.{suffix}", samples=noise(0.5))
    with open_media(Clip("clip", str(path))) as media:
        with pytest.raises(Absent, match="no video track"):
            list(media.frames())
        assert len(media.audio()) >= 8000
        assert media.notes == []


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mpg", "ts", "h264"])
def test_no_audio_is_absent(tmp_path: Path, suffix: str) -> None:
    path = record(tmp_path / f"v.{suffix}", frames=5, vcodec="mpeg2video" if suffix == "mpg" else "libx264", pix_fmt="yuv420p")
    with pytest.raises(Absent, match="no audio track"):
        audio(path)
    assert [n for _, n in frames(path)] == list(range(5))


@pytest.mark.parametrize("suffix", ["mp3", "m4a"])
def test_cover_art_is_no_video(tmp_path: Path, suffix: str) -> None:
    cover = record(tmp_path / "cover.mkv", frames=1, vcodec="mjpeg", pix_fmt="yuvj420p")
    sound = record(tmp_path / "plain.wav", samples=noise(0.5))
    path = tmp_path / f"a.{suffix}"
    art = {"c:v": "copy", "disposition:v:0": "attached_pic"}
    write(ffmpeg.output(ffmpeg.input(str(sound))["a"], ffmpeg.input(str(cover))["v"], str(path), **art))
    with pytest.raises(Absent, match="no video track"):
        frames(path)
    assert abs(lag(audio(path), noise(0.5))) <= 1


def test_first_audio_track_counts_and_subtitles_do_not(tmp_path: Path) -> None:
    words = tmp_path / "words.srt"
    words.write_text("1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    first = record(tmp_path / "1.wav", samples=noise(1))
    second = record(tmp_path / "2.wav", samples=np.zeros(16000))
    video = record(tmp_path / "v.mkv", frames=25, vcodec="mjpeg", pix_fmt="yuvj420p")
    path = tmp_path / "all.mkv"
    inputs = [ffmpeg.input(str(p))[kind] for p, kind in ((words, "s"), (first, "a"), (second, "a"), (video, "v"))]
    write(ffmpeg.output(*inputs, str(path), acodec="pcm_s16le", vcodec="copy"))
    np.testing.assert_allclose(audio(path), noise(1), atol=1e-4)
    assert len(frames(path)) == 25


def test_flv_without_duration_or_index(tmp_path: Path) -> None:
    flags = "no_duration_filesize+no_metadata+no_sequence_end"
    path = record(tmp_path / "v.flv", frames=100, samples=noise(4), flvflags=flags, g=250, **CONTAINERS["flv"])
    assert [n for _, n in frames(path)] == list(range(100))
    assert [n for _, n in frames(path, 2.0, 3.0)] == [n for seconds, n in frames(path) if 2.0 <= seconds < 3.0]


# --- faults -------------------------------------------------------------------------------------------------------------


def reason(path: Path | str) -> str:
    with pytest.raises(ClipError) as e, open_media(Clip("clip", str(path)), Deadline(20)) as media:
        media.audio()
    return str(e.value)


def test_files_that_are_no_recording(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "pointer.flv").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n")
    (tmp_path / "text.mp4").write_text("not a recording\n" * 50)
    (tmp_path / "text.dat").write_text("not a recording\n" * 50)
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "fifo.mp4")
    assert reason(tmp_path / "empty.mp4") == "the file is empty"
    assert "No such file" in reason(tmp_path / "missing.mp4")
    assert "git lfs pull" in reason(tmp_path / "pointer.flv")
    assert "moov atom not found" in reason(tmp_path / "text.mp4")
    assert "not a recording in a format" in reason(tmp_path / "text.dat")
    for special in (tmp_path / "folder.mp4", tmp_path / "fifo.mp4", "/dev/zero", "/dev/null"):
        assert reason(special) == "can't read the file: not a file but a folder, a pipe or a device"
    assert "null" in reason("a\0b.mp4")
    assert "surrogates" in reason("a\ud800b.mp4")


def test_mp4_cut_before_its_index(recordings: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(recordings["mp4"].read_bytes()[:-8000])
    assert outcome(path) == ("ClipError: can't decode: moov atom not found",) * 2


@pytest.mark.parametrize("suffix", ["mkv", "flv", "mpg", "ts", "avi", "webm", "wmv", "ogv"])
def test_what_a_cut_file_still_holds_comes_out(recordings: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    whole = recordings[suffix].read_bytes()
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with open_media(Clip("clip", str(path))) as media:
        numbers = [number(frame) for _, frame in media.frames()]
        samples = media.audio()
        notes = media.notes
    # The last ones may lack what they refer to; the others are all there, unharmed.
    assert numbers[:-5] == list(range(len(numbers) - 5))
    assert 60 < len(numbers) < 120
    assert 1.8 * AUDIO_RATE < len(samples) < 4.8 * AUDIO_RATE
    if suffix in ("mkv", "webm"):
        assert notes == ["File ended prematurely"]


@pytest.mark.parametrize("suffix", [*CONTAINERS, "mp3", "flac", "opus", "wav"])
def test_damage_in_the_middle_costs_what_it_hit(recordings: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    """Some bytes replaced at random: most of the clip comes out, in order, and never a crash of ours."""
    random = np.random.default_rng(1)
    whole = recordings.get(suffix) or record(tmp_path / f"whole.{suffix}", samples=noise(6))
    data = bytearray(whole.read_bytes())
    for where in random.integers(len(data) // 3, len(data) * 2 // 3, 20):
        data[where] = random.integers(256)
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(data)
    with open_media(Clip("clip", str(path)), Deadline(30)) as media:
        samples = media.audio()
        assert np.isfinite(samples).all()
        assert np.abs(samples).max() <= 1
        assert len(samples) > 1.8 * AUDIO_RATE
        if suffix in recordings:
            times = [seconds for seconds, _ in media.frames()]
            assert len(times) > 45
            assert times == sorted(times)


def test_garbage_is_refused_or_decoded_and_never_crashes(recordings: dict[str, Path], tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    began = time.monotonic()
    for i, suffix in enumerate(["mp4", "mkv", "flv", "mpg", "ts", "avi", "mp3", "aac", "ogg", "wav", "h264", "dv"] * 2):
        data = random.bytes(int(random.integers(1, 20_000)))
        if suffix in recordings and i % 2:  # a real beginning, and garbage behind it
            data = recordings[suffix].read_bytes()[:2000] + data
        path = tmp_path / f"{i}.{suffix}"
        path.write_bytes(data)
        outcome(path)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("side", [16384, 65500])
def test_a_huge_declared_size_is_refused(tmp_path: Path, side: int) -> None:
    """A small JPEG frame whose header claims an image of hundreds of megapixels."""
    data = bytearray(record(tmp_path / "v.mjpeg", frames=1, vcodec="mjpeg", pix_fmt="yuvj420p").read_bytes())
    header = data.index(b"\xff\xc0")  # start of frame: length (2 bytes), bits, height, width
    data[header + 5 : header + 9] = side.to_bytes(2, "big") * 2
    path = tmp_path / "huge.mjpeg"
    path.write_bytes(data)
    assert outcome(path)[0].startswith("ClipError: ")


def test_a_cut_shorter_than_a_sample_is_refused(recordings: dict[str, Path]) -> None:
    with pytest.raises(ClipError, match="nothing between"):
        audio(recordings["mp4"], 1.0, 1.00001)


def test_a_track_that_holds_nothing(tmp_path: Path) -> None:
    assert "nothing" in reason(record(tmp_path / "a.wav", samples=np.zeros(0)))


@pytest.fixture(scope="module")
def silence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half an hour of silence in a file of a few dozen kilobytes."""
    path = tmp_path_factory.mktemp("silence") / "silence.flac"
    write(ffmpeg.input("anullsrc=r=8000:cl=mono", f="lavfi", t=1800).output(str(path), compression_level=0))
    assert path.stat().st_size < 400_000
    return path


def test_audio_without_end_is_refused(silence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.media, "MAX_AUDIO_SECONDS", 60)
    with pytest.raises(ClipError, match=r"longer than 60 s: cut it with start and end"):
        audio(silence)
    assert len(audio(silence, 1500, 1510)) == 160_000  # but a part of it can be had


def test_deadline_while_decoding(silence: Path) -> None:
    began = time.monotonic()
    with (
        pytest.raises(ClipError, match=r"timeout: took longer than 0\.2 s"),
        open_media(Clip("clip", str(silence)), Deadline(0.2)) as media,
    ):
        media.audio(48_000)
    assert time.monotonic() - began < 1.5


def test_deadline_while_the_reader_is_slow(recordings: dict[str, Path]) -> None:
    with open_media(Clip("clip", str(recordings["mp4"])), Deadline(1.5)) as media:
        found = media.frames()
        assert next(found)[0] == 0
        time.sleep(1.5)
        with pytest.raises(ClipError, match=r"timeout: took longer than 1\.5 s"):
            next(found)


def children() -> list[str]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended since
            found += (task / "children").read_text().split()
    return found


def test_nothing_is_left_behind(recordings: dict[str, Path], tmp_path: Path) -> None:
    """Whole, left early, failing: no process, thread or open file remains."""
    (tmp_path / "text.mp4").write_text("not a recording\n")

    def use(i: int) -> None:
        with open_media(Clip("clip", str(recordings["mp4"]), 0, 1)) as media:
            for n, _ in enumerate(media.frames()):
                if n == i % 30:  # 25 frames: sometimes left early, sometimes not
                    break
        assert reason(tmp_path / "text.mp4")

    use(0)
    before = set(os.listdir("/proc/self/fd")), threading.active_count(), children()
    for i in range(0, 30, 3):
        use(i)
    assert (set(os.listdir("/proc/self/fd")), threading.active_count(), children()) == before


# --- hostile files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.3)
        yield server


def scripts(target: str) -> dict[str, str]:
    """Files of text that make a player open another address."""
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-VERSION:3\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT9S" '
        'minBufferTime="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
        f'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    )
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    return {"hls": hls, "dash": dash, "concat": f"ffconcat version 1.0\nfile '{target}'\n", "sdp": sdp}


@pytest.mark.parametrize("suffix", ["m3u8", "mp4", "ts"])
@pytest.mark.parametrize("kind", ["hls", "dash", "concat", "sdp"])
def test_a_script_opens_no_other_file(recordings: dict[str, Path], tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"script.{suffix}"
    path.write_text(scripts(str(recordings["ts"]))[kind])
    assert all(found.startswith("ClipError: can't decode: ") for found in outcome(path))


@pytest.mark.parametrize("suffix", ["m3u8", "mp4", "mpd"])
@pytest.mark.parametrize("kind", ["hls", "dash", "concat"])
def test_a_script_opens_no_connection(tmp_path: Path, listener: socket.socket, kind: str, suffix: str) -> None:
    port = listener.getsockname()[1]
    path = tmp_path / f"script.{suffix}"
    path.write_text(scripts(f"http://127.0.0.1:{port}/secret.ts")[kind])
    assert all(found.startswith("ClipError: ") for found in outcome(path))
    with pytest.raises(TimeoutError):
        listener.accept()


NAMES = ["clip%03d.wav", "-i.wav", "a:b.wav", "file:a.wav", "concat:1.wav|2.wav", "sp ace.wav", "q'u\"o.wav", "new\nline.wav"]
NAMES += ["ünï漢.wav", "a?b#c%20d.wav", "pipe:0", "[0:v],;=.wav", "$HOME`id`.wav", "*.wav", "a\\b.wav", "https:example.wav"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_means_exactly_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Others lie beside it that a pattern, a list or a prefix would find."""
    for other in ("clip001.wav", "1.wav", "2.wav", "a.wav", "b.wav"):
        record(tmp_path / other, samples=np.zeros(100))
    (tmp_path / name).write_bytes(record(tmp_path / "right.wav", samples=np.full(777, 0.5)).read_bytes())
    monkeypatch.chdir(tmp_path)
    for uri in (name, str(tmp_path / name), f"file://{tmp_path / name}"):
        np.testing.assert_allclose(audio(uri), np.full(777, 0.5), atol=1e-4)


def test_ffmpeg_does_not_listen_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tmp_path / "report.log"
    monkeypatch.setenv("FFREPORT", f"file={report}:level=48")
    monkeypatch.setenv("AV_LOG_FORCE_COLOR", "1")
    (tmp_path / "text.mp4").write_text("not a recording\n" * 50)
    assert reason(tmp_path / "text.mp4") == "can't decode: moov atom not found"
    assert not report.exists()


# --- addresses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1/a.mp4",
        "ftp://host/a.mp4",
        "s3://bucket/a::file:///etc/passwd",
        "memory://a.mp4",
        "simplecache::s3://b/a",
    ],
)
def test_addresses_of_other_kinds_are_refused(uri: str) -> None:
    assert "expected a path or one of" in reason(uri)


def test_a_remote_recording_is_fetched_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through fsspec's file system in memory, which is allowed for this once."""
    monkeypatch.setattr(pipeline.files, "REMOTE_SCHEMES", frozenset({"memory"}))
    local = record(tmp_path / "a.wav", samples=np.full(777, 0.5))
    fsspec.filesystem("memory").pipe_file("/bucket/a.wav", local.read_bytes())
    with open_media(Clip("clip", "memory://bucket/a.wav")) as media:
        np.testing.assert_allclose(media.audio(), np.full(777, 0.5), atol=1e-4)
        assert Path(media.path).exists()
    assert not Path(media.path).exists()
    assert reason("memory://bucket/missing.wav") == "can't read memory://bucket/missing.wav: FileNotFoundError"


@pytest.mark.parametrize(("end", "note"), [(2.3, []), (4.5, ["the audio ends 2.5 s before the clip does"])])
def test_a_clip_that_ends_after_its_recording_says_so(tmp_path: Path, end: float, note: list[str]) -> None:
    wavfile.write(tmp_path / "two.wav", 16_000, np.full(32_000, 1000, np.int16))
    with open_media(Clip("clip", str(tmp_path / "two.wav"), 1.0, end)) as media:
        assert len(media.audio()) == 16_000
        assert media.notes == note
