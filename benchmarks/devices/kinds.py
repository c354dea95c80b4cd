"""Every kind of device, by the prefix of its names."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.devices.adb import Android
from benchmarks.devices.device import Kind
from benchmarks.devices.ios import Ios
from benchmarks.devices.local import Local


def kinds() -> Mapping[str, Kind]:
    """Return every kind, by prefix."""
    return {"local": Local(), "adb": Android(), "ios": Ios()}
