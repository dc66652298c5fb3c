"""Pitch, loudness, voice quality, spectral shape and cepstrum of speech, 100 frames a second, under a permissive licence.

F0 is by WORLD (Morise et al. 2016: DIO, refined by StoneMask). Everything else is computed here from the short-time
spectrum, with numpy and scipy.

Frame i is centred on i * 0.01 s, in every column. Two windows are used, both Hann, both with the frame's own mean taken
out (so a DC offset changes nothing): 25 ms for energy and spectral shape, 50 ms where the harmonics have to be resolved
(hnr_db, cpp_db, h1_h2_db). Outside the clip there is silence.

| column | unit | what |
|---|---|---|
| f0_semitone | semitones above 27.5 Hz | fundamental frequency; 0 where unvoiced |
| voicing | 0 or 1 | whether DIO finds a fundamental |
| hnr_db | dB | harmonics-to-noise ratio r / (1 - r), r the highest peak of autocorrelation (Boersma 1993); in -20..40 |
| cpp_db | dB | cepstral peak prominence: the peak over the regression line (Hillenbrand et al. 1994) |
| h1_h2_db | dB | level of the first harmonic over the second (breathy is high, pressed is low); 0 where unvoiced |
| rms_db | dB of full scale | root mean square |
| loudness | - | sum of the mel bands' energies, each to the power 0.3 |
| zero_crossing_rate | crossings a sample | |
| centroid_hz, spread_hz | Hz | mean and standard deviation of frequency, weighted by power |
| slope_0_500, slope_500_1500 | dB / kHz | regression line of the level over frequency, in the band |
| flatness_db | dB | geometric over arithmetic mean of power: 0 is white noise |
| rolloff_85_hz | Hz | 85 % of the power lies below |
| flux | - | distance between this frame's and the last frame's magnitude spectra, each scaled to sum to 1 |
| alpha_ratio_db | dB | level of 50-1000 Hz over that of 1-5 kHz |
| hammarberg_db | dB | strongest component of 0-2 kHz over the strongest of 2-5 kHz |
| mfcc_01 ... mfcc_13 | - | orthonormal DCT-II of the natural log of 40 mel bands (20-8000 Hz), without coefficient 0 |
| delta_rms_db, delta_mfcc_01 ... | a frame | slope of the regression line over five frames (two before, two after) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyworld
import scipy.fft

from pipeline.clip import Clip
from pipeline.media import AUDIO_RATE, Media
from pipeline.streams.base import AudioExtractor, Features

Array = npt.NDArray[np.float64]

HOP = 160  # samples, 10 ms
WINDOW = 400  # 25 ms
LONG_WINDOW = 800  # 50 ms: three periods at 60 Hz, which the autocorrelation needs
FFT = 512
LONG_FFT = 2048
LAG_RATE = 2 * AUDIO_RATE  # lags of the autocorrelation a second
BLOCK = 1000  # frames held in memory as spectra at a time

F0_FLOOR, F0_CEILING = 60.0, 700.0  # Hz
F0_REFERENCE = 27.5  # Hz, A0

# Power of the quantisation noise of a 16-bit recording, about: what is below is silence. It keeps logarithms finite.
POWER_FLOOR = 1e-10
HNR_RANGE = (-20.0, 40.0)  # dB; a frame may have no period at all, or no noise

N_MELS = 40
LOWEST_MEL_HZ = 20.0
N_MFCC = 13
DELTA_REACH = 2

MFCC = tuple(f"mfcc_{i:02d}" for i in range(1, N_MFCC + 1))
COLUMNS = (
    *("f0_semitone", "voicing", "hnr_db", "cpp_db", "h1_h2_db"),
    *("rms_db", "loudness", "zero_crossing_rate"),
    *("centroid_hz", "spread_hz", "slope_0_500", "slope_500_1500", "flatness_db", "rolloff_85_hz", "flux"),
    *("alpha_ratio_db", "hammarberg_db"),
    *MFCC,
    "delta_rms_db",
    *(f"delta_{name}" for name in MFCC),
)


@dataclass(frozen=True)
class Acoustic(AudioExtractor):
    """Hand-made acoustic features: see the module for the columns. Values are finite for any clip, silence too."""

    name: ClassVar[str] = "acoustic"
    version: ClassVar[str] = "1"
    frame_shift: ClassVar[float | None] = HOP / AUDIO_RATE
    licence: ClassVar[str] = "Apache-2.0; F0 by WORLD (BSD-3-Clause) through pyworld (MIT)"

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS

    def extract(self, clip: Clip, media: Media) -> Features:
        """1 + n_samples // 160 frames. Raises what Media.audio raises."""
        samples = self.samples(media).astype(np.float64)
        n = 1 + len(samples) // HOP
        f0 = fundamental_frequency(samples)

        table: dict[str, list[Array]] = {}
        previous_shape: Array | None = None
        for start in range(0, n, BLOCK):
            media.deadline.check()
            stop = min(start + BLOCK, n)
            short = _frames(samples, WINDOW, start, stop)
            spectrum = power_spectrum(short, FFT)
            long_spectrum = power_spectrum(_frames(samples, LONG_WINDOW, start, stop), LONG_FFT)

            shape = _sum_to_one(np.sqrt(spectrum))
            before = np.vstack([shape[:1] if previous_shape is None else previous_shape, shape[:-1]])
            previous_shape = shape[-1:]

            block = energy(short) | spectral_shape(spectrum) | cepstrum(spectrum) | voice_quality(long_spectrum, f0[start:stop])
            block["flux"] = np.linalg.norm(shape - before, axis=1)
            for name, column in block.items():
                table.setdefault(name, []).append(column)

        columns = {name: np.concatenate(blocks) for name, blocks in table.items()}
        voiced = f0 > 0
        columns["voicing"] = voiced.astype(np.float64)
        columns["f0_semitone"] = np.where(voiced, 12 * np.log2(np.where(voiced, f0, F0_REFERENCE) / F0_REFERENCE), 0.0)
        for name in ("rms_db", *MFCC):
            columns[f"delta_{name}"] = delta(columns[name])
        values = np.stack([columns[name] for name in COLUMNS], axis=1).astype(np.float32)
        return Features(values, self.times(n, HOP))


