"""What all jobs share on the command line: errors in one line, progress, overrides of a configuration."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pipeline.files import DISK_ERRORS, StorageError

P = ParamSpec("P")
R = TypeVar("R")

_WIDTH = None if sys.stdout.isatty() else 160  # of tables in a log or a file
console = Console(highlight=False, markup=False, soft_wrap=_WIDTH is not None, width=_WIDTH)
LOG_EVERY = 10.0  # seconds between progress lines where nobody watches a terminal (a submitted job's log)


def app(command: Callable[..., Any]) -> typer.Typer:
    """A command line of one command, whose help is its docstring."""
    cli = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)
    cli.command(context_settings={"help_option_names": ["-h", "--help"]})(command)
    return cli


def user_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Errors that a user can mend end the job with one line and exit code 2, a bucket or a disk that can't be used with one
    line and 3, wherever in Ray it was noticed, Ctrl-C or SIGTERM with one line and 130; a bug keeps its traceback."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt as e:
            console.print("stopped: the same command goes on from here")
            raise typer.Exit(130) from e
        except (ValueError, FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError) as e:
            _complain(str(e))
            raise typer.Exit(2) from e
        except Exception as e:
            if (told := storage_error_in(e)) is None:
                raise
            _complain(told)
            raise typer.Exit(3) from e

    return wrapped


def _complain(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {text}", style="red", markup=False)


def storage_error_in(error: BaseException) -> str | None:
    """What a StorageError says that is the error, or that a worker of Ray raised: then it is a line of the error's text. A disk
    that is full or read-only is one too, whoever wrote."""
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return f"{error.filename or 'the disk'}: {error.strerror}"
    found = re.search(rf"^(?:\S*\.)?{StorageError.__name__}: (.+)$", str(error), re.MULTILINE)
    if found is not None:
        return found[1]
    found = re.search(rf"^OSError: \[Errno (?:{'|'.join(map(str, DISK_ERRORS))})\] (.+)$", str(error), re.MULTILINE)
    if found is not None:  # where training wrote in a worker
        return f"the disk: {found[1]}"
    return str(error) if isinstance(error, StorageError) else None


def absolute(url: str) -> str:
    """A path of this machine in full, since workers run in folders of their own; a URL as it is. Raises ValueError for
    what fsspec would take for a chain of file systems."""
    if "::" in url:
        raise ValueError(f"{url}: expected a path or URL without '::'")
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """key=value pairs, values read as YAML; a dotted key makes a nested dict. Raises ValueError for anything else."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"expected key=value, found {pair!r}")
        try:  # an address with names in braces is no mapping: {folder}/{stem}.csv
            value = text if re.match(r"\{\w+\}", text) else yaml.safe_load(text)
        except yaml.YAMLError as e:
            raise ValueError(f"{key}: can't read the value {text!r}") from e
        *parents, last = key.split(".")
        where = found
        for parent in parents:
            where = where.setdefault(parent, {})
            if not isinstance(where, dict):
                raise ValueError(f"{key}: {parent} was given a value already")
        where[last] = value
    return found


@contextlib.contextmanager
def progress(total: int, unit: str, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """advance(n, note): a bar on a terminal, a line now and then in a log."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=False) as bar:
            task = bar.add_task(unit, total=total, completed=done)

            def advance_bar(n: int, note: str) -> None:
                bar.update(task, advance=n, description=f"{unit} {note}".strip())

            yield advance_bar
        return
    began = last = time.monotonic()
    count = done

    def advance_log(n: int, note: str) -> None:
        nonlocal count, last
        count += n
        now = time.monotonic()
        if now - last >= LOG_EVERY or count == total:
            last = now
            rate = (count - done) / max(now - began, 1e-9)
            console.print(f"  {count}/{total} {unit}, {now - began:.0f} s, {rate:.1f}/s {note}".rstrip())

    yield advance_log
