"""What every command shares: one error type, one exit path, outputs that are never half-written. No toolchain."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

EXIT_OK = 0
EXIT_FAILED_CHECK = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143  # as a shell tells of SIGTERM


class InputError(Exception):
    """The user's input can't be used: one plain sentence that says what happened, what is valid and what to do."""


class FailedCheck(Exception):
    """A comparison with the reference came out wrong or could not be made: the command exits 1 and writes nothing."""


class Terminated(KeyboardInterrupt):
    """SIGTERM (kill, timeout, a container or job that is stopped), which ends a command as Ctrl-C does."""


class Parser(argparse.ArgumentParser):
    """An argument error is one plain sentence and exit 2, like every other bad input."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see  {self.prog} --help")


class Stopwatch:
    """Seconds by stage, in order."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def __str__(self) -> str:
        return " · ".join(f"{stage} {seconds:.2f} s" for stage, seconds in self.seconds.items())


def missing_toolchain(package: str, extra: str) -> InputError:
    """The error for a toolchain that is not installed, naming the extra that brings it."""
    return InputError(f"{package} is not installed: install it with  pip install 'lorarar-toolkit[{extra}]'")


def run_command(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Run a command's `main` and exit: bad input prints one sentence and exits 2, a failed check 1, Ctrl-C 130,
    SIGTERM 143.
    """
    try:
        with _sigterm_interrupts():
            code = main(None)
    except InputError as error:
        _fail(str(error))
    except FailedCheck as error:
        _fail(str(error), EXIT_FAILED_CHECK)
    except MemoryError:
        _fail("this machine ran out of memory; use a smaller --rank or base, or close other programs")
    except OSError as error:
        _fail(describe_os_error(error))
    except KeyboardInterrupt as stop:
        how = "ended by SIGTERM" if isinstance(stop, Terminated) else "interrupted"
        print(f"{how}; nothing was left half-written", file=sys.stderr)
        sys.exit(interrupted_code(stop))
    sys.exit(code)


def interrupted_code(stop: KeyboardInterrupt) -> int:
    """The exit code of a command that Ctrl-C or SIGTERM ended."""
    return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Raise Terminated on SIGTERM, so that temporary files go and times are kept; where it is ignored it stays so."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(*_: object) -> NoReturn:
        # `timeout` sends it twice, and the second must not cut the clearing up short.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def describe_os_error(error: OSError) -> str:
    """One sentence for an operating-system error: the path, what happened, what to do."""
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; free some space or write to another disk (nothing was left half-written)"
    if error.errno == errno.ENOENT:
        return f"{where}no such file or folder; check the path"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}no permission; choose a path that you may read or write"
    return f"{where}{error.strerror or error}"


def _fail(message: str, code: int = EXIT_BAD_INPUT) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


@contextmanager
def quiet_toolchains() -> Iterator[None]:
    """Silence what toolchains log and warn while they are imported or convert: torchao's missing CUDA libraries,
    untested version pairs. Errors still come through as exceptions.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_lora_output(output: Path, *inputs: Path) -> None:
    """Refuse an output path that is no safetensors file, is a folder, or would overwrite an input."""
    if output.suffix != ".safetensors":
        raise InputError(f"{output}: the merged LoRA is a safetensors file; end its name with .safetensors")
    if output.is_dir():
        raise InputError(f"{output}: this is a folder; give the name of a file")
    place = output.resolve()
    for given in inputs:
        # A PEFT folder is an input as a whole: writing into it would change what it holds.
        if given.resolve() in (place, *([place.parent] if given.is_dir() else [])):
            raise InputError(f"{output}: writing there would overwrite the input {given}; choose another output")
        if output.exists() and given.exists() and output.samefile(given):
            raise InputError(f"{output}: this is the same file as the input {given}; choose another output")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` on success, remove it on any failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private to the user; an output has the permissions of any new file.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it replaces `path` on success and disappears on any failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(made: Path, path: Path) -> None:
    """Rename a finished folder to `path`, beside which it lies; what was there is removed."""
    made.chmod(0o755)
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
        path.replace(old / path.name)
        made.replace(path)
        shutil.rmtree(old)
    else:
        made.replace(path)
