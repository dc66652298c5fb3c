"""Clips that crash, hang or end the extractor's process, beside clips that don't."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pipeline.clip import Clip, Modality
from pipeline.isolated import ExtractorError, IsolatedExtractors
from pipeline.media import Media
from pipeline.streams.base import Extractor, Features


@dataclass(frozen=True)
class Hazard(Extractor):
    """Does what the clip's id says; counts how often it was loaded in a file."""

    log: str = ""
    name: ClassVar[str] = "hazard"
    version: ClassVar[str] = "1"
    modality: ClassVar[Modality] = "audio"
    frame_shift: ClassVar[float | None] = None
    licence: ClassVar[str] = "none"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("x",)

    def load(self) -> None:
        with open(self.log, "a") as log:
            log.write("loaded\n")

    def extract(self, clip: Clip, media: Media) -> Features:
        if clip.clip_id == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if clip.clip_id == "exit":
            os._exit(3)
        if clip.clip_id == "once" and not os.path.exists(self.log + ".once"):
            Path(self.log + ".once").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if clip.clip_id == "hang":
            time.sleep(60)
        if clip.clip_id == "bug":
            raise ZeroDivisionError("one over nothing")
        return Features(np.ones((2, 1), np.float32), np.arange(2.0))


@pytest.fixture
def hazard(tmp_path: Path) -> Hazard:
    return Hazard(log=str(tmp_path / "log"))


@pytest.fixture
def isolated(hazard: Hazard) -> Iterator[IsolatedExtractors]:
    extractors = IsolatedExtractors([hazard], clip_seconds=0.5, grace=0.5)
    yield extractors
    extractors.close()


def clip(name: str) -> Clip:
    return Clip(clip_id=name, uri=__file__)


def test_a_clip_that_kills_the_process_is_a_row_and_the_next_clip_is_fine(hazard: Hazard, isolated: IsolatedExtractors) -> None:
    rows = isolated.rows(hazard, [clip(n) for n in ("a", "segfault", "b", "exit", "c")])
    assert [(r.clip_id, r.status, r.reason) for r in rows] == [
        ("a", "ok", None),
        ("segfault", "error", "the extractor's process died on this clip (SIGSEGV)"),
        ("b", "ok", None),
        ("exit", "error", "the extractor's process died on this clip (exit code 3)"),
        ("c", "ok", None),
    ]
    assert rows[0].features is not None
    np.testing.assert_array_equal(rows[0].features.values, np.ones((2, 1)))


def test_a_process_that_was_killed_from_outside_costs_nothing(hazard: Hazard, isolated: IsolatedExtractors) -> None:
    (row,) = isolated.rows(hazard, [clip("once")])
    assert (row.status, row.reason) == ("ok", None)


def test_a_clip_that_never_ends_is_a_row(hazard: Hazard, isolated: IsolatedExtractors) -> None:
    isolated.rows(hazard, [clip("a")])
    began = time.monotonic()
    rows = isolated.rows(hazard, [clip("hang"), clip("b")])
    assert [(r.status, r.reason) for r in rows] == [
        ("error", "timeout: the extractor did not stop after 0.5 s"),
        ("ok", None),
    ]
    assert time.monotonic() - began < 20


def test_a_bug_is_raised_with_its_traceback(hazard: Hazard, isolated: IsolatedExtractors) -> None:
    with pytest.raises(ExtractorError, match=r"stream 'hazard', clip 'bug':(.|\n)*one over nothing"):
        isolated.rows(hazard, [clip("bug")])


def test_a_model_is_loaded_once(hazard: Hazard, isolated: IsolatedExtractors) -> None:
    isolated.rows(hazard, [clip("a"), clip("b")])
    isolated.rows(hazard, [clip("c")])
    assert Path(hazard.log).read_text() == "loaded\n"
