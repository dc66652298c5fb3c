"""The page that shows how to add a corpus, run as it is written."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from media_files import noise, record
from typer.testing import CliRunner

from jobs.extract import cli
from pipeline.corpora import open_corpus
from pipeline.corpora.base import Count, Problem
from pipeline.corpora.reading import read_corpus
from pipeline.extract import extract_shard, pending
from pipeline.store import Store
from pipeline.streams.acoustic import Acoustic

PAGE = (Path(__file__).parents[2] / "docs" / "corpora.md").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the page's module and some recordings, and it on Python's path."""
    (code,) = re.findall(r"```python\n(# studio\.py\n.*?)```", PAGE, re.DOTALL)
    (tmp_path / "studio.py").write_text(code)
    (tmp_path / "not_a_corpus.py").write_text("class Nothing: ...\n")
    names = ("anna_happy_01", "anna_sad_02", "deep/ben_calm_03", "ben_furious_01")
    (tmp_path / "recordings" / "deep").mkdir(parents=True)
    for name in names:
        record(tmp_path / "recordings" / f"{name}.wav", samples=noise(0.5))
    (tmp_path / "recordings" / "notes.txt").write_text("no recording")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("studio", "not_a_corpus"):
        sys.modules.pop(name, None)


def test_the_pages_example_lists_extracts_and_reports(folder: Path) -> None:
    corpus = open_corpus("studio:Studio", {"takes": 2})
    clips, problems = read_corpus(corpus, str(folder / "recordings"))
    assert [(c.clip_id, c.speaker, c.emotion, c.attributes) for c in clips] == [
        ("anna_happy_01", "anna", "happy", {"take": "01"}),
        ("anna_sad_02", "anna", "sad", {"take": "02"}),
    ]
    assert problems == [
        Problem("unexpected", "ben_furious_01.wav", "no name of the studio's: expected such as anna_happy_02"),
    ]
    assert corpus.counts(clips) == [Count("clips", 2, 300), Count("speakers", 1, 10)]
    everything, _ = read_corpus(open_corpus("studio:Studio"), str(folder / "recordings"))
    assert [c.clip_id for c in everything] == ["anna_happy_01", "anna_sad_02", "ben_calm_03"]

    store = Store.create(str(folder / "store"), "studio:Studio")
    store.add_clips(everything)
    store.begin_stream(Acoustic())
    for work in pending(store, [Acoustic()])[0]:
        extract_shard(store, Acoustic(), work.shard)
    assert store.outcome("acoustic").to_pydict() == {
        "clip_id": ["anna_happy_01", "anna_sad_02", "ben_calm_03"],
        "status": ["ok", "ok", "ok"],
        "reason": [None, None, None],
    }


def command(folder: Path, *arguments: str) -> str:
    """What the page's command says with --dry-run, its code first."""
    (line,) = re.findall(r"^    python -m jobs\.extract (RECORDINGS .*)$", PAGE, re.MULTILINE)
    words = line.replace("RECORDINGS", str(folder / "recordings")).replace("STORE", str(folder / "store")).split()
    result = CliRunner().invoke(cli, [*words, "--modalities", "audio", "--dry-run", *arguments])
    return f"{result.exit_code} {result.output} {result.stderr}"


def test_the_pages_command_is_one(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = command(folder)
    said = code + capfd.readouterr().out
    assert code.startswith("0")
    assert '"corpus_options": {' in said
    assert '"takes": 2' in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--corpus", "nowhere:Studio"), "corpus 'nowhere:Studio' can't be imported: No module named 'nowhere'"),
        (
            ("--corpus", "studio:Nothing"),
            "corpus 'studio:Nothing' can't be imported: module 'studio' has no attribute 'Nothing'",
        ),
        (("--corpus", "not_a_corpus:Nothing"), "is no subclass of pipeline.corpora.base.Corpus"),
        (("--corpus", "studio"), "unknown corpus 'studio': expected one of folder"),
        (("--set", "studio.take=2"), "corpus 'studio:Studio' has no option take: it has takes"),
        (("--set", "studio=2"), "--set studio=2: expected studio.OPTION=VALUE"),
    ],
)
def test_mistakes_are_told(folder: Path, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = command(folder, *arguments)
    assert code.startswith("2")
    assert message in code + capfd.readouterr().err
