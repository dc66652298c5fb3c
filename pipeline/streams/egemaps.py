"""The extended Geneva minimalistic acoustic parameter set (eGeMAPSv02, Eyben et al. 2016), by openSMILE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline.clip import Clip, ClipError, Modality
from pipeline.media import AUDIO_RATE, Media
from pipeline.streams.base import Extractor, Features

HOP = 0.01  # seconds
WINDOW = 0.02
MIN_SAMPLES = 960  # the longest analysis window, 60 ms

COLUMNS = (
    "Loudness_sma3",
    "alphaRatio_sma3",
    "hammarbergIndex_sma3",
    "slope0-500_sma3",
    "slope500-1500_sma3",
    "spectralFlux_sma3",
    "mfcc1_sma3",
    "mfcc2_sma3",
    "mfcc3_sma3",
    "mfcc4_sma3",
    "F0semitoneFrom27.5Hz_sma3nz",
    "jitterLocal_sma3nz",
    "shimmerLocaldB_sma3nz",
    "HNRdBACF_sma3nz",
    "logRelF0-H1-H2_sma3nz",
    "logRelF0-H1-A3_sma3nz",
    "F1frequency_sma3nz",
    "F1bandwidth_sma3nz",
    "F1amplitudeLogRelF0_sma3nz",
    "F2frequency_sma3nz",
    "F2bandwidth_sma3nz",
    "F2amplitudeLogRelF0_sma3nz",
    "F3frequency_sma3nz",
    "F3bandwidth_sma3nz",
    "F3amplitudeLogRelF0_sma3nz",
)


@dataclass(frozen=True)
class Egemaps(Extractor):
    """openSMILE's 25 low-level descriptors of eGeMAPSv02, 100 frames a second, as openSMILE gives them.

    Times are the middles of openSMILE's 20 ms frames. F0, jitter, shimmer, HNR and the harmonic differences come from
    60 ms windows that begin with the same sample, so they look 20 ms ahead.
    """

    name: ClassVar[str] = "egemaps"
    version: ClassVar[str] = "opensmile 2.6.0"
    modality: ClassVar[Modality] = "audio"
    frame_shift: ClassVar[float | None] = HOP
    licence: ClassVar[str] = "openSMILE: free for non-commercial research, teaching and personal use only"
    needs: ClassVar[tuple[str, ...]] = ("opensmile",)
    _smile: ClassVar[Any] = None

    @property
    def columns(self) -> tuple[str, ...]:
        return COLUMNS

    def load(self) -> None:
        """Raises ImportError where openSMILE is not installed, RuntimeError where it is not the version that was named."""
        try:
            import opensmile
        except ImportError as e:
            raise ImportError("the stream egemaps needs openSMILE: pip install -e '.[egemaps]' (non-commercial licence)") from e
        smile = opensmile.Smile(
            feature_set=opensmile.FeatureSet.eGeMAPSv02,
            feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
            num_workers=1,
        )
        found = f"opensmile {opensmile.__version__}"
        if found != self.version or tuple(smile.feature_names) != COLUMNS:
            raise RuntimeError(f"expected {self.version} with {', '.join(COLUMNS)}; found {found} with {smile.feature_names}")
        object.__setattr__(self, "_smile", smile)

    def extract(self, clip: Clip, media: Media) -> Features:
        """Raises ClipError for a clip under 60 ms, for which openSMILE has no frame, and what Media.audio raises."""
        samples = media.audio()
        if len(samples) < MIN_SAMPLES:
            length, shortest = len(samples) / AUDIO_RATE, MIN_SAMPLES / AUDIO_RATE
            raise ClipError(f"too short for eGeMAPS: the audio lasts {length:.3f} s, expected at least {shortest:g} s")
        table = self._smile.process_signal(samples, AUDIO_RATE)
        times = np.arange(len(table), dtype=np.float64) * HOP + WINDOW / 2
        return Features(table.to_numpy(dtype=np.float32), times)
