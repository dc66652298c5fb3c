"""CREMA-D: names to clips, one row a clip whatever its forms, and labels by raters."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import sources
from scipy.io import wavfile
from sources import touch
from test_s3 import bucket, proxy  # noqa: F401

from pipeline.clip import Clip
from pipeline.corpora.base import Problem
from pipeline.corpora.crema_d import PUBLISHED, CremaD, read_votes
from pipeline.corpora.ratings import majority, shares
from pipeline.corpora.reading import read_corpus
from pipeline.extract import extract_rows
from pipeline.files import Folder
from pipeline.streams.acoustic import Acoustic


def read(folder: Path, **options: str) -> tuple[list[Clip], list[Problem]]:
    return sources.read(CremaD(**options), folder)  # type: ignore[arg-type]


def write_votes(path: Path, *rows: tuple[int, str, str]) -> None:
    """Rows of (condition, clip, votes such as "A2 N1") as R writes them: text quoted, numbers not, more columns behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(["", *"ADFHNS", "fileName", "numResponses", "emoVote"])
        for number, (condition, clip, text) in enumerate(rows, 1):
            votes = {part[0]: int(part[1:]) for part in text.split()}
            counts = [votes.get(letter, 0) for letter in "ADFHNS"]
            writer.writerow([str(100_000 * condition + number), *counts, clip, sum(counts), "A"])


def test_a_name_is_read_field_by_field(tmp_path: Path) -> None:
    touch(tmp_path, "AudioWAV/1001_IEO_FEA_HI.wav", "VideoFlash/1002_DFA_NEU_XX.flv", "README.md")
    (tmp_path / "VideoDemographics.csv").write_text(
        '"ActorID","Age","Sex","Race","Ethnicity"\n1001,51,"Male","Caucasian","Not Hispanic"\n'
    )
    (first, second), problems = read(tmp_path)
    assert not problems
    assert (first.clip_id, first.speaker, first.emotion, first.fold) == ("1001_IEO_FEA_HI", "1001", "fear", None)
    assert first.uri == str(tmp_path / "AudioWAV/1001_IEO_FEA_HI.wav")
    assert first.transcript == "It's eleven o'clock"
    assert first.votes is None
    assert first.attributes == {
        "modality": "audio-only",
        "acted": "fear",
        "level": "high",
        "sentence": "IEO",
        "age": "51",
        "sex": "male",
        "race": "Caucasian",
        "ethnicity": "Not Hispanic",
    }
    assert (second.emotion, second.transcript) == ("neutral", "Don't forget a jacket")
    assert second.attributes == {"modality": "audio-video", "acted": "neutral", "level": "unspecified", "sentence": "DFA"}


def test_a_clip_in_several_forms_is_one_row(tmp_path: Path) -> None:
    touch(tmp_path, "AudioMP3/1001_DFA_ANG_XX.mp3", "AudioWAV/1001_DFA_ANG_XX.wav", "VideoFlash/1001_DFA_ANG_XX.flv")
    touch(tmp_path, "AudioMP3/1001_DFA_SAD_XX.mp3", "AudioWAV/1001_DFA_SAD_XX.wav")
    touch(tmp_path, "VideoFlash/1001_DFA_HAP_XX.flv")
    clips, (note,) = read(tmp_path)
    assert [Path(c.uri).name for c in clips] == ["1001_DFA_ANG_XX.flv", "1001_DFA_HAP_XX.flv", "1001_DFA_SAD_XX.wav"]
    assert note.kind == "note"
    assert note.what.startswith("3 recordings were left aside, other forms")
    clips, notes = read(tmp_path, media="audio")
    assert [Path(c.uri).name for c in clips] == ["1001_DFA_ANG_XX.wav", "1001_DFA_SAD_XX.wav"]
    assert [n.what[:29] for n in notes] == ["2 recordings were left aside:", "2 recordings were left aside,"]
    assert [c.clip_id for c in read(tmp_path, media="video")[0]] == ["1001_DFA_ANG_XX", "1001_DFA_HAP_XX"]


def test_irregular_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "1040_ITH_SAD_X.wav",
        "1001_DFA_ANG.wav",
        "1092_DFA_ANG_XX.wav",
        "1001_DFA_ANG_XX.wav",
        "1001_DFA_ANG_XX\n.wav",
    )
    clips, problems = read(tmp_path)
    assert [c.clip_id for c in clips] == ["1001_DFA_ANG_XX", "1040_ITH_SAD_XX"]
    assert [(p.kind, p.where) for p in problems] == [
        ("unexpected", "1001_DFA_ANG.wav"),
        ("unexpected", "1001_DFA_ANG_XX\n.wav"),
        ("unexpected", "1092_DFA_ANG_XX.wav"),
        ("note", "1040_ITH_SAD_X.wav"),
    ]
    with pytest.raises(ValueError, match=r"no CREMA-D recording below .*; 2 recordings are there, but not of media=video"):
        read(tmp_path, media="video")
    with pytest.raises(ValueError, match=r"crema_d\.labels is 'true': expected one of acted, majority, soft"):
        CremaD(labels="true")  # type: ignore[arg-type]


