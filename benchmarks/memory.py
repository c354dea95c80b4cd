"""The memory of this process."""

from __future__ import annotations

import platform
import re
import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The most that this program ever had in memory.

    Linux: the kernel's VmHWM. `getrusage` counts a process from its fork, when it still was its parent, which may be
    larger. Elsewhere it is all there is; macOS counts it in bytes, others in KiB.
    """
    if _STATUS.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())):
        return 1024 * int(found[1])
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
