"""Voice source and spectral envelope under the 74 column names of COVAREP: like it, and no replacement of it.

This is not COVAREP (Degottex et al. 2014) and has no code of it. The columns have its names and its order, and are computed
here from the papers that define them: the values differ, so that a model or statistics made with the one say nothing of the
other. Some columns are NaN in every frame.

Frame i is centred on i * 0.01 s. NaN is "not observed"; no value is infinite. Outside the clip there is silence.

| column | unit | what | frames |
|---|---|---|---|
| F0 | Hz | fundamental frequency, found as in the stream acoustic; 0 where unvoiced | all |
| VUV | 0 or 1 | whether there is a fundamental | all |
| NAQ | - | normalised amplitude quotient f_ac / (d_peak T) of the glottal flow (Alku et al. 2002) | voiced |
| QOQ | - | quasi-open quotient: share of the period with the flow above half of f_ac (Hacki 1989) | voiced |
| H1H2 | dB | level of the glottal flow's first harmonic over its second (the derivative's is 6.02 dB less) | voiced |
| PSP | - | parabolic spectral parameter of one period of the flow (Alku et al. 1997) | voiced |
| peakSlope | log10 / octave | slope over frequency of the peak amplitudes of octave bands (Kane and Gobl 2011) | voiced |
| MCEP_0 ... MCEP_24 | neper | mel-cepstrum of the envelope: ln magnitude = the sum of MCEP_m cos(m w') | all |

f_ac is the flow's greatest less its least value in a period, d_peak its steepest fall, T the period; w' is the frequency
warped by the all-pass of 0.42, which is near the mel scale at 16 kHz. The envelope is WORLD's CheapTrick (Morise 2015). A
pressed voice has lower NAQ, QOQ, H1H2 and PSP than a breathy one, and a peakSlope nearer to 0.

| NaN in every frame | why |
|---|---|
| MDQ | maxima dispersion (Kane and Gobl 2013): in trials on synthetic pulses it did not rise steadily with breathiness |
| Rd, Rd_conf | by Fant's definition (1995) Rd is NAQ / 0.11, nothing new; COVAREP's is fitted to the phase, with a confidence |
| creak | COVAREP's is a network trained on annotated creaky voice |
| HMPDM_0 ... HMPDM_24, HMPDD_0 ... HMPDD_12 | phase distortion of COVAREP's harmonic model: nothing here to compare with |

The flow comes from iterative adaptive inverse filtering (Alku 1992) of 40 ms around the frame's centre, of which the one
period around the centre is measured. On synthetic open vowels of 100 and 150 Hz, NAQ is mostly too low, by up to a fifth, QOQ
within 0.09 and H1H2 within 4 dB. Known limits of inverse filtering hold: where the first formant is as low as the first
or second harmonic (close vowels, high voices) the two can't be told apart, and NAQ, QOQ, H1H2 and PSP are wrong; PSP of
pressed high voices is too high. Single frames are rough, and averages over a clip less so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyworld
import scipy.fft
import scipy.signal

from pipeline.clip import Clip, Modality
from pipeline.media import AUDIO_RATE, Media
from pipeline.streams.acoustic import HOP, POWER_FLOOR, fundamental_frequency
from pipeline.streams.base import Extractor, Features

Array = npt.NDArray[np.float64]

BLOCK = 500  # frames worked on at a time
MARGIN = 4000  # samples beside a block: the high-pass has died away, and every window fits

HIGH_PASS = scipy.signal.butter(2, 40.0, "high", fs=AUDIO_RATE, output="sos")  # takes out rumble, below any voice
WINDOW = 640  # samples of inverse filtering, 40 ms
TRACT_ORDER = 20  # two poles a kHz, and four
SOURCE_ORDER = 4
LEAK = 0.99  # of the integrator that undoes the radiation at the lips
PHASES = 256  # points that a period is resampled to

PADDING = 16  # points of the period's spectrum a harmonic
PARABOLA_POINTS = 2 * PADDING + 1  # of the spectrum that the parabola may reach over: two harmonics
PARABOLA_ERROR = 0.01  # relative, at which the parabola ends
CLOSED_SHARE = 0.1  # of the period below the level that is taken for closed

OCTAVES = 6  # 8 kHz ... 250 Hz

ENVELOPE_FFT = 1024
MCEP_ORDER = 24
ALPHA = 0.42

MCEP = tuple(f"MCEP_{i}" for i in range(MCEP_ORDER + 1))
COLUMNS = (
    *("F0", "VUV", "NAQ", "QOQ", "H1H2", "PSP", "MDQ", "peakSlope", "Rd", "Rd_conf", "creak"),
    *MCEP,
    *(f"HMPDM_{i}" for i in range(25)),
    *(f"HMPDD_{i}" for i in range(13)),
)


@dataclass(frozen=True)
class CovarepLike(Extractor):
    """See the module for the columns, and for those that are NaN in every frame."""

    name: ClassVar[str] = "covarep_like"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "audio"
    frame_shift: ClassVar[float | None] = HOP / AUDIO_RATE
    licence: ClassVar[str] = "Apache-2.0; not COVAREP and no code of it; F0 and envelope by WORLD (BSD-3-Clause), pyworld (MIT)"

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS

    def extract(self, clip: Clip, media: Media) -> Features:
        """1 + n_samples // 160 frames. Raises what Media.audio raises."""
        samples = media.audio().astype(np.float64)
        samples -= samples.mean()
        n = 1 + len(samples) // HOP
        f0 = fundamental_frequency(samples)

        values = np.full((n, len(COLUMNS)), np.nan, np.float32)
        values[:, COLUMNS.index("F0")] = f0
        values[:, COLUMNS.index("VUV")] = f0 > 0
        for start in range(0, n, BLOCK):
            media.deadline.check()
            stop = min(start + BLOCK, n)
            piece = _piece(samples, start, stop)
            rows = slice(start, stop)
            values[rows, COLUMNS.index(MCEP[0]) :][:, : len(MCEP)] = mel_cepstrum(piece, f0[rows])

            voiced = np.flatnonzero(f0[rows] > 0)
            if not len(voiced):
                continue
            speech = scipy.signal.sosfiltfilt(HIGH_PASS, piece, padtype=None)
            columns = voice_source(speech, voiced, f0[rows][voiced])
            columns["peakSlope"] = peak_slope(speech, stop - start)[voiced]
            for name, column in columns.items():
                values[start + voiced, COLUMNS.index(name)] = column

        # A period that is cut by the clip's start or end can't be measured.
        half = np.divide(AUDIO_RATE / 2, f0, out=np.zeros(n), where=f0 > 0)
        middle = np.arange(n) * HOP
        cut = (middle < half) | (middle + half > len(samples))
        values[cut, COLUMNS.index("NAQ") : COLUMNS.index("PSP") + 1] = np.nan
        return Features(values, np.arange(n) * HOP / AUDIO_RATE)


