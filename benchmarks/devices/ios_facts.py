"""Read what is known of an iPhone from devicectl's JSON, in both of its shapes, or from lockdown's values.

Nothing is guessed: what isn't there is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.devices.ios_link import DEVELOPER_MODE, NOT_CONNECTED, UNTRUSTED, at
from lorarar.files import read_json

READY = "ready"
OLDEST_IOS = 17  # the first that devicectl serves
# Where each fact stands: since jsonVersion 5, and before it. Xcode 27 still writes both.
PLACES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "udid": (("hardware", "udid"), ("hardwareProperties", "udid")),
    "family": (("hardware", "deviceType"), ("hardwareProperties", "deviceType")),
    "platform": (("hardware", "platform"), ("hardwareProperties", "platform")),
    "marketing_name": (("hardware", "marketingName"), ("hardwareProperties", "marketingName")),
    "product_type": (("hardware", "productType"), ("hardwareProperties", "productType")),
    "reality": (("hardware", "reality"), ("hardwareProperties", "reality")),
    "architecture": (("hardware", "cpuType", "name"), ("hardwareProperties", "cpuType", "name")),
    "os_version": (("software", "osVersionNumber", "stringValue"), ("deviceProperties", "osVersionNumber")),
    "os_build": (("software", "osBuildVersions", "buildVersion", "name"), ("deviceProperties", "osBuildUpdate")),
    "boot_state": (("state", "bootState"), ("deviceProperties", "bootState")),
    "pairing": (("connection", "pairingState"), ("connectionProperties", "pairingState")),
    "connection": (("connection", "state"), ("connectionProperties", "tunnelState")),
}


class IphoneFacts(NamedTuple):
    """An iPhone or another device, as devicectl's list or its details tell of it."""

    identifier: str
    udid: str | None
    family: str | None  # iPhone, iPad, appleWatch, …
    platform: str | None  # iOS, watchOS, …
    marketing_name: str | None
    product_type: str | None
    reality: str | None  # physical, or simulated
    architecture: str | None
    os_version: str | None
    os_build: str | None
    boot_state: str | None
    pairing: str | None  # paired, unpaired, unsupported
    connection: str | None  # connected, disconnected (until it is used), unavailable
    developer_mode: str | None  # enabled, disabled

    @property
    def name(self) -> str:
        """The name by which devicectl takes it: its UDID, which older phones don't tell."""
        return self.udid or self.identifier

    @property
    def simulated(self) -> bool:
        return self.reality == "simulated"

    @property
    def model(self) -> str | None:
        return self.marketing_name or model_name(self.product_type)

    @property
    def state(self) -> str:
        """`ready`, or what has to be done first."""
        if self.connection == "unavailable":
            return NOT_CONNECTED
        if not self.simulated and self.pairing not in (None, "paired"):
            return UNTRUSTED
        major = (self.os_version or "").partition(".")[0]
        if major.isdecimal() and int(major) < OLDEST_IOS:
            return f"iOS {self.os_version} is too old for devicectl; update it to iOS {OLDEST_IOS} or later"
        return DEVELOPER_MODE if self.developer_mode == "disabled" else READY

    @property
    def record(self) -> dict[str, Any]:
        """What a record's `device` object says of it; only what is known."""
        known = {
            "model": self.model,
            "manufacturer": "Apple",
            "soc": None if self.simulated else chip(self.product_type),  # a Simulator has the Mac's
            "os_version": self.os_version,
            "os_build": self.os_build,
        }
        return {key: value for key, value in known.items() if value}


def parse_facts(entry: Mapping[str, Any]) -> IphoneFacts:
    """Read an entry of `result.devices`, or the `result` of `device info details`."""
    found = {}
    for name, (new, old) in PLACES.items():
        value = at(entry, "properties", *new) or at(entry, *old)
        found[name] = value if isinstance(value, str) and value else None
    return IphoneFacts(str(entry.get("identifier") or ""), **found, developer_mode=_developer_mode(entry))


def _developer_mode(entry: Mapping[str, Any]) -> str | None:
    """Read the state of Developer Mode: a word, or since jsonVersion 5 an object whose one key is that word."""
    new = at(entry, "properties", "state", "developerModeStatus")
    status = new or at(entry, "deviceProperties", "developerModeStatus")
    if isinstance(status, Mapping):
        return next((str(key) for key in status), None)
    return status if isinstance(status, str) and status else None


def parse_list(result: Mapping[str, Any]) -> list[IphoneFacts]:
    """Read the iPhones and iPads of `list devices`: no watches, and no Simulators that are shut down."""
    entries = result.get("devices")
    found = [parse_facts(entry) for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    return [
        facts
        for facts in found
        if facts.name
        and facts.family in (None, "iPhone", "iPad")
        and facts.platform in (None, "iOS")
        and not (facts.simulated and facts.boot_state != "booted")
    ]


@cache
def _models() -> Mapping[str, Mapping[str, str]]:
    path = Path(__file__).with_name("ios_models.json")
    return read_json(path, what="models", mend="install the toolkit again")["models"]


def model_name(product_type: str | None) -> str | None:
    """Return the name of a product type: `iPhone16,1` is an iPhone 15 Pro; an unknown type is its own name."""
    return _models().get(product_type or "", {}).get("name") or product_type


def chip(product_type: str | None) -> str | None:
    """Return the chip of a product type: `iPhone16,1` has an Apple A17 Pro."""
    return _models().get(product_type or "", {}).get("chip")