def fundamental_frequency(samples: Array) -> Array:
    """F0 in Hz of each frame, 0 where unvoiced. Shape (1 + n_samples // 160,)."""
    frame_period = 1000 * HOP / AUDIO_RATE  # ms
    rough, times = pyworld.dio(samples, AUDIO_RATE, f0_floor=F0_FLOOR, f0_ceil=F0_CEILING, frame_period=frame_period)
    f0: Array = pyworld.stonemask(samples, rough, times, AUDIO_RATE)
    return f0


def power_spectrum(frames: Array, n_fft: int) -> Array:
    """Power by frequency, (n_frames, n_fft // 2 + 1). White noise of variance v has an expected power of v in every bin."""
    window = np.hanning(frames.shape[1] + 1)[:-1]
    spectrum = scipy.fft.rfft(frames * window, n_fft, axis=1)
    power: Array = (spectrum.real**2 + spectrum.imag**2) / np.sum(window**2)
    return power


def energy(frames: Array) -> dict[str, Array]:
    power = np.mean(frames**2, axis=1)
    negative = frames < 0
    return {
        "rms_db": _decibel(power),
        "zero_crossing_rate": np.mean(negative[:, 1:] != negative[:, :-1], axis=1),
    }


def spectral_shape(spectrum: Array) -> dict[str, Array]:
    """Of (n_frames, n_bins) power from 0 Hz to the Nyquist frequency. A silent frame has centroid, spread and rolloff 0."""
    frequency = np.linspace(0, AUDIO_RATE / 2, spectrum.shape[1])
    level = _decibel(spectrum)
    weight = _sum_to_one(spectrum)
    centroid = weight @ frequency
    spread = np.sqrt(np.sum(weight * (frequency - centroid[:, None]) ** 2, axis=1))
    rolloff = frequency[np.argmax(np.cumsum(weight, axis=1) >= 0.85, axis=1)]

    def band(low: float, high: float) -> slice:
        return slice(*np.searchsorted(frequency, (low, high)))

    return {
        "centroid_hz": centroid,
        "spread_hz": spread,
        "slope_0_500": _slope(level[:, band(0, 500)], frequency[band(0, 500)] / 1000),
        "slope_500_1500": _slope(level[:, band(500, 1500)], frequency[band(500, 1500)] / 1000),
        "flatness_db": np.mean(level, axis=1) - _decibel(np.mean(np.maximum(spectrum, POWER_FLOOR), axis=1)),
        "rolloff_85_hz": rolloff,
        "alpha_ratio_db": (
            _decibel(np.mean(spectrum[:, band(50, 1000)], axis=1)) - _decibel(np.mean(spectrum[:, band(1000, 5000)], axis=1))
        ),
        "hammarberg_db": np.max(level[:, band(0, 2000)], axis=1) - np.max(level[:, band(2000, 5000)], axis=1),
    }