def voice_source(speech: Array, frames: npt.NDArray[np.intp], f0: Array) -> dict[str, Array]:
    """NAQ, QOQ, H1H2 and PSP of some frames of a piece, by their numbers in it; f0 in Hz, one each, above 0."""
    first = MARGIN + frames * HOP - WINDOW // 2 - TRACT_ORDER  # the filters' memory comes before the window
    windows = speech[first[:, None] + np.arange(TRACT_ORDER + WINDOW)]
    derivative = inverse_filter(windows)
    period = AUDIO_RATE / f0

    flow = np.zeros((len(derivative), derivative.shape[1] + 1))
    np.cumsum(derivative, axis=1, out=flow[:, 1:])
    middle = TRACT_ORDER + WINDOW // 2
    phase = np.arange(PHASES + 1) / PHASES
    cycle = _between(flow, middle + period[:, None] * (phase - 0.5))
    # The flow of a period ends as it began: what is left is drift.
    drift = cycle[:, -1] - cycle[:, 0]
    cycle = (cycle - drift[:, None] * phase)[:, :-1]

    inside = np.abs(np.arange(derivative.shape[1]) - middle) <= period[:, None] / 2
    steepest_fall = drift / period - _lowest(np.where(inside, derivative, np.inf), derivative)
    return flow_parameters(cycle, steepest_fall * period)


