"""List iPhones where there is no Xcode, through pymobiledevice3 (the extra `ios`), which speaks to usbmuxd.

`phone` says why nothing else uses that package.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

from benchmarks.devices.device import Description
from benchmarks.devices.ios_facts import chip, model_name
from benchmarks.devices.ios_link import NEEDS
from lorarar.errors import InputError, said_by
from lorarar.toolchains import missing_toolchain

ANSWER_S = 20.0
LISTED = f"only listed here; measuring it needs {NEEDS}"


def describe(address: str | None = None) -> list[Description]:
    """Describe every iPhone that usbmuxd at `address` (a path, or HOST:PORT; the system's own by default) knows.

    Raises InputError where pymobiledevice3 or usbmuxd is missing.
    """
    try:
        usbmux, exceptions = (import_module(f"pymobiledevice3.{name}") for name in ("usbmux", "exceptions"))
    except ImportError:
        raise missing_toolchain("pymobiledevice3, which lists iPhones without Xcode,", "ios") from None
    try:
        return asyncio.run(asyncio.wait_for(_describe(usbmux, address), ANSWER_S))
    except exceptions.ConnectionFailedToUsbmuxdError:
        raise InputError(
            "iPhones can't be listed, since usbmuxd is not running: install usbmuxd on Linux, Apple Devices on Windows"
        ) from None
    except TimeoutError:
        raise InputError(f"usbmuxd gave no answer for {ANSWER_S:.0f} s; unplug the iPhones and restart it") from None
    except (exceptions.PyMobileDevice3Exception, OSError, ValueError, LookupError, ExpatError) as error:
        raise InputError(f"iPhones can't be listed ({_words(error)}); restart usbmuxd") from None


async def _describe(usbmux: Any, address: str | None) -> list[Description]:
    # One phone may be there over USB and over Wi-Fi.
    found = {device.serial: device for device in await usbmux.list_devices(usbmux_address=address)}
    return list(await asyncio.gather(*(_device(serial, address) for serial in found)))


async def _device(serial: str, address: str | None) -> Description:
    lockdown, exceptions = (import_module(f"pymobiledevice3.{name}") for name in ("lockdown", "exceptions"))
    name = f"ios:{serial}"
    # A folder of its own: nothing is paired here, and nothing is left in the user's.
    with tempfile.TemporaryDirectory(prefix="lorarar-") as folder:
        try:
            client = await lockdown.create_using_usbmux(
                serial, autopair=False, usbmux_address=address, pairing_records_cache_folder=Path(folder)
            )
        except (exceptions.PyMobileDevice3Exception, OSError) as error:
            return Description(name, f"it doesn't tell what it is ({_words(error)}); unlock it, and plug it in again")
        async with client:
            return _description(name, client.all_values)


def _description(name: str, values: Mapping[str, Any]) -> Description:
    """Describe a phone by lockdown's values, which it tells an unpaired computer as well."""

    def text(key: str) -> str | None:
        value = values.get(key)
        return value if isinstance(value, str) and value else None

    product, version = text("ProductType"), text("ProductVersion")
    return Description(
        name, LISTED, model_name(product), chip(product), text("CPUArchitecture"), f"iOS {version}" if version else None
    )


def _words(error: BaseException) -> str:
    return said_by(error).partition(". ")[0][:150].rstrip(".")
