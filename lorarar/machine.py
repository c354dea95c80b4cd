"""Name the machine that something was measured or made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")  # Linux alone has it


def processor_name() -> str:
    """Return the processor's name as its maker gives it; its architecture where the system does not tell."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def machine_name() -> str:
    """Return the machine in words: its cores and their processor."""
    return f"{os.cpu_count()} cores of {processor_name()}"
