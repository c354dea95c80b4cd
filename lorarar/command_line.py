"""What every command shares: its parser, its errors and exit codes, its stages' times."""

from __future__ import annotations

import argparse
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from io import TextIOWrapper
from typing import Any, NoReturn, TypeVar

from lorarar.console import printable
from lorarar.errors import FailedCheck, InputError, describe_os_error, is_out_of_memory

EXIT_OK = 0
EXIT_FAILED_CHECK = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141  # as a shell tells of SIGPIPE
EXIT_TERMINATED = 143  # as a shell tells of SIGTERM

Settings = TypeVar("Settings")


class Terminated(KeyboardInterrupt):
    """The end of a command by SIGTERM (kill, timeout, a stopped container or job), which is like that by Ctrl-C."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one plain sentence and exit 2, like every other bad input."""

    def __init__(self, prog: str | None = None, **options: Any) -> None:
        """Make a parser; its texts keep their line breaks. No option can be shortened: a shortened one is a guess."""
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(prog=prog, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of exiting, with the way to the help."""
        raise InputError(f"{message}; see  {self.prog} --help")

    def in_flags(self, message: str) -> str:
        """Return a library's message with this command's flags in the place of `parameters`."""
        names = self._flags()
        return re.sub(r"`(\w+)`", lambda found: names.get(found[1], found[0]), message)

    def _flags(self) -> dict[str, str]:
        """Return the parameters' flags, also of subcommands; a positional's is its name in the usage."""
        names: dict[str, str] = {}
        for item in self._actions:
            if isinstance(item, argparse._SubParsersAction):
                for inner in item.choices.values():
                    names |= inner._flags()
            else:
                flags = [flag for flag in item.option_strings if not flag.startswith("--no-")]
                names[item.dest] = (flags or item.option_strings or [str(item.metavar or item.dest)])[-1]
        return names


Run = Callable[[argparse.Namespace], int]


def main_of(parser: Callable[[], Parser], run: Run) -> Callable[[Sequence[str] | None], int]:
    """Make a command's `main`: parse, run, and say an InputError or a FailedCheck in the command's flags."""

    def main(argv: Sequence[str] | None = None) -> int:
        made = parser()
        args = made.parse_args(argv)
        try:
            return run(args)
        except (InputError, FailedCheck) as error:
            raise type(error)(made.in_flags(str(error))) from error

    return main


def add_settings(
    parser: argparse._ActionsContainer, settings: Any, others: Mapping[str, Any] | None = None, skip: Sequence[str] = ()
) -> None:
    """Add an option for every field of a settings object that is made with `lorarar.settings.setting`.

    Without a default of its own, so that one that was given is noticed. The help tells the default: the value in
    `settings`, and in each of `others` (a base's name → its settings) that has another. Nested settings are included.
    """
    for item in fields(settings):
        value = getattr(settings, item.name)
        inner = {name: getattr(other, item.name) for name, other in (others or {}).items()}
        if is_dataclass(value):
            add_settings(parser, value, inner, skip)
        elif "option" in item.metadata and item.name not in skip:
            _add_setting(parser, item.name, item.metadata["option"], value, inner)


def _add_setting(
    parser: argparse._ActionsContainer, name: str, option: Mapping[str, Any], value: Any, others: Mapping[str, Any]
) -> None:
    flag = "--" + (option["flag"] or name).replace("_", "-")
    if isinstance(value, bool):
        on = [other for other, its in others.items() if its != value]
        told = f"{option['help']} (default for the {', '.join(on)}: on)" if on else option["help"]
        parser.add_argument(flag, dest=name, action=argparse.BooleanOptionalAction, default=None, help=told)
        return
    differing = [f"; {other} {_shown(its)}" for other, its in others.items() if its != value]
    told = "" if "(default" in option["help"] else f" (default {_shown(value)}{''.join(differing)})"
    parser.add_argument(
        flag,
        dest=name,
        type=option["parse"] or type(value),
        choices=option["choices"],
        metavar=option["metavar"],
        help=(option["help"] + told).replace("%", "%%"),
    )


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def given_settings(args: argparse.Namespace, defaults: Settings) -> Settings:
    """Return the defaults with the options that were given; nested settings too."""
    changed: dict[str, Any] = {}
    for item in fields(defaults):  # type: ignore[arg-type]
        value = getattr(defaults, item.name)
        if is_dataclass(value) and not isinstance(value, type):
            changed[item.name] = given_settings(args, value)
        elif "option" in item.metadata and getattr(args, item.name, None) is not None:
            changed[item.name] = getattr(args, item.name)
    return replace(defaults, **changed)  # type: ignore[type-var]


def settings_as_options(settings: Any, defaults: Any) -> list[str]:
    """Return the options that turn `defaults` into `settings`, in the order of the fields: `given_settings` undone."""
    words: list[str] = []
    for item in fields(settings):
        value, default = getattr(settings, item.name), getattr(defaults, item.name)
        if is_dataclass(value):
            words += settings_as_options(value, default)
        elif value != default and "option" in item.metadata:
            flag = "--" + (item.metadata["option"]["flag"] or item.name).replace("_", "-")
            text = "0" if value is None else ",".join(value) if isinstance(value, tuple) else str(value)
            no_flag = "--no-" + flag.removeprefix("--")
            words += [flag if value else no_flag] if isinstance(value, bool) else [flag, text]
    return words


class Stopwatch:
    """The seconds of each stage, in order."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds = dict(seconds or {})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as the stage `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def __str__(self) -> str:
        return " · ".join(f"{stage} {seconds:.2f} s" for stage, seconds in self.seconds.items())


def run_command(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Run a command's `main` and exit: bad input prints one sentence and exits 2, a failed check 1, Ctrl-C 130,
    SIGTERM 143.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a file's name may be in another encoding, and print ends at it
            stream.reconfigure(errors="backslashreplace")
    try:
        with _sigterm_interrupts():
            code = main(None)
    except InputError as error:
        _fail(str(error))
    except FailedCheck as error:
        _fail(str(error), EXIT_FAILED_CHECK)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail("this machine ran out of memory; ask for less at once, or close other programs")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            sys.exit(EXIT_CLOSED_PIPE)
        _fail(describe_os_error(error))
    except KeyboardInterrupt as stop:
        how = "ended by SIGTERM" if isinstance(stop, Terminated) else "interrupted"
        print(f"{how}; nothing was left half-written", file=sys.stderr)
        sys.exit(interrupted_code(stop))
    sys.exit(code)


def _nobody_reads() -> bool:
    """Tell whether who read the output, as `head` does, has read enough; then the rest goes nowhere."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False  # the broken pipe is another one
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python tells of it when it ends
    return True


def interrupted_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a command that Ctrl-C or SIGTERM ended."""
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


def _fail(message: str, code: int = EXIT_BAD_INPUT) -> NoReturn:
    print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    sys.exit(code)
