"""Who may know whom: the packages import only in the directions that the design allows."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {"rrnn": {"ray", "pipeline", "jobs"}, "pipeline": {"rrnn", "jobs", "torch"}}
RAY_ALLOWED = {ROOT / "pipeline" / "on_ray.py", ROOT / "pipeline" / "forkserver.py"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_imports_only_what_it_may_know(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported(path) & FORBIDDEN[package], path


def test_ray_is_one_thin_module_of_the_pipeline() -> None:
    users = {p for p in (ROOT / "pipeline").rglob("*.py") if "ray" in imported(p)}
    assert users == RAY_ALLOWED


def test_nothing_is_unpickled_and_no_shell_is_started() -> None:
    for package in ("pipeline", "rrnn", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text())
            assert not imported(path) & {"pickle", "cloudpickle", "shelve", "marshal", "dill", "joblib"}, path
            for node in ast.walk(tree):
                if isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
                    assert isinstance(node.value, ast.Constant), path
                    assert node.value.value is False, path
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    assert ast.unparse(node.func) not in ("torch.load", "yaml.load", "os.system"), path


def test_no_thread_of_arrow_is_left_when_a_job_ends() -> None:
    """What pyarrow does by its scanner or its query engine may leave a thread that holds our bytes. Where that lets go of them
    as Python ends, the process aborts: one in fifteen that called read_table() last, with all its work done. ParquetFile has no
    such thread."""
    for package in ("pipeline", "rrnn", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            named = {getattr(node, "attr", getattr(node, "name", "")) for node in ast.walk(ast.parse(path.read_text()))}
            by_threads = {"dataset", "pyarrow.dataset", "ParquetDataset", "read_table", "read_feather", "group_by", "sort_by"}
            assert not named & by_threads, path