def cepstrum(spectrum: Array) -> dict[str, Array]:
    """MFCCs, and the loudness that comes from the same mel bands, of (n_frames, 257) power."""
    mel = spectrum @ MEL_FILTERS.T
    coefficients = scipy.fft.dct(np.log(np.maximum(mel, POWER_FLOOR)), type=2, norm="ortho", axis=1)
    columns = {name: coefficients[:, i] for i, name in enumerate(MFCC, start=1)}
    return {**columns, "loudness": np.sum(mel**0.3, axis=1)}


def voice_quality(spectrum: Array, f0: Array) -> dict[str, Array]:
    """HNR, CPP and H1-H2 of (n_frames, 1025) power, whose harmonics are resolved; f0 in Hz, 0 where unvoiced."""
    level = _decibel(spectrum)
    return {
        "hnr_db": _harmonics_to_noise(spectrum),
        "cpp_db": _cepstral_peak_prominence(level),
        "h1_h2_db": np.where(f0 > 0, _level_at(level, f0) - _level_at(level, 2 * f0), 0.0),
    }


def delta(column: Array) -> Array:
    """Slope of the regression line over five frames; the first and last frames are repeated beyond the ends."""
    padded = np.pad(column, DELTA_REACH, mode="edge")
    n = len(column)
    reach = range(1, DELTA_REACH + 1)
    rise = [k * (padded[DELTA_REACH + k :][:n] - padded[DELTA_REACH - k :][:n]) for k in reach]
    slope: Array = np.sum(rise, axis=0) / (2 * sum(k * k for k in reach))
    return slope


def _frames(samples: Array, window: int, start: int, stop: int) -> Array:
    """Frames start to stop (exclusive), each centred on its time and with its mean taken out: (stop - start, window)."""
    first = start * HOP - window // 2
    last = (stop - 1) * HOP + window // 2
    piece = np.pad(samples[max(first, 0) : last], (max(-first, 0), max(last - len(samples), 0)))
    frames = np.lib.stride_tricks.sliding_window_view(piece, window)[::HOP]
    centred: Array = frames - frames.mean(axis=1, keepdims=True)
    return centred


