"""Who is on which side: the corpora's own folds, splits of one's own, and speakers on two sides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from csd_files import write_csd
from sources import touch

from pipeline.corpora import open_corpus
from pipeline.corpora.base import Problem
from pipeline.corpora.cmu_mosei import standard_folds
from pipeline.corpora.reading import read_corpus
from rrnn.config import TrainConfig
from rrnn.splits import SIDES, split_clips


def own_folder(root: Path) -> None:
    rows = [
        f"{speaker}_{i}.wav,speaker {speaker},{('sad', 'happy')[i % 2]}\n" for speaker in range(7) for i in range(speaker + 1)
    ]
    (root / "manifest.csv").write_text("path,speaker,emotion\n" + "".join(rows))


def ravdess(root: Path) -> None:
    touch(root, *(f"Actor_{k:02d}/03-01-0{e}-01-01-01-{k:02d}.wav" for k in range(1, 25) for e in range(1, 9)))


def crema_d(root: Path) -> None:
    touch(root, *(f"{k}_DFA_{emotion}_XX.wav" for k in range(1001, 1092) for emotion in ("ANG", "SAD", "NEU")))


SOURCES: dict[str, Callable[[Path], None]] = {"folder": own_folder, "ravdess": ravdess, "crema_d": crema_d}


@pytest.mark.parametrize("corpus", SOURCES)
def test_no_speaker_is_on_two_sides_and_each_is_tested_once(corpus: str, tmp_path: Path) -> None:
    SOURCES[corpus](tmp_path)
    clips, problems = read_corpus(open_corpus(corpus), str(tmp_path))
    assert not problems
    tested: list[str | None] = []
    for test_fold in range(TrainConfig().folds):
        split = split_clips(
            [c.clip_id for c in clips],
            [c.speaker for c in clips],
            [c.fold for c in clips],
            np.ones(len(clips), bool),
            TrainConfig(test_fold=test_fold),
        )
        on = {side: {clips[i].speaker for i in split.side(side)} for side in SIDES}
        assert all(on.values())
        assert sum(len(split.side(side)) for side in SIDES) == len(clips)
        assert sum(map(len, on.values())) == len(set.union(*on.values())) == len({c.speaker for c in clips})
        tested += sorted(str(speaker) for speaker in on["test"])
    assert sorted(str(s) for s in tested) == sorted({str(c.speaker) for c in clips})


NAMES = [
    f"{actor}_{sentence}_{emotion}_XX"
    for actor in (1001, 1002, 1003)
    for sentence in ("DFA", "TSI")
    for emotion in ("ANG", "SAD")
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    touch(folder, *(f"VideoFlash/{name}.flv" for name in NAMES))
    return folder


def folds(source: Path, split: str) -> tuple[dict[str, str | None], list[Problem]]:
    clips, problems = read_corpus(open_corpus("crema_d"), str(source), split)
    return {c.clip_id: c.fold for c in clips}, problems


def by_actor(name: str) -> str:
    return {"1001": "train", "1002": "valid", "1003": "test"}[name[:4]]


WANTED = {name: by_actor(name) for name in NAMES}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("split.csv", "clip_id,emotion,fold\n" + "".join(f"{n},{n[9:12]},{by_actor(n)}\n" for n in NAMES)),
        ("split.csv", "\ufeffSplit,Path\r\n" + "".join(f"{by_actor(n).upper()},a/b/{n}.wav\r\n" for n in NAMES)),
        ("split.tsv", "name\tset\n" + "".join(f"{n}.flv\t{by_actor(n).replace('valid', 'dev')}\n" for n in NAMES)),
    ],
)
def test_a_table_of_clips_and_sides(source: Path, tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    assert folds(source, str(tmp_path / file)) == (WANTED, [])


def write_lists(folder: Path, line: str, **sides: str) -> None:
    folder.mkdir()
    for file, side in sides.items():
        header = "filename,label\n" if file == "train" else ""
        (folder / f"{file}.csv").write_text(header + "".join(line.format(n) for n in NAMES if by_actor(n) == side))


@pytest.mark.parametrize("line", ["{0},NEU\n", "{0}.wav SAD\r\n", '"{0}","x, y"\n', "AudioWAV/{0}.wav\n\n", "{0}\n"])
@pytest.mark.parametrize("valid", ["valid", "val", "dev", "validation"])
def test_a_folder_of_lists(source: Path, tmp_path: Path, line: str, valid: str) -> None:
    write_lists(tmp_path / "lists", line, train="train", test="test", **{valid: "valid"})
    (tmp_path / "lists" / "readme.md").write_text("not a list")
    assert folds(source, str(tmp_path / "lists")) == (WANTED, [])
    several = ",".join(f"{tmp_path}/lists/{name}.csv" for name in ("train", "test", valid))
    assert folds(source, several) == (WANTED, [])


def test_a_split_takes_the_place_of_the_corpus_own(tmp_path: Path) -> None:
    ravdess(tmp_path / "ravdess")
    (tmp_path / "split.csv").write_text("clip,fold\n03-01-01-01-01-01-02,train\n03-01-01-01-01-01-03,test\n")
    clips, (note,) = read_corpus(open_corpus("ravdess"), str(tmp_path / "ravdess"), str(tmp_path / "split.csv"))
    assert {c.clip_id: c.fold for c in clips if c.fold} == {"03-01-01-01-01-01-02": "train", "03-01-01-01-01-01-03": "test"}
    assert (note.kind, note.what[:27]) == ("note", "190 clips are on no side, s")


def test_clips_of_one_recording_are_listed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path,start,end\ndeep/a talk.wav,0,1\ndeep/a talk.wav,1,2\nother.wav,,\n")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train.txt").write_text("a talk.wav\n")
    (tmp_path / "lists" / "test.txt").write_text("other.wav\n")
    clips, _ = read_corpus(open_corpus("folder"), str(tmp_path), str(tmp_path / "lists"))
    assert [c.fold for c in clips] == ["train", "train", "test"]


def test_what_a_split_leaves_open_is_counted(source: Path, tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "train.txt").write_text(f"{NAMES[0]}\n1091_DFA_ANG_XX\n1090_DFA_ANG_XX\n")
    found, notes = folds(source, str(tmp_path / "train"))
    assert [name for name, fold in found.items() if fold == "train"] == [NAMES[0]]
    assert [n.kind for n in notes] == ["note", "note"]
    assert notes[0].what.startswith("11 clips are on no side, such as 1001_")
    assert notes[1].what == "2 clips on its sides are not in the source, such as 1091_DFA_ANG_XX, 1090_DFA_ANG_XX"


def test_a_split_that_leaks_speakers_names_them(source: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    for side, sentence in (("train", "DFA"), ("test", "TSI")):
        (tmp_path / "lists" / f"{side}.csv").write_text("".join(f"{n},x\n" for n in NAMES if sentence in n))
    _, (leak,) = folds(source, str(tmp_path / "lists"))
    assert (leak.kind, leak.where) == ("leak", str(tmp_path / "lists"))
    assert leak.what.startswith("3 of 3 speakers are both in test and train, such as 1001, 1002, 1003: expected")
    clips, _ = read_corpus(open_corpus("crema_d"), str(source), str(tmp_path / "lists"))
    (tmp_path / "manifest.csv").write_text(
        "path,speaker,fold\n" + "".join(f"{c.clip_id}.flv,{c.speaker},{i % 3}\n" for i, c in enumerate(clips))
    )
    _, (leak,) = read_corpus(open_corpus("folder"), str(tmp_path / "manifest.csv"))  # folds of a manifest's own
    assert leak.what.startswith("3 of 3 speakers are in 0 and 1 and 2, such as 1001")


ONE = NAMES[0]


@pytest.mark.parametrize(
    ("files", "split", "message"),
    [
        ({"s.csv": f"{ONE},NEU\n"}, "s.csv", r"s\.csv is no split: expected a column clip_id or .* and a column fold or"),
        ({"s.csv": "clip,fold\n"}, "s.csv", r"none of its 0 clips is in the source; it names nothing, the source has 1001_DFA"),
        ({"s.csv": "clip,fold\nx,train\n"}, "s.csv", r"none of its 1 clips is in the source; it names x, the source has 1001"),
        ({"s.csv": "clip,fold\nx\n"}, "s.csv", r"s\.csv, line 2: expected a clip and its side, found 'x'"),
        (
            {"s.csv": f"clip,fold\n{ONE},train\ny,tset\n"},
            "s.csv",
            r"the sides train, valid and test, found train, tset",
        ),
        (
            {"s.csv": f"clip,fold\n{ONE},train\n{ONE},test\n"},
            "s.csv",
            f"clip '{ONE}' is on two sides, train and test",
        ),
        ({"l/train.txt": f"{ONE}\n", "l/val.csv": f"{ONE}.wav,x"}, "l", "is on two sides, train and valid"),
        ({"l/all.txt": ""}, "l", r"no list in .*: expected train, valid and test, each \.csv or \.txt; found all\.txt"),
        ({}, "nowhere", "no list in .*; found nothing"),
        ({"s.csv": "version https://git-lfs.github.com/spec/v1"}, "s.csv", "can't be read: a git-lfs pointer"),
        (
            {"l/train.txt": "x", "l/mine.txt": "y"},
            "l/train.txt,{root}/l/mine.txt",
            "a list named train, valid or test",
        ),
    ],
)
def test_a_wrong_split_is_an_error_that_says_what_was_expected(
    source: Path, tmp_path: Path, files: dict[str, str], split: str, message: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        folds(source, f"{tmp_path}/{split.format(root=tmp_path)}")


def test_a_split_file_that_is_not_there_or_is_no_text(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^no such file: .*nowhere\.csv$"):
        folds(source, str(tmp_path / "nowhere.csv"))
    (tmp_path / "s.csv").write_bytes(b"clip,fold\n\xff\xfe,train\n")
    with pytest.raises(ValueError, match="expected UTF-8 text"):
        folds(source, str(tmp_path / "s.csv"))


def test_a_name_that_two_recordings_share_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.wav", "b/x.wav")
    (tmp_path / "train.csv").write_text("clip,side\nx.wav,train\n")
    with pytest.raises(ValueError, match=r"'x\.wav' may be a/x\.wav or b/x\.wav"):
        read_corpus(open_corpus("folder"), str(tmp_path), str(tmp_path / "train.csv"))
    (tmp_path / "train.csv").write_text("clip,side\na/x.wav,train\nb/x.wav,test\n")
    clips, _ = read_corpus(open_corpus("folder"), str(tmp_path), str(tmp_path / "train.csv"))
    assert [c.fold for c in clips] == ["train", "test"]


def test_a_clip_id_that_comes_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("clip_id,path\nx,a.wav\nx,b.wav\ny,c.wav\n")
    _, (problem,) = read_corpus(open_corpus("folder"), str(tmp_path))
    assert problem == Problem("broken", "x", "the clip id comes 2 times: expected one clip")


def test_videos_of_mosei_are_on_the_sides_of_its_standard_division_and_strangers_on_none(tmp_path: Path) -> None:
    ids = [video for videos in standard_folds().values() for video in list(videos)[:5]] + ["in_no_fold"]
    times = np.array([[0.0, 2.0], [2.0, 5.0], [4.0, 6.0]])
    write_csd(tmp_path / "CMU_MOSEI_Labels.csd", "All Labels", {video: (times, np.ones((3, 7))) for video in ids})
    clips, _ = read_corpus(open_corpus("cmu_mosei"), str(tmp_path))
    columns = [c.clip_id for c in clips], [c.speaker for c in clips], [c.fold for c in clips]
    split = split_clips(*columns, np.ones(len(clips), bool), TrainConfig())
    on = {side: {clips[i].speaker for i in split.side(side)} for side in SIDES}
    assert on == {side: set(list(videos)[:5]) for side, videos in standard_folds().items()}
    assert "(3 clips in no fold are on no side)" in split.how
