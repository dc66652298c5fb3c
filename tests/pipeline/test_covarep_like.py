"""The COVAREP-like stream on vowels whose glottal flow and vocal tract are known, and on sounds that are no voice."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import sources
from scipy.optimize import brentq

from pipeline.media import AUDIO_RATE
from pipeline.streams import DEFAULT_STREAMS, make_stream
from pipeline.streams.base import Features
from pipeline.streams.covarep_like import COLUMNS, CovarepLike

Samples = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[np.float32]]

POINTS = 8192  # of a period of flow
GLOTTAL = ("NAQ", "QOQ", "H1H2", "PSP", "peakSlope")
MCEP = [f"MCEP_{m}" for m in range(25)]
INNER = slice(10, -10)  # frames whose windows lie inside the sound
FORMANTS = {"a": (730, 1090, 2440, 3500), "ae": (660, 1720, 2410, 3500), "e": (530, 1840, 2480, 3600)}
HIGHER = (4500, 5500, 6500, 7500)
BANDWIDTHS = (70, 90, 120, 150, 200, 250, 300, 350)


def extract(samples: Samples, rate: int = AUDIO_RATE) -> Features:
    return sources.extract(CovarepLike(), samples, rate)


def columns_of(samples: Samples, rate: int = AUDIO_RATE) -> Columns:
    return dict(zip(COLUMNS, extract(samples, rate).values.T, strict=True))


def klglott88(open_quotient: float) -> Samples:
    """Derivative of one period of flow after Klatt and Klatt (1990): t^2 - t^3 while open, an abrupt end, and closed."""
    t = np.arange(POINTS) / POINTS / open_quotient
    return np.where(t < 1, 2 * t - 3 * t**2, 0.0)


def liljencrants_fant(rd: float) -> Samples:
    """Derivative of one period of flow after Fant et al. (1985), its shape by Rd (Fant 1995): 0.3 pressed ... 2.7 breathy."""
    ra, rk = (-1 + 4.8 * rd) / 100, (22.4 + 11.8 * rd) / 100
    rg = rk / 4 / (0.11 * rd / (0.5 + 1.2 * rk) - ra)
    peak = 1 / (2 * rg)
    closing = peak * (1 + rk)
    decay = brentq(lambda e: e * ra - 1 + np.exp(-e * (1 - closing)), 0.01, 1 / ra + 1)
    t = (np.arange(POINTS) + 0.5) / POINTS

    def shape(growth: float) -> Samples:
        opening = -np.exp(growth * (t - closing)) * np.sin(np.pi * t / peak) / np.sin(np.pi * closing / peak)
        back = -(np.exp(-decay * (t - closing)) - np.exp(-decay * (1 - closing))) / (decay * ra)
        return np.where(t < closing, opening, back)

    return shape(brentq(lambda growth: shape(growth).sum(), -100, 300))  # the flow ends as it began


def truth(derivative: Samples) -> dict[str, float]:
    """NAQ, QOQ, H1H2 and PSP of a period of flow, from the definitions."""
    flow = np.cumsum(derivative - derivative.mean()) / POINTS
    flow -= flow.min()
    harmonic = np.abs(np.fft.rfft(flow))
    return {
        "NAQ": flow.max() / -derivative.min(),
        "QOQ": np.mean(flow > flow.max() / 2),
        "H1H2": 20 * np.log10(harmonic[1] / harmonic[2]),
        "PSP": curvature(np.roll(flow, -flow.argmin())) / curvature(np.ones(POINTS)),
    }


def curvature(flow: Samples) -> float:
    """Of the parabola over the first points of the level spectrum, as many as leave less than 1 % of it unexplained."""
    spectrum = np.abs(np.fft.rfft(flow, 16 * POINTS))
    for n in range(3, 34):
        level = 20 * np.log10(spectrum[:n] / spectrum[0])
        basis = np.stack([np.arange(n) ** 2.0, np.ones(n)], axis=1)
        (a, _), error, _, _ = np.linalg.lstsq(basis, level)
        if error[0] > 0.01 * np.sum(level**2):
            break
    return float(a)


def vowel(derivative: Samples, f0: float, name: str = "a", duration: float = 0.4, rate: int = AUDIO_RATE) -> Samples:
    """A steady vowel, harmonic by harmonic: the flow's derivative through poles at the formants; with a little noise."""
    k = np.arange(1, int(7800 / f0) + 1)
    harmonics = np.fft.rfft(derivative)[k]
    z = np.exp(2j * np.pi * f0 * k / AUDIO_RATE)
    for formant, bandwidth in zip(FORMANTS[name] + HIGHER, BANDWIDTHS, strict=True):
        pole = np.exp((-np.pi * bandwidth + 2j * np.pi * formant) / AUDIO_RATE)
        harmonics = harmonics / ((1 - pole / z) * (1 - pole.conjugate() / z))
    t = np.arange(round(duration * rate)) / rate
    sound = (np.exp(2j * np.pi * f0 * np.outer(t, k)) @ harmonics).real
    return 0.3 * sound / np.abs(sound).max() + noise(len(t), 1e-4)


