"""The check of a source: what is missing, broken and unexpected, on disk and in a bucket."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from media_files import CONTAINERS, noise, record
from scipy.io import wavfile
from test_s3 import bucket, proxy  # noqa: F401
from typer.testing import CliRunner

from jobs._cli import console
from jobs.extract import ExtractConfig, cli, extract, print_problems
from pipeline.clip import Clip
from pipeline.corpora import open_corpus
from pipeline.corpora.base import Problem
from pipeline.corpora.checking import files, look, strangers
from pipeline.corpora.reading import read_corpus
from pipeline.files import Folder

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>404 Not Found – sorry</title>" + "é" * 400


def good(path: Path) -> None:
    wavfile.write(path, 16000, (9000 * np.sin(np.arange(8000) * 0.05)).astype(np.int16))


def check(clips: Sequence[Clip], decode: bool = False) -> dict[str, str]:
    """Of each clip or file that something is wrong with, in short, what."""
    found = [problem for problems in look(files(clips), decode) for problem in problems]
    assert len({p.where for p in found}) == len(found)
    return {p.where.rpartition("/")[2]: f"{p.kind}: {p.what}" for p in found}


BROKEN = {
    "empty.wav": b"",
    "pointer.wav": POINTER.encode(),
    "page.mp4": PAGE.encode(),
    "answer.wav": b'\xef\xbb\xbf{"error": "quota"}',
    "zeros.mp4": bytes(100_000),
    "packed.wav": b"PK\x03\x04" + bytes(range(256)),
}
WRONG = {
    "empty.wav": "broken: the file is empty",
    "pointer.wav": "broken: a git-lfs pointer, not the file: run `git lfs pull` where it came from",
    "page.mp4": "broken: text and no recording: it begins '<!DOCTYPE html> <html><head><title>404 Not Found – sorry</ti'",
    "answer.wav": 'broken: text and no recording: it begins \'{"error": "quota"}\'',
    "zeros.mp4": "broken: no recording: its first 512 bytes are zeros",
    "packed.wav": "broken: a ZIP archive and no recording",
}


def test_the_first_bytes_tell_what_is_no_recording(tmp_path: Path) -> None:
    for name, data in BROKEN.items():
        (tmp_path / name).write_bytes(data)
    good(tmp_path / "good.wav")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "silent.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:44] + bytes(16000))
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    os.mkfifo(tmp_path / "pipe.wav")
    names = [*BROKEN, "good.wav", "folder.wav", "silent.wav", "noise.mp4", "pipe.wav", "gone.wav"]
    clips = [Clip(name, str(tmp_path / name)) for name in names]
    clips.append(Clip("elsewhere", "http://127.0.0.1:1/clip.wav", features={"openface": "http://127.0.0.1:1/face.csv"}))
    found = check(clips)
    for name in ("clip.wav", "face.csv"):
        assert found.pop(name).startswith("broken: can't be read: expected a path or one of abfs")
    assert found == WRONG | {
        "folder.wav": "broken: can't be read: not a file but a folder, a pipe or a device",
        "pipe.wav": "broken: can't be read: not a file but a folder, a pipe or a device",
        "gone.wav": "missing: no such file",
    }


@pytest.mark.parametrize("container", CONTAINERS)
def test_no_recording_is_taken_for_something_else(container: str, tmp_path: Path) -> None:
    path = record(tmp_path / f"x.{container}", frames=5, samples=noise(0.2), **CONTAINERS[container])
    assert check([Clip("x", str(path))], decode=True) == {}


@pytest.mark.parametrize("name", ["x.mp3", "x.flac", "x.ogg", "x.aac", "x.aiff", "x.au", "x.caf", "x.m4a", "x.wav"])
def test_no_sound_is_taken_for_something_else(name: str, tmp_path: Path) -> None:
    path = record(tmp_path / name, samples=np.zeros(16000, np.float32))
    assert check([Clip("x", str(path))], decode=True) == {}


def test_decoding_finds_what_first_bytes_do_not_tell(tmp_path: Path) -> None:
    good(tmp_path / "good.wav")
    whole = record(tmp_path / "whole.mkv", frames=50, samples=noise(2), **CONTAINERS["mkv"]).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[2000:-2000] = np.random.default_rng(1).bytes(len(whole) - 4000)
    (tmp_path / "damaged.mkv").write_bytes(damaged)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    clips = [Clip(name, str(tmp_path / name)) for name in ("good.wav", "whole.mkv", "cut.mkv", "damaged.mkv", "noise.mp4")]
    assert check(clips) == {}
    decoded = [p for problems in look(files(clips), decode=True) for p in problems]
    kinds = {name: {p.kind for p in decoded if p.where.endswith(name)} for name in ("good.wav", "whole.mkv", "noise.mp4")}
    assert kinds == {"good.wav": set(), "whole.mkv": set(), "noise.mp4": {"broken"}}
    for name in ("cut.mkv", "damaged.mkv"):  # what came out is usable, and the decoder's complaint is told
        assert [p for p in decoded if p.where.endswith(name)]
    outside = Clip("late", str(tmp_path / "good.wav"), start=5.0, end=6.0)
    ((problem,),) = look(files([outside]), decode=True)
    assert (problem.kind, problem.where) == ("broken", f"{tmp_path}/good.wav (late)")


def test_a_file_is_looked_at_once_and_features_are_files_too(tmp_path: Path) -> None:
    good(tmp_path / "talk.wav")
    (tmp_path / "a.csv").write_text("frame,x\n1,2\n")  # text is what features may well be
    (tmp_path / "b.csv").write_text(POINTER)
    (tmp_path / "c.csv").write_bytes(b"")
    address = str(tmp_path / "talk.wav")
    clips = [
        Clip("1", address, 0.0, 0.2, features={"openface": f"{tmp_path}/a.csv", "covarep": f"{tmp_path}/b.csv"}),
        Clip("2", address, 0.2, 0.4, features={"openface": f"{tmp_path}/a.csv", "covarep": f"{tmp_path}/gone.csv"}),
        Clip("3", f"{tmp_path}/labels.csd#video", 0.0, 1.0, features={"facet": f"{tmp_path}/c.csv"}),
        Clip("4", f"{tmp_path}/labels.csd#other", 0.0, 1.0),
    ]
    assert [(Path(f).name, len(of)) for f, of in files(clips).items()] == [
        *(("talk.wav", 2), ("a.csv", 0), ("b.csv", 0), ("gone.csv", 0), ("labels.csd", 0), ("c.csv", 0)),
    ]
    assert {name: what.partition(":")[0] for name, what in check(clips, decode=True).items()} == {
        "b.csv": "broken",
        "gone.csv": "missing",
        "labels.csd": "missing",
        "c.csv": "broken",
    }


def test_media_that_are_no_part_of_the_corpus(tmp_path: Path) -> None:
    for name in ("1001_DFA_ANG_XX.flv", "1001_DFA_ANG_XX.wav", "holiday.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "manifest.csv").write_text("path\n1001_DFA_ANG_XX.flv\n")
    for corpus, unexpected in (("crema_d", ["holiday.mp4"]), ("folder", ["1001_DFA_ANG_XX.wav", "holiday.mp4"])):
        clips, problems = read_corpus(open_corpus(corpus), str(tmp_path))
        problems += strangers(open_corpus(corpus), str(tmp_path), clips, problems)
        assert [p.where for p in problems if p.kind == "unexpected"] == unexpected
    clips, _ = read_corpus(open_corpus("folder"), str(tmp_path / "manifest.csv"))
    assert not list(strangers(open_corpus("folder"), str(tmp_path / "manifest.csv"), clips, []))


def run(*arguments: str) -> tuple[int, str]:
    console.width = 200
    result = CliRunner().invoke(cli, [*arguments, "--check"])
    return result.exit_code, result.output


def test_the_command_prints_what_is_there_and_fails_where_something_is_not(tmp_path: Path) -> None:
    good(tmp_path / "a.wav")
    good(tmp_path / "b.wav")
    (tmp_path / "manifest.csv").write_text("path,speaker,fold\na.wav,Anna,train\nb.wav,Anna,test\n")
    code, output = run(str(tmp_path), "--decode")
    assert code == 0
    assert "clips                  2" in output
    assert "1 of 1 speakers are both in test and train, such as Anna" in output
    assert "2 clips in 2 files, decoded to their ends: all well" in output
    (tmp_path / "b.wav").unlink()
    code, output = run(str(tmp_path))
    assert code == 1
    assert "missing: 1\n" in output
    assert "b.wav: no such file" in output
    (tmp_path / "b.wav").write_text(POINTER)
    assert run(str(tmp_path))[0] == 1
    assert not (tmp_path / "store").exists()


def test_the_command_counts_against_the_published_corpus(tmp_path: Path) -> None:
    for actor in (1, 2):
        good(tmp_path / f"03-01-05-01-01-01-{actor:02d}.wav")
    good(tmp_path / "extra.wav")
    code, output = run(str(tmp_path), "--corpus", "ravdess")
    assert code == 1
    lines = [line.split() for line in output.splitlines()]
    assert ["speech", "2", "1440"] in lines
    assert ["missing:", "1438"] in lines
    assert ["and", "1428", "more"] in lines
    assert ["unexpected:", "1"] in lines


def test_a_leak_is_printed_first(capsys: pytest.CaptureFixture[str]) -> None:
    console.width = 200
    print_problems(
        [Problem("note", "a", "b"), Problem("leak", "split.csv", "1 of 2 speakers are in both"), Problem("note", "c", "b")]
    )
    first, second = capsys.readouterr().out.splitlines()
    assert first == "  leak: split.csv: 1 of 2 speakers are in both"
    assert second == "  note: a: b (and 1 more)"


def test_a_bucket_is_checked_by_heads_alone(bucket: str, tmp_path: Path) -> None:  # noqa: F811
    good(tmp_path / "good.wav")
    folder = Folder(f"{bucket}/clips")
    for name, data in BROKEN.items():
        folder.write(name, data)
    folder.write("good.wav", (tmp_path / "good.wav").read_bytes())
    clips, _ = read_corpus(open_corpus("folder"), folder.url)
    clips.append(Clip("gone", f"{folder.url}/gone.wav"))
    assert check(clips) == WRONG | {"gone.wav": "missing: no such file"}
    assert check([c for c in clips if c.clip_id == "good.wav"], decode=True) == {}
    folder.write("manifest.csv", b"path\ngood.wav\n")
    clips, _ = read_corpus(open_corpus("folder"), folder.url)
    assert sorted(p.where for p in strangers(open_corpus("folder"), folder.url, clips, [])) == sorted(BROKEN)
    assert not list(strangers(open_corpus("folder"), f"{folder.url}/manifest.csv", clips, []))


def test_what_was_reported_and_is_mended_is_no_longer_in_the_store(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("path\na.wav\n")
    second = tmp_path / "manifest.tsv"
    second.write_text("path\nb.wav\n")
    config = ExtractConfig(source=str(tmp_path), corpus="folder", out=str(tmp_path / "store"))
    extract(config)
    assert "another manifest" in (tmp_path / "store/problems.json").read_text()
    second.unlink()
    extract(config)
    assert (tmp_path / "store/problems.json").read_text() == "[]"
