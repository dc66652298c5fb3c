"""States of a speech encoder: what Whisper hears in the middle of its layers, 50 vectors a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pipeline.clip import Clip
from pipeline.media import AUDIO_RATE, Media
from pipeline.streams._whisper import LICENCE, TINY, EncoderSize, encoder_size, whisper_encoder
from pipeline.streams.base import AudioExtractor, Features, file_sha256

HOP = 320  # samples, 20 ms: two frames of the log-mel spectrogram
WHISPER_WINDOW = 30.0  # seconds; what Whisper was trained on, and has position embeddings for
DEFAULT_WINDOW = 15.0


@dataclass(frozen=True)
class Speech(AudioExtractor):
    """Hidden states after some layers of the encoder of Whisper, which was trained to recognise words, side by side. Each is
    normalised as the encoder normalises its last.

    weights: the folder, on every machine that extracts, of a Whisper model as CTranslate2 has it (`model.bin` and what lies
    beside it; https://huggingface.co/Systran has all sizes); None is tiny.en (English; 4 layers of 384), from a package.

    The encoder reads windows of `window` seconds, each on its own: the recording is cut at multiples of `window`, the
    last window is filled up with silence, and the states of that silence are dropped. A state sees its whole window, so
    it changes at a cut. Whisper was trained on 30 s; a shorter window costs less, for attention grows with its square.

    Measured on the training actors of 900 RAVDESS clips of 3 to 5 s (8 emotions; logistic regression on mean and spread of
    the states; each pair of ten actors left out in turn; accuracy in percent, plain and standardised by speaker; a window
    of 6 s, 32-bit floats): the last layers know the words, those in the middle how they were said.

    | layers | 1 | 2 | 3 | 4 (the last) | 2 and 3 | 1, 2, 3, 4 |
    |---|---|---|---|---|---|---|
    | plain | 65.3 | 70.3 | 70.2 | 65.6 | 71.9 | 73.0 |
    | by speaker | 74.9 | 78.7 | 77.0 | 74.6 | 80.1 | 80.5 |

    A window of 15 s took 0.14 CPU-s a clip, one of 30 s 0.52 and one of 6 s 0.06; on the last layer they differed by a point.
    """

    layers: tuple[int, ...] = (2, 3)
    window: float = DEFAULT_WINDOW
    weights: str | None = None

    name: ClassVar[str] = "speech"
    version: ClassVar[str] = "2"
    frame_shift: ClassVar[float | None] = HOP / AUDIO_RATE
    licence: ClassVar[str] = LICENCE
    places: ClassVar[tuple[str, ...]] = ("weights",)
    can_use_gpu: ClassVar[bool] = True
    _features: ClassVar[Any] = None
    _encoders: ClassVar[Any] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", tuple(self.layers))  # a list, where it was read from a file
        if self.weights is not None:
            object.__setattr__(self, "weights", str(Path(self.weights).resolve()))  # workers run in other folders
        most = self.size.layers
        if not self.layers or not set(self.layers) <= set(range(1, most + 1)) or len(set(self.layers)) < len(self.layers):
            of = "" if self.weights else ", the layers of tiny.en; the weights option has the folder of a larger Whisper"
            raise ValueError(f"layers: found {list(self.layers)!r}, expected some of 1 to {most}, each once{of}")
        if not 1.0 <= self.window <= WHISPER_WINDOW or self.window * 50 % 1:
            raise ValueError(f"window: found {self.window!r}, expected 1 to {WHISPER_WINDOW:g} s, in whole frames of 0.02 s")

    @property
    def size(self) -> EncoderSize:
        """Of the encoder. Raises ValueError where `weights` is no Whisper model."""
        return TINY if self.weights is None else encoder_size(self.weights)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"layer{layer}_{i:03d}" for layer in self.layers for i in range(self.size.dim))

    def describe(self) -> dict[str, Any]:
        if self.weights is None:
            return super().describe()
        sha256 = file_sha256(f"{self.weights}/model.bin")
        return super().describe() | {"weights_sha256": sha256, "licence": "of the weights given"}

    def load(self) -> None:
        from faster_whisper.feature_extractor import FeatureExtractor

        object.__setattr__(self, "_features", FeatureExtractor(feature_size=self.size.mels))
        encoders = [whisper_encoder(layer, self.weights, gpu=self.gpus > 0) for layer in self.layers]
        object.__setattr__(self, "_encoders", encoders)

    def extract(self, clip: Clip, media: Media) -> Features:
        """ceil(n_samples / 320) frames. Frame i is centred on i * 0.02 s, at usual speed. Raises what Media.audio raises."""
        from ctranslate2 import StorageView

        samples = self.samples(media)
        step = round(self.window * AUDIO_RATE)
        states = []
        for start in range(0, len(samples), step):
            media.deadline.check()
            piece = samples[start : start + step]
            # Filled up before the spectrogram, as Whisper's own code does: silence, rather than missing spectrogram.
            mel = StorageView.from_array(self._features(np.pad(piece, (0, step - len(piece))), padding=0)[np.newaxis])
            encoded = [np.asarray(encoder.encode(mel, to_cpu=True))[0] for encoder in self._encoders]
            states.append(np.concatenate(encoded, axis=1)[: -(-len(piece) // HOP)])
        values = np.concatenate(states)
        return Features(values, self.times(len(values), HOP))
