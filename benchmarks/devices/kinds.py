"""Every kind of device, and the devices behind their names."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from benchmarks.devices.adb import Android
from benchmarks.devices.device import Device, DeviceKind, MeasureOptions
from benchmarks.devices.ios import Ios
from benchmarks.devices.local import Local
from lorarar.errors import InputError


def device_kinds() -> Mapping[str, DeviceKind]:
    """Return every kind of device, by the prefix of its names."""
    return {"local": Local(), "adb": Android(), "ios": Ios()}


def open_devices(
    kinds: Mapping[str, DeviceKind], names: Sequence[str], options: MeasureOptions, given: Collection[str]
) -> list[Device]:
    """Return each named device once, in the order of the names; `kinds` are those that there are.

    `given` are the fields of the options that somebody chose; one that means nothing to any of the devices is refused.
    Raises InputError for that, and for a name that no kind of device takes.
    """
    chosen = []
    for name in names:
        prefix, _, which = name.partition(":")
        if prefix not in kinds:
            raise InputError(f"`device` {name}: give {'; '.join(kind.usage for kind in kinds.values())}")
        chosen.append((kinds[prefix], which))
    check_options_apply(names, [kind.takes for kind, _ in chosen], given)
    return list({device.name: device for kind, which in chosen for device in kind.open(which, options)}.values())


def check_options_apply(names: Sequence[str], takes: Sequence[Collection[str]], given: Collection[str]) -> None:
    """Refuse an option that means nothing to any of the devices of these names."""
    for option in given:
        if not any(option in kind for kind in takes):
            raise InputError(f"`{option}` means nothing to {' or '.join(names)}; leave it out")
