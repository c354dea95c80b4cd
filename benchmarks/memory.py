"""Tell how much memory this process took."""

from __future__ import annotations

import platform
import re
import resource
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Return the most bytes that this program ever had in memory.

    On Linux that is the kernel's VmHWM: `getrusage` counts a process from its fork, when it still was a copy of its
    parent, which may be larger. Elsewhere `getrusage` is all there is; macOS counts in bytes, others in KiB.
    """
    if _STATUS.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text())):
        return 1024 * int(found[1])
    unit = 1 if platform.system() == "Darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