def test_a_clip_that_was_never_published_is_a_clip_and_reported(tmp_path: Path) -> None:
    touch(tmp_path, "1008_WSI_ANG_XX.wav", "1001_DFA_ANG_HI.wav", "1001_IEO_ANG_HI.wav")
    clips, problems = read(tmp_path)
    assert len(clips) == 3
    assert {(p.kind, p.where) for p in problems} == {
        ("unexpected", "1001_DFA_ANG_HI.wav"),  # the sentence has no levels
        ("unexpected", "1008_WSI_ANG_XX.wav"),
    }


def test_the_silent_clip_is_a_row_like_any_other_and_a_pointer_is_named(tmp_path: Path) -> None:
    wavfile.write(tmp_path / "1076_MTI_SAD_XX.wav", 16000, np.zeros(16000, np.int16))
    (tmp_path / "1001_DFA_ANG_XX.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    clips, _ = read(tmp_path)
    pointer, silent = extract_rows(Acoustic(), clips)
    assert (pointer.status, silent.status) == ("error", "ok")
    assert "git-lfs pointer" in str(pointer.reason)
    assert silent.features is not None
    assert np.isfinite(silent.features.values).all()


A, B, C = "1001_DFA_ANG_XX", "1001_DFA_DIS_XX", "1001_DFA_FEA_XX"


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """Three clips: one that is heard as neutral and seen as anger, one tied on both, one that nobody rated on both."""
    touch(tmp_path, *(f"{name}.wav" for name in (A, B, C)))
    write_votes(
        tmp_path / "processedResults" / "tabulatedVotes.csv",
        *((1, A, "A1 N3"), (2, A, "A4"), (3, A, "A6 S2")),
        *((1, B, "D2 S1"), (2, B, "D1 F1 S1"), (3, B, "D2 N2")),
        *((1, C, "F3"), (2, C, "F3")),
    )
    return tmp_path


def test_acted_labels_keep_the_votes_beside_them(rated: Path) -> None:
    a, b, c = read(rated)[0]
    assert (a.emotion, b.emotion, c.emotion) == ("anger", "disgust", "fear")
    assert a.votes is not None
    assert a.votes["audio"] == {"anger": 1, "disgust": 0, "fear": 0, "happy": 0, "neutral": 3, "sad": 0}
    assert {shown: sum(of.values()) for shown, of in a.votes.items()} == {"audio": 4, "vision": 4, "both": 8}
    assert c.votes is not None
    assert set(c.votes) == {"audio", "vision"}
    assert a.shares is None


def test_majority_labels(rated: Path) -> None:
    clips, problems = read(rated, labels="majority")
    assert [c.emotion for c in clips] == ["anger", None, None]
    assert [p.what[:30] for p in problems] == ["1 clips have no emotion, their", "1 clips have no emotion, no vo"]
    assert [c.emotion for c in read(rated, labels="majority", votes="audio")[0]] == ["neutral", "disgust", "fear"]
    assert [c.emotion for c in read(rated, labels="majority", votes="vision")[0]] == ["anger", None, "fear"]


def test_soft_labels(rated: Path) -> None:
    (a, b, c), _ = read(rated, labels="soft")
    assert a.shares == {"anger": 0.75, "disgust": 0, "fear": 0, "happy": 0, "neutral": 0, "sad": 0.25}
    assert a.emotion == "anger"
    assert b.shares is not None
    assert (b.shares["disgust"], b.shares["neutral"], b.emotion) == (0.5, 0.5, None)
    assert (c.shares, c.emotion) == (None, None)
    assert a.attributes["acted"] == "anger"


def test_ratings_may_lie_elsewhere_and_must_lie_somewhere(rated: Path, tmp_path: Path) -> None:
    (rated / "processedResults" / "tabulatedVotes.csv").rename(rated / "other.csv")
    assert read(rated)[0][0].votes is None
    with pytest.raises(ValueError, match=r"no .*/tabulatedVotes.csv and no .*/processedResults/tabulatedVotes.csv"):
        read(rated, labels="soft")
    assert read(rated, labels="majority", ratings=str(rated / "other.csv"))[0][0].emotion == "anger"
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv"):
        read(rated, ratings=str(rated / "nowhere.csv"))


def test_a_bucket_is_read_as_a_folder_is(rated: Path, bucket: str) -> None:  # noqa: F811
    for path in rated.rglob("*.*"):
        folder, _, name = f"{bucket}/corpus/{path.relative_to(rated)}".rpartition("/")
        Folder(folder).write(name, path.read_bytes())
    Folder(f"{bucket}/lists").write("train.csv", f"{A},ANG\n".encode())
    Folder(f"{bucket}/lists").write("test.csv", f"{B},DIS\n".encode())
    clips, _ = read_corpus(CremaD(labels="majority"), f"{bucket}/corpus", f"{bucket}/lists")
    assert [(c.uri, c.emotion, c.fold) for c in clips] == [
        (f"{bucket}/corpus/{A}.wav", "anger", "train"),
        (f"{bucket}/corpus/{B}.wav", None, "test"),
        (f"{bucket}/corpus/{C}.wav", None, None),
    ]


HEADER = '"","A","D","F","H","N","S","fileName"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER, "has no row"),
        ("", "no column .* found an empty file"),
        ("a,b\n1,2\n", "no column without a name, A, D, F, H, N, S, fileName, found a, b"),
        (HEADER + f'"400001",1,0,0,0,0,0,"{A}"\n', "line 2: the first column is '400001', expected six digits"),
        (HEADER + f'"100001",-1,0,0,0,0,0,"{A}"\n', "line 2: A is '-1', expected a number of votes"),
        (HEADER + '"100001",1,0,0,0\n', "line 2: fileName is ''"),
        (HEADER + f'"100001",1,0,0,0,0,0,"{A}"\n' * 2, f"line 3: {A} comes twice with the votes on audio"),
        ("version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
    ],
)
def test_wrong_votes_are_an_error_where_they_are_needed_and_a_problem_elsewhere(
    tmp_path: Path, text: str, message: str
) -> None:
    touch(tmp_path, f"{A}.wav")
    (tmp_path / "tabulatedVotes.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, labels="majority")
    (clip,), (problem,) = read(tmp_path)
    assert clip.votes is None
    assert problem.kind == "broken"


def test_wrong_demographics_are_a_problem(tmp_path: Path) -> None:
    touch(tmp_path, f"{A}.wav")
    (tmp_path / "VideoDemographics.csv").write_bytes(b"\xff\xfe")
    (clip,), (problem,) = read(tmp_path)
    assert "sex" not in clip.attributes
    assert (problem.kind, problem.where) == ("broken", str(tmp_path / "VideoDemographics.csv"))


def test_the_published_corpus_is_complete_and_what_lacks_is_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}.mp3" for name in PUBLISHED))
    clips, problems = read(tmp_path)
    assert not problems
    counts = {c.what: c for c in CremaD().counts(clips)}
    assert all(c.expected in (None, c.found) for c in counts.values())
    found = {what: c.found for what, c in counts.items() if c.expected is not None}
    assert (found["clips"], found["actors"], found["sentence IEO"], found["sentence ITS"]) == (7442, 91, 1456, 545)
    assert [found[f"acted {e}"] for e in ("anger", "disgust", "fear", "happy", "neutral", "sad")] == [1271] * 4 + [1087, 1271]
    assert [found[f"level {e}"] for e in ("low", "medium", "high", "unspecified")] == [455, 455, 455, 6077]
    assert CremaD().missing(clips) == []
    assert CremaD().missing(clips[2:]) == ["1001_DFA_ANG_XX", "1001_DFA_DIS_XX"]


def test_majority_and_shares() -> None:
    assert majority({"a": 2, "b": 1}) == "a"
    assert majority({"a": 2, "b": 2, "c": 1}) is None
    assert majority({"a": 0, "b": 0}) is None
    assert majority({}) is None
    assert shares({"a": 3, "b": 1, "c": 0}) == {"a": 0.75, "b": 0.25, "c": 0}
    with pytest.raises(ValueError, match="expected one vote or more"):
        shares({"a": 0})


def test_votes_of_an_irregular_name_belong_to_its_clip(tmp_path: Path) -> None:
    write_votes(tmp_path / "votes.csv", (1, "1040_ITH_SAD_X", "S3"), (2, "1040_ITH_SAD_XX", "S4 N0"), (3, A, ""))
    votes = read_votes(str(tmp_path / "votes.csv"))
    assert {clip: {shown: of["sad"] for shown, of in rated.items()} for clip, rated in votes.items()} == {
        "1040_ITH_SAD_XX": {"audio": 3, "vision": 4}
    }
