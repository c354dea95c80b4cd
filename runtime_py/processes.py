"""Run artifacts in processes of their own, where a runtime ends its process instead of raising an error.

A message is its length (8 bytes, little endian) and tensors as a safetensors file. The first answer of a process says
that the artifact is loaded: the shapes of its inputs and outputs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple, cast

import numpy as np

from lorarar.errors import InputError
from runtime_py.backends import checked_inputs, checked_outputs, unusable
from runtime_py.component import MEND, Component

_ENDS = ("inputs", "outputs")
_LACKS = 3
"""The exit code of a process that can't load its artifact for want of something on this machine, such as room."""
_KILLED = "it may have run out of memory: close other programs, or take a smaller precision"


class Model(NamedTuple):
    """A loaded artifact."""

    run: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    inputs: Mapping[str, Sequence[int]]  # name → shape
    outputs: Mapping[str, Sequence[int]]


def start(module: str, *arguments: str | Path, scratch: str | None = None, **pipes: Any) -> subprocess.Popen[bytes]:
    """Start one of our modules in a process of its own; `scratch` is its folder for temporary files."""
    environment = same_paths() | ({} if scratch is None else {"TMPDIR": scratch})
    return subprocess.Popen([sys.executable, "-m", module, *map(str, arguments)], env=environment, **pipes)


def same_paths() -> dict[str, str]:
    """Return the environment in which another Python finds the packages that this one finds."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def end_of(process: subprocess.Popen[bytes], said: bytes) -> str:
    """Return in a few words how a process ended: its signal, or the last thing that it said."""
    code = process.wait()
    if code < 0:
        return f"its process ended by signal {-code}"
    lines = [line for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else f"its process ended with {code}"


def send(stream: BinaryIO, tensors: dict[str, np.ndarray]) -> None:
    """Write one message."""
    from safetensors.numpy import save

    data = save(tensors)
    stream.write(len(data).to_bytes(8, "little"))
    stream.write(data)  # apart from its length: joined they would be copied, 100 MB and more
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, np.ndarray] | None:
    """Read one message; None where the other end is closed, or was in the middle of it."""
    from safetensors.numpy import load

    size = int.from_bytes(stream.read(8), "little")
    data = stream.read(size) if size else b""
    return load(data) if size and len(data) == size else None


def serve(open_model: Callable[[Path], Model], path: str) -> None:
    """Load an artifact and answer until nobody asks any more: what such a process does.

    Native libraries write to standard output too, so answers have a copy of it, and it becomes the standard error.
    """
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        model = open_model(Path(path))
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_LACKS)
    shapes = zip(_ENDS, (model.inputs, model.outputs), strict=True)
    send(answers, {f"{end}.{name}": np.array(shape, np.int64) for end, all_ in shapes for name, shape in all_.items()})
    while (inputs := receive(sys.stdin.buffer)) is not None:
        send(answers, model.run(inputs))


class ProcessRunner:
    """An artifact that a process of its own runs; `module` serves it. A process that ended is started again."""

    def __init__(self, component: Component, module: str, runtime: str, version: str, note: str) -> None:
        self.component, self.runtime, self.version, self.note = component, runtime, version, note
        self._module = module
        self._start()

    def _start(self) -> None:
        """Start the process; InputError where it can't load the artifact, and then nothing is left running."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._said}
        # What a killed process leaves there is removed with it: a lowered program has the size of its weights.
        scratch = tempfile.TemporaryDirectory(prefix="lorarar-")
        self._process = start(self._module, self.component.path, scratch=scratch.name, **pipes)
        self._asked, self._answers = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        self._end = weakref.finalize(self, _end, self._process, (self._asked, self._answers, self._said), scratch)
        try:
            found = receive(self._answers)
            if found is None:
                raise self._failed("load")
            self._check(found)
        except BaseException:  # as when the user stops it: what it then said of its loading would be a run's answer
            self._end()
            raise

    def _check(self, found: Mapping[str, np.ndarray]) -> None:
        """Compare the shapes that a process told when it had loaded with the manifest's."""
        component = self.component
        specs = zip(_ENDS, (component.inputs, component.outputs), strict=True)
        stated = {f"{end}.{spec.name}": spec.shape for end, all_ in specs for spec in all_}
        if {name: tuple(shape.tolist()) for name, shape in found.items()} != stated:
            raise component.other_tensors()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the artifact once."""
        given = checked_inputs(self.component, inputs)
        if self._process.poll() is not None:
            self._end()
            self._start()
        try:
            send(self._asked, given)
            outputs = receive(self._answers)
        except BrokenPipeError:
            outputs = None
        except BaseException:  # as when the user stops it: an answer that is still to come would be taken for the next
            self._end()
            raise
        if outputs is None:
            raise self._failed("run")
        return checked_outputs(self.component, outputs)

    def _failed(self, verb: str) -> InputError:
        """Wait until the process has ended, and make the error that says how."""
        with suppress(BrokenPipeError):
            self._asked.close()
        self._process.wait()
        self._said.seek(0)
        said = self._said.read()
        self._end()
        mend = {_LACKS: "", -signal.SIGKILL: _KILLED}.get(self._process.returncode, MEND)
        return unusable(self.component, self.runtime, verb, RuntimeError(end_of(self._process, said)), mend)


def _end(
    process: subprocess.Popen[bytes], streams: Iterable[IO[bytes]], scratch: tempfile.TemporaryDirectory[str]
) -> None:
    """End a process that nobody asks any more."""
    process.kill()
    process.wait()
    for stream in streams:
        with suppress(BrokenPipeError):
            stream.close()
    scratch.cleanup()
