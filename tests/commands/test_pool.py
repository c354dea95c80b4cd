"""A pool's processes end when the command does, however it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lorarar.errors import InputError
from lorarar.pool import process_pool

ROOT = Path(__file__).parents[2]

# Two processes work for longer than any test waits, a third is idle; all tell their numbers first. The drawings of
# the miniature are forked, trainings spawned.
SCRIPT = r"""
import multiprocessing, os, sys, time
from lorarar.command_line import run_command
from lorarar.pool import process_pool

def tell(seconds):
    os.write(1, f"{os.getpid()}\n".encode())
    time.sleep(seconds)

def main(_):
    with process_pool(3, multiprocessing.get_context(sys.argv[1])) as pool:
        list(pool.map(tell, [600, 600, 0]))
    return 0

if __name__ == "__main__":
    run_command(main)
"""


@pytest.fixture(params=["fork", "spawn"])
def working(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A command with three processes, and their numbers."""
    script = tmp_path / "working.py"
    script.write_text(SCRIPT)
    command = subprocess.Popen(
        [sys.executable, str(script), request.param],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    request.addfinalizer(lambda: _kill_all(command))
    assert command.stdout is not None
    return command, [int(command.stdout.readline()) for _ in range(3)]


def _kill_all(command: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(command.pid, signal.SIGKILL)
    command.communicate()


def running(process: int) -> bool:
    """Whether a process runs; one that has ended, but that nobody has asked about yet, doesn't."""
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def ended(processes: list[int], within_s: float = 20) -> bool:
    until = time.monotonic() + within_s
    while any(map(running, processes)):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_a_pool_gives_results_and_starts_its_processes() -> None:
    with process_pool(2, start=os.umask, arguments=(0o31,)) as pool:
        assert list(pool.map(os.umask, [0o31] * 4)) == [0o31] * 4


def test_processes_end_at_once_where_their_owner_would_clear_up() -> None:
    """A fork has its owner's handler, and would raise from within the pool's own waiting."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with process_pool(1) as pool:
            assert pool.submit(signal.getsignal, signal.SIGTERM).result() == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_a_killed_process_is_told_with_what_to_do() -> None:
    """As Linux kills one when memory runs out."""
    message = "was killed, most often for want of memory; draw fewer at once"
    with pytest.raises(InputError, match=message), process_pool(2, advice="draw fewer at once") as pool:
        pool.submit(signal.raise_signal, signal.SIGKILL).result()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_an_interrupted_pool_leaves_the_owner_s_other_children_alone(method: str) -> None:
    """Such as the data loader of a notebook, which once ended with the pool."""
    context = multiprocessing.get_context(method)
    other = context.Process(target=time.sleep, args=(600,))
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt), process_pool(1, context) as pool:
            worker = pool.submit(os.getpid).result()
            raise KeyboardInterrupt
        assert ended([worker])
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [
        (signal.SIGTERM, 143, "ended by SIGTERM; nothing was left half-written\n"),
        (signal.SIGINT, 130, "interrupted; nothing was left half-written\n"),
    ],
)
def test_processes_end_with_a_command_that_is_stopped(
    working: tuple[subprocess.Popen[str], list[int]], number: signal.Signals, code: int, text: str
) -> None:
    command, processes = working
    assert all(map(running, processes))
    command.send_signal(number)
    _, err = command.communicate(timeout=20)
    assert (command.returncode, err) == (code, text)
    assert ended(processes)


def test_ctrl_c_in_a_terminal_reaches_all_and_prints_one_line(
    working: tuple[subprocess.Popen[str], list[int]],
) -> None:
    command, processes = working
    os.killpg(command.pid, signal.SIGINT)
    _, err = command.communicate(timeout=20)
    assert (command.returncode, err) == (130, "interrupted; nothing was left half-written\n")
    assert ended(processes)


def test_processes_end_with_a_command_that_is_killed(working: tuple[subprocess.Popen[str], list[int]]) -> None:
    command, processes = working
    command.kill()
    assert ended(processes)
