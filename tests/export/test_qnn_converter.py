"""What becomes of QNN's compiler, a process of its own, when something stops it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shared_bundles import require_target

from export.targets import find_target
from lorarar.command_line import Terminated
from lorarar.errors import CutShort, InputError

SOC = find_target("qnn").socs[0]


class Stopped(subprocess.Popen[bytes]):
    """A process that is waited for only until the user stops it."""

    def communicate(self, *_: Any, **__: Any) -> Any:
        raise Terminated


def test_a_stopped_export_ends_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    require_target("qnn")
    from export.targets import qnn_converter

    process = Stopped([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(qnn_converter, "start", lambda *_, **__: process)
    with pytest.raises(Terminated):
        qnn_converter._compile("unet", Path("graph"), Path("out"), SOC)
    assert process.returncode == -9


@pytest.mark.parametrize(("end", "error"), [("sys.exit(1)", InputError), ("os.kill(os.getpid(), 9)", CutShort)])
def test_a_compiler_that_was_killed_is_told_from_one_that_fails(
    monkeypatch: pytest.MonkeyPatch, end: str, error: type[Exception]
) -> None:
    require_target("qnn")
    from export.targets import qnn_converter

    process = subprocess.Popen([sys.executable, "-c", f"import os, sys; {end}"], stdout=subprocess.PIPE)
    monkeypatch.setattr(qnn_converter, "start", lambda *_, **__: process)
    with pytest.raises(error, match="unet: QNN's compiler fails for sm8550") as caught:
        qnn_converter._compile("unet", Path("graph"), Path("out"), SOC)
    assert type(caught.value) is error
