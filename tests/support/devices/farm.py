"""Emulated phones on one adb server, for a whole module of tests; nothing of them is left when it ends."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from devices.emulated import NEW, OLD, AdbServer, EmulatedPhone, Phone, listeners, make_root, missing_tools


class Farm:
    """The phones of a test run, and their adb server."""

    def __init__(self, folder: Path) -> None:
        if missing := missing_tools():
            pytest.fail(f"missing: {', '.join(missing)}; make test-devices installs them")
        self.folder, self.before = folder, listeners()
        self.root = make_root(folder)
        self.phones = {phone: EmulatedPhone(phone, self.root, folder / phone.model) for phone in (NEW, OLD)}
        self.server = AdbServer(folder / "adb")

    def start(self, *phones: Phone) -> None:
        for phone in phones:
            self.phones.setdefault(phone, EmulatedPhone(phone, self.root, self.folder / phone.model)).start()
        self.server.connect(phones)

    def shell(self, phone: Phone, line: str) -> str:
        return self.server.adb("-s", phone.serial, "shell", line)

    def commands(self, phone: Phone) -> str:
        """The command lines of all its processes; one may end while they are read."""
        return self.shell(phone, "cat /proc/[0-9]*/cmdline 2>/dev/null; true").replace("\0", " ")

    def stop(self) -> None:
        """Everything; then nothing of it is left."""
        self.server.stop()
        for phone in self.phones.values():
            phone.stop()
        leftover = self.left()
        assert leftover == [], leftover

    def left(self) -> list[str]:
        """Processes, mounts and listening sockets that are there because of us."""
        end = time.monotonic() + 10
        while True:
            found = [f"process {line}" for line in _processes(str(self.folder))]
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
            found += [f"mount {line}" for line in mounts.splitlines() if str(self.folder) in line]
            found += [f"listener {address}" for address in listeners() - self.before]
            if not found or time.monotonic() > end:
                return found
            time.sleep(0.2)


def _processes(marker: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if marker in line and process.name != str(os.getpid()):
            found.append(line)
    return found