def flow_parameters(cycle: Array, steepest_fall: Array) -> dict[str, Array]:
    """NAQ, QOQ, H1H2, PSP of (n, PHASES) periods of glottal flow, from any phase on. steepest_fall: (n,), a period."""
    least = np.argmin(cycle, axis=1)
    cycle = np.take_along_axis(cycle, (least[:, None] + np.arange(PHASES)) % PHASES, axis=1)
    cycle = cycle - cycle[:, :1]
    amplitude = cycle.max(axis=1)
    flows = (amplitude > 0) & (steepest_fall > 0)

    # Each straight piece of the curve counts with the share of it that is above half.
    level = cycle - amplitude[:, None] / 2
    after = np.roll(level, -1, axis=1)
    high, low = np.maximum(level, after), np.minimum(level, after)
    rise = high - low
    above = np.where(low >= 0, 1.0, np.divide(np.maximum(high, 0.0), rise, out=np.zeros_like(rise), where=rise > 0))

    harmonic = np.abs(scipy.fft.rfft(cycle, axis=1)[:, 1:3])
    # In the closed phase, what the inverse filter left of the formants lies above and below 0.
    closed = np.partition(cycle, int(CLOSED_SHARE * PHASES), axis=1)[:, int(CLOSED_SHARE * PHASES), None]
    columns = {
        "NAQ": _ratio(amplitude, steepest_fall),
        "QOQ": above.mean(axis=1),
        "H1H2": 20 * np.log10(_ratio(harmonic[:, 0], harmonic[:, 1])),
        "PSP": parabola(cycle - closed) / PARABOLA_OF_OPEN,
    }
    return {name: np.where(flows, column, np.nan) for name, column in columns.items()}


def parabola(cycle: Array) -> Array:
    """Curvature of the low end of the level spectrum (dB a point squared) of single periods (n, PHASES): a of a k^2 + b.

    The parabola reaches over as many points of the spectrum as it describes to PARABOLA_ERROR, and three at least.
    """
    magnitude = np.abs(scipy.fft.rfft(cycle, PADDING * PHASES, axis=1)[:, :PARABOLA_POINTS])
    level = 20 * np.log10(np.maximum(_ratio(magnitude, magnitude[:, :1]), 1e-6))
    k2 = np.arange(PARABOLA_POINTS) ** 2.0
    n = np.arange(1, PARABOLA_POINTS + 1)[2:]
    sum_k2, sum_k4 = np.cumsum(k2)[2:], np.cumsum(k2**2)[2:]
    sum_y, sum_yk2, sum_y2 = (np.cumsum(s, axis=1)[:, 2:] for s in (level, level * k2, level**2))
    a = (n * sum_yk2 - sum_y * sum_k2) / (n * sum_k4 - sum_k2**2)
    b = (sum_y - a * sum_k2) / n
    error = sum_y2 - a * sum_yk2 - b * sum_y  # of a least-squares fit
    too_far = error >= PARABOLA_ERROR * sum_y2
    end = np.where(too_far.any(axis=1), np.argmax(too_far, axis=1), PARABOLA_POINTS - 3)
    curvature: Array = np.take_along_axis(a, end[:, None], axis=1)[:, 0]
    return curvature


def inverse_filter(windows: Array) -> Array:
    """Derivative of the glottal flow in speech windows (n, TRACT_ORDER + WINDOW), of the same shape (Alku 1992).

    The first TRACT_ORDER samples are there for the filters' memory, and mean nothing in the result.
    """
    tilt = _predictor(windows, 1)
    tract = _predictor(_whiten(windows, tilt), TRACT_ORDER)
    source = _predictor(_integrate(_whiten(windows, tract)), SOURCE_ORDER)
    tract = _predictor(_integrate(_whiten(windows, source)), TRACT_ORDER)
    return _whiten(windows, tract)


def peak_slope(speech: Array, n_frames: int) -> Array:
    """Of each frame of a piece, the slope of log10 of the greatest amplitude in 40 ms over the octaves; NaN in silence.

    The wavelet is -cos(2 pi t / 2) exp(-t^2 / 2), t in samples: 8 kHz. It is stretched, and not scaled, by 2 an octave, so
    that a click has slope 0 and a step -0.3.
    """
    size = scipy.fft.next_fast_len(len(speech), real=True)
    spectrum = scipy.fft.rfft(speech, size)
    hops = slice(MARGIN - 2 * HOP, MARGIN + (n_frames + 1) * HOP)
    peaks = []
    for octave in range(OCTAVES):
        scale = 2.0**octave
        t = np.fft.fftfreq(size, 1 / size) / scale
        wavelet = -np.cos(np.pi * t) * np.exp(-np.square(t) / 2)
        band = scipy.fft.irfft(spectrum * scipy.fft.rfft(wavelet), size)[hops]
        by_hop = np.abs(band).reshape(-1, HOP).max(axis=1)
        peaks.append(np.lib.stride_tricks.sliding_window_view(by_hop, 4).max(axis=1))
    peak = np.stack(peaks, axis=1)
    upward = -(np.arange(OCTAVES) - (OCTAVES - 1) / 2)
    heard = peak > 0
    level = np.log10(np.where(heard, peak, 1.0))
    slope: Array = level @ upward / np.sum(upward**2)
    return np.where(heard.all(axis=1), slope, np.nan)


