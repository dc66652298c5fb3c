"""Speech for made clips: espeak-ng, called through its own library, with the times at which it says each word.

espeak-ng is GPL-3.0. It comes with the package `espeakng-loader`, which is no dependency of this project but of its
optional extra `demo`, and serves only to make demo audio.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.clip import Word

# The constants of espeak-ng's speak_lib.h that are used here.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_RATE, _PITCH, _RANGE = 1, 3, 4
_EVENT_LIST_TERMINATED, _EVENT_WORD, _EVENT_END = 0, 1, 5

_one_at_a_time = threading.Lock()  # espeak-ng keeps its state in globals


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Speech(NamedTuple):
    """samples: (n,) float32 in [-1, 1] at `rate` Hz. words: in order; each ends where the next begins."""

    samples: npt.NDArray[np.float32]
    rate: int
    words: tuple[Word, ...]


def speak(text: str, voice: str, *, rate: int, pitch: int, pitch_range: int) -> Speech:
    """Say one phrase without punctuation. The same arguments give the same samples, whatever was said before.

    voice: an espeak-ng voice and variant, such as "en-us+f2". rate: words a minute. pitch, pitch_range: 0 to 100, 50 is
    the voice's own. Raises ModuleNotFoundError without the package, RuntimeError where espeak-ng refuses.
    """
    try:
        loader = importlib.import_module("espeakng_loader")
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError("making speech needs the package espeakng-loader: pip install -e '.[demo]'") from e
    with _one_at_a_time:
        # Phases and filters live on in the library's globals from one phrase to the next, and nothing that it offers
        # resets them. Loading it anew does, and takes milliseconds.
        library = ctypes.CDLL(loader.get_library_path())
        try:
            return _speak(library, loader.get_data_path(), text, voice, rate, pitch, pitch_range)
        finally:
            library.espeak_Terminate()
            ctypes.CDLL(None).dlclose(ctypes.c_void_p(library._handle))


def _speak(library: ctypes.CDLL, data: str, text: str, voice: str, rate: int, pitch: int, pitch_range: int) -> Speech:
    chunks: list[npt.NDArray[np.int16]] = []
    starts: list[tuple[int, int]] = []  # (position in the text from 0, sample) of each word
    ends: list[int] = []

    def receive(samples: Any, n: int, events: Any) -> int:
        if samples and n > 0:
            chunks.append(np.ctypeslib.as_array(samples, (n,)).copy())
        i = 0
        while events[i].type != _EVENT_LIST_TERMINATED:
            if events[i].type == _EVENT_WORD:
                starts.append((events[i].text_position - 1, events[i].sample))
            elif events[i].type == _EVENT_END:
                ends.append(events[i].sample)
            i += 1
        return 0

    callback = _Callback(receive)  # held by name here, or it is collected while the library calls it
    sample_rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data.encode(), 0)
    if sample_rate <= 0:
        raise RuntimeError(f"espeak-ng can't be initialised with the data in {data}")
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise RuntimeError(f"espeak-ng has no voice {voice!r}")
    for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_RANGE, pitch_range)):
        library.espeak_SetParameter(parameter, value, 0)
    encoded = text.encode()
    if library.espeak_Synth(encoded, len(encoded) + 1, 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None) != 0:
        raise RuntimeError(f"espeak-ng can't say {text!r}")

    said = [text[position:].split(maxsplit=1)[0] for position, _ in starts]
    if said != text.split():  # it runs some pairs together ("of the") and then tells no time for the second
        raise RuntimeError(f"espeak-ng gave times for the words {said}, expected one for each of {text.split()}")
    bounds = [sample / sample_rate for _, sample in starts] + [ends[-1] / sample_rate]
    words = tuple(Word(word, start, end) for word, start, end in zip(said, bounds[:-1], bounds[1:], strict=True))
    return Speech(np.float32(1 / 32768) * np.concatenate(chunks), sample_rate, words)