def _mel_filters() -> Array:
    """Triangles of height 1, evenly spaced on the mel scale of O'Shaughnessy (HTK's): (40, 257)."""
    frequency = np.linspace(0, AUDIO_RATE / 2, FFT // 2 + 1)
    lowest, highest = 2595 * np.log10(1 + np.array([LOWEST_MEL_HZ, AUDIO_RATE / 2]) / 700)
    corner = 700 * (10 ** (np.linspace(lowest, highest, N_MELS + 2) / 2595) - 1)
    low, middle, high = corner[:-2, None], corner[1:-1, None], corner[2:, None]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    filters: Array = np.maximum(0.0, np.minimum(rising, falling))
    return filters


MEL_FILTERS = _mel_filters()


def _autocorrelation(spectrum: Array) -> Array:
    # At twice the rate, for the peak of a bright voice is so narrow that it would fall between two samples.
    r: Array = scipy.fft.irfft(spectrum, LAG_RATE // AUDIO_RATE * LONG_FFT, axis=1)
    return r


def _autocorrelation_of_window() -> Array:
    window = np.hanning(LONG_WINDOW + 1)[:-1]
    r = _autocorrelation(np.abs(scipy.fft.rfft(window, LONG_FFT))[None] ** 2)[0]
    normalised: Array = r / r[0]
    return normalised


WINDOW_AUTOCORRELATION = _autocorrelation_of_window()


def _harmonics_to_noise(spectrum: Array) -> Array:
    # The window's own autocorrelation is divided out, or long periods would look noisy. Only a true peak counts: in
    # noise of low frequency the autocorrelation just falls off, and its value at the shortest lag is no period.
    shortest, longest = int(LAG_RATE / F0_CEILING), int(LAG_RATE / F0_FLOOR)
    r = _autocorrelation(spectrum)[:, : longest + 2]
    r = r / np.maximum(r[:, :1], POWER_FLOOR) / WINDOW_AUTOCORRELATION[: longest + 2]
    before, here, after = r[:, shortest - 1 : longest], r[:, shortest : longest + 1], r[:, shortest + 1 : longest + 2]
    is_peak = (here >= before) & (here > after)
    # A parabola through the three points gives the height between samples.
    curvature = np.where(is_peak, 2 * here - before - after, 1.0)
    height = np.where(is_peak, here + (before - after) ** 2 / (8 * curvature), 0.0)
    lowest, highest = (1 / (1 + 10 ** (-limit / 10)) for limit in HNR_RANGE)
    best = np.clip(np.max(height, axis=1), lowest, highest)
    ratio: Array = 10 * np.log10(best / (1 - best))
    return ratio


def _cepstral_peak_prominence(level: Array) -> Array:
    # As in Praat and others the cepstrum is of the level in dB, and its magnitude is again put in dB.
    shortest, longest = int(AUDIO_RATE / F0_CEILING), int(AUDIO_RATE / F0_FLOOR)
    real_cepstrum = scipy.fft.irfft(level, axis=1)[:, shortest : longest + 1]
    magnitude = 20 * np.log10(np.maximum(np.abs(real_cepstrum), 1e-3))
    quefrency = np.arange(shortest, longest + 1, dtype=np.float64)
    line = np.mean(magnitude, axis=1, keepdims=True) + _slope(magnitude, quefrency)[:, None] * (quefrency - quefrency.mean())
    peak = np.argmax(magnitude, axis=1)
    rows = np.arange(len(level))
    prominence: Array = magnitude[rows, peak] - line[rows, peak]
    return prominence


def _level_at(level: Array, frequency: Array) -> Array:
    """Level in dB at one frequency (Hz) a frame, on a straight line between the two bins beside it."""
    position = frequency * LONG_FFT / AUDIO_RATE
    below = position.astype(np.intp)
    share = position - below
    rows = np.arange(len(level))
    return (1 - share) * level[rows, below] + share * level[rows, below + 1]


def _slope(values: Array, x: Array) -> Array:
    """Slope of the least-squares line through each row of values over x."""
    centred = x - x.mean()
    slope: Array = values @ centred / np.sum(centred**2)
    return slope


def _sum_to_one(rows: Array) -> Array:
    shares: Array = rows / np.maximum(rows.sum(axis=1, keepdims=True), POWER_FLOOR)
    return shares


def _decibel(power: Array) -> Array:
    level: Array = 10 * np.log10(np.maximum(power, POWER_FLOOR))
    return level