def mel_cepstrum(piece: Array, f0: Array) -> Array:
    """(n, 25) mel-cepstra of the frames of a piece; f0 in Hz, 0 where unvoiced."""
    times = (MARGIN + np.arange(len(f0)) * HOP) / AUDIO_RATE
    envelope = pyworld.cheaptrick(piece, np.ascontiguousarray(f0), times, AUDIO_RATE, fft_size=ENVELOPE_FFT)
    coefficients: Array = 0.5 * np.log(np.maximum(envelope, POWER_FLOOR)) @ WARPED_COSINES
    return coefficients


def _piece(samples: Array, start: int, stop: int) -> Array:
    """The samples of frames start to stop (exclusive) and MARGIN on both sides; frame start + i is at MARGIN + i * HOP."""
    first, last = start * HOP - MARGIN, (stop - 1) * HOP + MARGIN
    return np.pad(samples[max(first, 0) : last], (max(-first, 0), max(last - len(samples), 0)))


def _predictor(windows: Array, order: int) -> Array:
    """Linear prediction polynomials (n, order + 1) of Hann-windowed rows, from their autocorrelation (Levinson-Durbin)."""
    spectrum = scipy.fft.rfft(windows[:, TRACT_ORDER:] * HANN, 2 * WINDOW, axis=1)
    r = scipy.fft.irfft(spectrum.real**2 + spectrum.imag**2, axis=1)[:, : order + 1]
    error = r[:, 0] * (1 + 1e-9) + np.finfo(np.float64).tiny  # keeps it above 0 for pure tones and silence
    a = np.zeros((len(windows), order + 1))
    a[:, 0] = 1
    for m in range(1, order + 1):
        reflection = -np.sum(a[:, :m] * r[:, m:0:-1], axis=1) / error
        a[:, 1 : m + 1] += reflection[:, None] * a[:, m - 1 :: -1]
        error *= 1 - reflection**2
    return a


HANN = np.hanning(WINDOW + 1)[:-1]


def _whiten(windows: Array, polynomial: Array) -> Array:
    out = windows.copy()
    for lag in range(1, polynomial.shape[1]):
        out[:, lag:] += polynomial[:, lag, None] * windows[:, :-lag]
    return out


def _integrate(windows: Array) -> Array:
    integral: Array = scipy.signal.lfilter([1.0], [1.0, -LEAK], windows, axis=1)
    return integral


def _between(rows: Array, position: Array) -> Array:
    """Values of each row at positions between its points, on straight lines."""
    below = position.astype(np.intp)
    share = position - below
    left, right = (np.take_along_axis(rows, index, axis=1) for index in (below, below + 1))
    between: Array = left + share * (right - left)
    return between


def _lowest(candidates: Array, rows: Array) -> Array:
    """Depth of each row at the least candidate, on the parabola through the points beside it."""
    here = np.argmin(candidates, axis=1)
    i = np.arange(len(rows))
    before, middle, after = rows[i, here - 1], rows[i, here], rows[i, here + 1]
    curvature = before - 2 * middle + after
    is_valley = (before >= middle) & (after >= middle) & (curvature > 0)
    gain = np.divide((before - after) ** 2, 8 * curvature, out=np.zeros_like(curvature), where=is_valley)
    lowest: Array = middle - gain
    return lowest


def _ratio(above: Array, below: Array) -> Array:
    """NaN where it would be infinite or not above 0."""
    above, below = np.broadcast_arrays(above, below)
    positive = (above > 0) & (below > 0)
    ratio: Array = np.divide(above, below, out=np.full(above.shape, np.nan), where=positive)
    return ratio


def _warped_cosines() -> Array:
    """(513, 25): what turns ln of the magnitude at 0 ... 8 kHz into cosines over the warped axis, by the trapezoidal rule."""
    w = np.linspace(0, np.pi, ENVELOPE_FFT // 2 + 1)
    warped = w + 2 * np.arctan2(ALPHA * np.sin(w), 1 - ALPHA * np.cos(w))
    width = np.gradient(warped)
    width[[0, -1]] = (warped[1] - warped[0]) / 2, (warped[-1] - warped[-2]) / 2
    cosines: Array = np.cos(warped[:, None] * np.arange(MCEP_ORDER + 1)) * width[:, None] / np.pi
    cosines[:, 1:] *= 2
    return cosines


WARPED_COSINES = _warped_cosines()
PARABOLA_OF_OPEN = parabola(np.ones((1, PHASES)))[0]  # of a flow that never closes: the steepest that there is
