"""The environment's packages come from where pip would take them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

UV = Path(__file__).parents[2] / "infra" / "uv.py"


def write_wheel(folder: Path, name: str, version: str) -> None:
    folder.mkdir(exist_ok=True)
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.mark.parametrize("home", ["home", "no folder/home"])
def test_pips_folders_are_searched_and_a_home_is_not_needed(tmp_path: Path, home: str) -> None:
    write_wheel(tmp_path / "one", "rrnn_of_one", "1.0")
    write_wheel(tmp_path / "two", "rrnn_of_two", "1.0")
    write_wheel(tmp_path / "two", "rrnn_of_one", "1.1")  # the best of all folders, as with pip
    (tmp_path / "home").mkdir()
    (tmp_path / "no folder").write_text("")  # so that none can be made in it
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "PIP_", "XDG_"))}
    places = {"HOME": str(tmp_path / home), "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": f"{tmp_path}/one {tmp_path}/two"}
    out = tmp_path / "out"
    command = [sys.executable, str(UV), "pip", "install", "-q", "--offline", "--target", str(out), "rrnn_of_one", "rrnn_of_two"]
    subprocess.run(command, env=kept | places, check=True)
    assert (out / "rrnn_of_one.py").read_text() == "VERSION = '1.1'\n"
    assert (out / "rrnn_of_two.py").exists()
    assert (tmp_path / "home/.cache/uv").exists() == (home == "home")
