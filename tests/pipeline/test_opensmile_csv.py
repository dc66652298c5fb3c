"""openSMILE's CSV, most of it written by openSMILE itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from pipeline.clip import Clip
from pipeline.extract import extract_rows
from pipeline.store import ClipRow
from pipeline.streams import make_stream, remake_stream
from pipeline.streams.egemaps import Egemaps

RATE = 16_000


def extract(path: Path, **options: object) -> ClipRow:
    clip = Clip("c", "")
    return extract_rows(make_stream("opensmile", {"files": str(path), **options}).settled([clip]), [clip])[0]


def test_what_the_program_and_the_package_write_equals_openSMILE_called_directly(tmp_path: Path) -> None:  # noqa: N802
    opensmile = pytest.importorskip("opensmile", reason="the extra rrnn[egemaps] is not installed: openSMILE is not compared")
    t = np.arange(RATE) / RATE
    samples = (8000 * np.sin(2 * np.pi * 220 * t) * (1 + 0.5 * np.sin(2 * np.pi * 3 * t))).astype(np.int16)
    wavfile.write(tmp_path / "tone.wav", RATE, samples)
    feature_set, levels = opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel
    frames = opensmile.Smile(feature_set, levels.LowLevelDescriptors).process_file(str(tmp_path / "tone.wav"))
    whole = opensmile.Smile(feature_set, levels.Functionals).process_file(str(tmp_path / "tone.wav"))

    # The program, with the configuration that is published and its own CSV writer.
    config = Path(opensmile.__file__).parent / "core/config"
    program = opensmile.core.lib.OpenSMILE()
    program.initialize(
        str(config / "egemaps/v02/eGeMAPSv02.conf"),
        {
            "source": str(config / "shared/standard_wave_input.conf.inc"),
            "sink": str(config / "shared/standard_data_output_no_lld_de.conf.inc"),
            "filename": str(tmp_path / "tone.wav"),
            "lld_csv_output": str(tmp_path / "lld.csv"),
            "func_csv_output": str(tmp_path / "func.csv"),
        },
    )
    program.run()
    program.free()
    frames.to_csv(tmp_path / "package.csv")
    whole.to_csv(tmp_path / "functionals.csv")

    clip = Clip("c", str(tmp_path / "tone.wav"))
    egemaps = Egemaps()
    egemaps.load()
    direct = extract_rows(egemaps, [clip])[0].features
    assert direct is not None
    for name, early in (("package.csv", 0.0), ("lld.csv", 0.005)):
        stream = make_stream("opensmile", {"files": str(tmp_path / name)}).settled([clip])
        assert stream.columns == egemaps.columns == tuple(frames.columns)
        result = extract_rows(stream, [clip])[0].features
        assert result is not None
        assert result.times[:-1] == pytest.approx(direct.times[:-1] - early)  # the package's last frame ends with the file
        assert result.values == pytest.approx(frames.to_numpy(), rel=1e-5, abs=1e-6)
        assert result.values == pytest.approx(direct.values, rel=1e-3, abs=1e-3)  # decoded by ffmpeg
    for name, middle in (("functionals.csv", 0.5), ("func.csv", 0.0)):
        result = extract(tmp_path / name).features
        assert result is not None
        assert result.times.tolist() == [middle]
        assert result.values == pytest.approx(whole.to_numpy(), rel=1e-5, abs=1e-6)


PROGRAM = "name;frameTime;loudness;pitch\n'unknown';0.00;1;-2\n'unknown';0.01;3;4e-1\n'unknown';0.02;nan;5\n"


def test_times_are_half_a_step_after_the_frames_begin_or_between_start_and_end(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for text, times in (
        (PROGRAM, [0.005, 0.015, 0.025]),
        (PROGRAM.replace(";", ","), [0.005, 0.015, 0.025]),
        (PROGRAM.replace("name;frameTime", "frameIndex;frameTime").replace("'unknown'", "7"), [0.005, 0.015, 0.025]),
        (
            "start,end,loudness,pitch\n0 days,0 days 00:00:01,1,-2\n0 days 01:02:03.250000,1 days 00:00:00,3,0.4\n",
            [0.5, 45061.625],
        ),
        ("file,start,end,loudness,pitch\na.wav,0.5,1.5,1,-2\na.wav,1.5,2.5,3,0.4\n", [1.0, 2.0]),
        ("name;loudness;pitch\n'unknown';1;-2\n", [0.0]),
    ):
        path.write_text(text)
        result = extract(path)
        assert result.features is not None, result.reason
        assert result.features.times == pytest.approx(times), text
        assert result.features.values[0].tolist() == [1, -2]


def test_the_first_file_that_can_be_read_says_which_columns_there_are(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "c.csv").write_text(PROGRAM)
    (tmp_path / "d.csv").write_text(PROGRAM.replace("loudness;pitch", "pitch;loudness"))
    (tmp_path / "e.csv").write_text(PROGRAM.replace("loudness", "energy"))
    clips = [Clip(i, "", features={"opensmile": f"{tmp_path}/{i}.csv"}) for i in "abcde"]
    stream = make_stream("opensmile").settled(clips)
    assert stream.columns == ("loudness", "pitch")
    assert remake_stream(stream.describe()) == stream
    rows = extract_rows(stream, clips)
    assert [r.status for r in rows] == ["error", "error", "ok", "ok", "error"]
    assert rows[3].features is not None
    assert rows[3].features.values[0].tolist() == [-2, 1]
    assert "has no column loudness: was it made with another configuration?" in str(rows[4].reason)
    chosen = make_stream("opensmile", {"columns": "pitch"})
    assert chosen.settled([]) == chosen
    assert [r.status for r in extract_rows(chosen, clips)] == ["error", "error", "ok", "ok", "ok"]
    with pytest.raises(ValueError, match="stream 'opensmile': no clip has a file that can be read"):
        make_stream("opensmile").settled(clips[:2])
    with pytest.raises(ValueError, match="there are no clips"):
        make_stream("opensmile").settled([])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.replace("'unknown';0.02", "'other';0.02"), "has the rows of 2 recordings, expected one"),
        (lambda t: t.replace("frameTime", "frameIdx"), "has 3 rows and neither frameTime nor start and end"),
        (lambda t: t.replace("0.01", "x"), "line 3, column frameTime: found 'x', expected a number"),
        (lambda t: t[:-9], "line 4 has 2 fields, expected 4; is the end of the file cut off?"),
        (lambda t: t.replace("4e-1", "0,4"), "column pitch: found '0,4', expected a number with a point, not a comma"),
        (lambda t: t.split("\n", 1)[1].replace("'unknown'", "1"), "expected openSMILE's header"),
        (
            lambda t: t.replace("name;frameTime", "start;end").replace("'unknown'", "soon"),
            "found the time 'soon', expected seconds",
        ),
    ],
)
def test_files_that_cannot_be_used_say_why(tmp_path: Path, change: Callable[[str], str], why: str) -> None:
    (tmp_path / "a.csv").write_text(change(PROGRAM))
    result = extract(tmp_path / "a.csv", columns=["loudness", "pitch"])
    assert result.status == "error"
    assert why in str(result.reason)