def noise(n: int, amplitude: float = 0.1, seed: int = 0) -> Samples:
    return amplitude * np.random.default_rng(seed).normal(size=n)


def medians(sounds: Sequence[Samples]) -> dict[str, list[float]]:
    """Of each column over each sound's inner frames. The sounds are of one length, and become one recording."""
    gap = np.zeros(AUDIO_RATE // 10)
    found = columns_of(np.concatenate([part for sound in sounds for part in (sound, gap)]))
    step, length = (len(sounds[0]) + len(gap)) // 160, len(sounds[0]) // 160
    pieces = [slice(i * step + 10, i * step + length - 10) for i in range(len(sounds))]
    return {name: [float(np.median(found[name][piece])) for piece in pieces] for name in ("F0", "VUV", *GLOTTAL)}


def rises(values: Sequence[float]) -> bool:
    return bool(np.all(np.diff(values) > 0))


# ------------------------------------------------------------------------------------------------------ glottal source


@pytest.mark.parametrize("f0", [100.0, 150.0, 220.0])
@pytest.mark.parametrize("name", FORMANTS)
def test_source_parameters_rise_with_the_open_quotient_and_are_near_those_of_the_flow(name: str, f0: float) -> None:
    flows = [klglott88(oq) for oq in (0.3, 0.5, 0.7, 0.9)]
    found = medians([vowel(flow, f0, name) for flow in flows])
    assert found["F0"] == pytest.approx([f0] * 4, rel=0.005)
    assert found["VUV"] == [1, 1, 1, 1]
    for column in ("NAQ", "QOQ", "H1H2"):
        assert rises(found[column]), (column, found[column])
    expected = [truth(flow) for flow in flows]
    near = {"rel": 0.22} if f0 < 200 else {"abs": 0.02}
    assert found["NAQ"] == pytest.approx([e["NAQ"] for e in expected], **near)
    assert found["QOQ"] == pytest.approx([e["QOQ"] for e in expected], abs=0.1)
    if f0 < 200:
        assert found["H1H2"] == pytest.approx([e["H1H2"] for e in expected], abs=1.5)
        assert found["PSP"][1:] == pytest.approx([e["PSP"] for e in expected[1:]], abs=0.07)


def test_naq_of_the_pulse_is_by_hand_4_27ths_of_the_open_quotient() -> None:
    # t^2 - t^3 has its peak of 4/27 at 2/3, and falls by 1 at the end: the fixture's truth is that of the formula.
    assert truth(klglott88(0.6))["NAQ"] == pytest.approx(4 / 27 * 0.6, rel=0.01)


@pytest.mark.parametrize("f0", [100.0, 150.0, 220.0])
@pytest.mark.parametrize("name", FORMANTS)
def test_breathy_pulses_are_told_from_pressed_ones(name: str, f0: float) -> None:
    found = medians([vowel(liljencrants_fant(rd), f0, name) for rd in (0.5, 1.0, 1.8, 2.7)])
    for column in ("NAQ", "QOQ", "H1H2"):
        assert rises(found[column]), (column, found[column])
    pressed, modal, breathy, very_breathy = range(4)
    slope, psp = found["peakSlope"], found["PSP"]
    assert slope[pressed] > slope[modal] > slope[breathy]
    assert slope[modal] > slope[very_breathy]
    if f0 < 200:  # ripples of the formants in the closed phase weigh more, the fewer harmonics there are
        assert max(psp[pressed], psp[modal]) < psp[breathy] < psp[very_breathy]
        expected = [truth(liljencrants_fant(rd)) for rd in (0.5, 1.0, 1.8, 2.7)]
        assert found["NAQ"] == pytest.approx([e["NAQ"] for e in expected], rel=0.2)
        assert found["QOQ"] == pytest.approx([e["QOQ"] for e in expected], abs=0.03)
        assert found["H1H2"] == pytest.approx([e["H1H2"] for e in expected], abs=4)
        assert found["PSP"][1:] == pytest.approx([e["PSP"] for e in expected[1:]], abs=0.03)


def test_a_voice_that_glides_is_followed() -> None:
    # One pulse shape, F0 from 100 to 200 Hz in a second: the source parameters stay, F0 does not.
    f0 = np.linspace(100, 200, AUDIO_RATE)
    phase = np.cumsum(f0) / AUDIO_RATE
    k = np.arange(1, 39)  # 38 * 200 Hz lies below 8 kHz
    voice = (np.exp(2j * np.pi * np.outer(phase, k)) @ np.fft.rfft(klglott88(0.6))[k]).real
    found = columns_of(0.3 * voice / np.abs(voice).max() + noise(AUDIO_RATE, 1e-4))
    assert found["F0"][INNER] == pytest.approx(f0[::160][10:91], rel=0.02)
    assert np.nanmedian(found["QOQ"]) == pytest.approx(truth(klglott88(0.6))["QOQ"], abs=0.05)
    assert np.nanpercentile(found["QOQ"][INNER], 90) - np.nanpercentile(found["QOQ"][INNER], 10) < 0.1


def test_peak_slope_of_a_click_train_is_level_and_of_steps_falls_by_half_an_octave() -> None:
    # Amplitudes of a click are equal in all octaves; of a step, halved by each octave up: log10(1/2).
    k = np.arange(1, 80)
    harmonic = np.exp(2j * np.pi * 100 * np.outer(np.arange(AUDIO_RATE) / AUDIO_RATE, k))
    clicks, steps = (harmonic @ np.ones(79)).real / 100, (harmonic @ (1 / k)).imag / 10
    assert np.median(columns_of(clicks)["peakSlope"][INNER]) == pytest.approx(0, abs=0.05)
    assert np.median(columns_of(steps)["peakSlope"][INNER]) == pytest.approx(np.log10(0.5), abs=0.05)


def test_source_parameters_are_there_in_voiced_frames_alone() -> None:
    found = columns_of(np.concatenate([noise(8000, 0.01), vowel(klglott88(0.5), 140, duration=0.6), np.zeros(8000)]))
    voiced = found["VUV"] == 1
    assert voiced[55:105].all()
    assert voiced[:40].mean() < 0.2  # noise
    assert not voiced[120:].any()
    assert np.array_equal(voiced, found["F0"] > 0)
    for column in GLOTTAL:
        assert np.isnan(found[column][~voiced]).all(), column
        assert np.isfinite(found[column][voiced]).all(), column
    assert all(np.isfinite(found[name]).all() for name in MCEP)


def test_a_change_of_voice_is_where_it_happens() -> None:
    # Pressed until 0.5 s, breathy from then on, in step: 125 Hz has 62.5 periods in half a second.
    pressed, breathy = (vowel(liljencrants_fant(rd), 125, duration=1.0) for rd in (0.5, 1.8))
    t = np.arange(AUDIO_RATE) / AUDIO_RATE
    found = columns_of(np.where(t < 0.5, pressed, breathy))
    for column in ("NAQ", "QOQ", "H1H2", "PSP"):
        before, after = np.median(found[column][10:40]), np.median(found[column][60:90])
        assert np.argmax(found[column][10:90] > (before + after) / 2) + 10 == pytest.approx(50, abs=1), column


def test_rumble_below_the_voice_changes_little() -> None:
    sound = vowel(klglott88(0.6), 130)
    rumble = 0.2 * np.sqrt(np.mean(sound**2)) * np.sin(2 * np.pi * 20 * np.arange(len(sound)) / AUDIO_RATE)
    with_rumble, without = columns_of(sound + rumble), columns_of(sound)
    for column, near in {"NAQ": 0.01, "QOQ": 0.02, "H1H2": 0.5, "PSP": 0.03, "peakSlope": 0.01}.items():
        assert np.abs(with_rumble[column] - without[column])[INNER].max() < near, column


def test_a_period_that_the_clip_cuts_is_not_measured() -> None:
    # Half a period of 80 Hz is 6.25 ms: of the voiced frames only the last, at the clip's very end, reaches beyond it.
    found = columns_of(vowel(klglott88(0.6), 80.0))
    assert found["VUV"].nonzero()[0].tolist() == list(range(1, 41))
    for column in ("NAQ", "QOQ", "H1H2", "PSP"):
        assert np.isnan(found[column]).nonzero()[0].tolist() == [0, 40], column


def test_columns_that_are_not_computed_are_nan_and_so_named() -> None:
    found = columns_of(vowel(klglott88(0.5), 140))
    computed = {"F0", "VUV", *GLOTTAL, *MCEP}
    assert {name for name in COLUMNS if not np.isnan(found[name]).all()} == computed
    assert COLUMNS[:11] == ("F0", "VUV", "NAQ", "QOQ", "H1H2", "PSP", "MDQ", "peakSlope", "Rd", "Rd_conf", "creak")
    assert COLUMNS[11:] == (*MCEP, *(f"HMPDM_{i}" for i in range(25)), *(f"HMPDD_{i}" for i in range(13)))


# --------------------------------------------------------------------------------------------------------- mel-cepstra


def mel_shape(frequency: Samples, cepstrum: Samples) -> Samples:
    """Magnitude at frequencies in Hz: exp of sum c_m cos(m w'), w' the phase that an all-pass of 0.42 turns w into."""
    z = np.exp(-2j * np.pi * frequency / AUDIO_RATE)
    warped = -np.angle((z - 0.42) / (1 - 0.42 * z))
    return np.exp(np.cos(np.outer(warped, np.arange(len(cepstrum)))) @ cepstrum)


CEPSTRUM = np.array([0.0, 0.8, -0.5, 0.3, 0.2, -0.25, 0.1, 0.0, 0.1])


def test_mel_cepstra_of_a_known_filter_are_found_in_noise() -> None:
    n = 4 * AUDIO_RATE
    spectrum = np.fft.rfft(noise(n)) * mel_shape(np.fft.rfftfreq(n, 1 / AUDIO_RATE), CEPSTRUM)
    found = columns_of(np.fft.irfft(spectrum, n))
    mean = [found[name][INNER].mean() for name in MCEP]
    assert mean[1:] == pytest.approx([*CEPSTRUM[1:], *[0.0] * 16], abs=0.05)
    assert mean[0] == pytest.approx(np.log(0.1), abs=0.15)  # of white noise of deviation 0.1; logs of noise lie low


@pytest.mark.parametrize("f0", [90.0, 160.0, 250.0])
def test_mel_cepstra_give_back_the_envelope_of_a_voice(f0: float) -> None:
    k = np.arange(1, int(7999 / f0) + 1)
    magnitude = mel_shape(f0 * k, CEPSTRUM)
    t = np.arange(AUDIO_RATE) / AUDIO_RATE
    sound = (np.exp(2j * np.pi * f0 * np.outer(t, k)) @ magnitude).real
    found = columns_of(0.5 * sound / np.abs(sound).max())
    mean = np.array([found[name][INNER].mean() for name in MCEP])
    error = 20 * np.log10(mel_shape(f0 * k, mean) / magnitude)[f0 * k < 7000]  # CheapTrick mirrors what is beyond 8 kHz
    assert np.std(error) < 0.5  # dB
    assert np.abs(error - error.mean()).max() < 2.0


# ------------------------------------------------------------------------------------------------------- every signal


def test_a_tenth_of_the_level_changes_nothing_but_mcep_0() -> None:
    sound = vowel(klglott88(0.6), 130) + noise(6400, 1e-3)
    loud, quiet = columns_of(sound), columns_of(0.1 * sound)
    for name in COLUMNS:
        shift = np.log(0.1) if name == "MCEP_0" else 0.0
        assert quiet[name] == pytest.approx(loud[name] + shift, rel=1e-3, abs=1e-3, nan_ok=True), name


def test_an_offset_changes_nothing() -> None:
    sound = vowel(klglott88(0.6), 130) + noise(6400, 1e-3)
    with_offset, without = columns_of(sound + 0.2), columns_of(sound)
    for name in COLUMNS:
        assert with_offset[name][INNER] == pytest.approx(without[name][INNER], rel=1e-3, abs=2e-3, nan_ok=True), name


SOUNDS = {
    "silence": np.zeros(8000),
    "offset": np.full(8000, 0.5),
    "one click": np.eye(1, 8000, 4000)[0],
    "clicks": np.tile(np.eye(1, 160, 80)[0], 50),
    "clipped": np.sign(np.sin(2 * np.pi * 150 / AUDIO_RATE * np.arange(8000))),
    "tone": 0.5 * np.sin(2 * np.pi * 300 / AUDIO_RATE * np.arange(8000)),
    "noise": noise(8000),
    "below the floor": noise(8000, 1e-12),
    "25 ms of a vowel": vowel(klglott88(0.5), 120)[1000:1400],
    **{f"{n} samples": noise(n) for n in (1, 2, 159, 160, 161, 400)},
}


@pytest.mark.parametrize("samples", SOUNDS.values(), ids=SOUNDS)
def test_any_sound_gives_a_row_each_hop_finite_or_nan(samples: Samples) -> None:
    features = extract(samples)
    assert features.values.shape == (1 + len(samples) // 160, 74)
    assert features.values.dtype == np.float32
    assert features.times == pytest.approx(np.arange(len(features.values)) * 0.01)
    assert not np.isinf(features.values).any()
    assert np.isfinite(features.values[:, [COLUMNS.index(name) for name in ("F0", "VUV", *MCEP)]]).all()


def test_silence_is_unvoiced_and_at_the_floor() -> None:
    found = columns_of(np.zeros(8000))
    assert (found["VUV"] == 0).all()
    assert (found["F0"] == 0).all()
    assert found["MCEP_0"] == pytest.approx(0.5 * np.log(1e-10), abs=1e-3)
    assert all(found[name] == pytest.approx(0, abs=1e-3) for name in MCEP[1:])


def test_a_recording_of_44_1_khz_gives_the_same() -> None:
    flow = klglott88(0.6)
    here, there = columns_of(vowel(flow, 130)), columns_of(vowel(flow, 130, rate=44100), 44100)
    for name, near in {"F0": 0.5, "NAQ": 0.02, "QOQ": 0.02, "H1H2": 0.5, "peakSlope": 0.02}.items():
        assert np.median(there[name][INNER]) == pytest.approx(np.median(here[name][INNER]), abs=near), name


def test_long_recordings_are_cut_in_blocks_without_a_trace() -> None:
    # 500 frames are worked on at a time; the same sound 500 frames later must look the same.
    period = vowel(liljencrants_fant(1.0), 125, duration=0.4) * np.hanning(6400)
    values = extract(np.tile(period, 20)).values
    assert values[490:510] == pytest.approx(values[450:470], rel=1e-3, abs=1e-3, nan_ok=True)


def test_it_is_a_stream_by_name_not_default_and_says_what_it_is_not() -> None:
    stream = make_stream("covarep_like")
    assert isinstance(stream, CovarepLike)
    assert "covarep_like" not in DEFAULT_STREAMS["audio"]
    assert "not COVAREP" in stream.licence
    assert stream.describe()["columns"] == list(COLUMNS)
    assert pickle.loads(pickle.dumps(stream)) == stream
    sound = vowel(klglott88(0.5), 140)
    assert extract(sound).values.tobytes() == extract(sound).values.tobytes()
