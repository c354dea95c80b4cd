"""iPhones where there is no Xcode: real pymobiledevice3, speaking to a stand-in for usbmuxd on a Unix socket."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from devices.usbmuxd import PHONE, Phone, StandInUsbmuxd

from benchmarks import device as command
from benchmarks.devices.device import Description
from benchmarks.devices.ios_usbmux import LISTED, describe
from lorarar.errors import InputError

UDID = "00008130-001A2B3C4D5E001C"


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path is short
        yield Path(folder) / "usbmuxd"


def test_every_phone_is_listed_once(socket: Path) -> None:
    unknown = PHONE | {"ProductType": "iPhone99,9"}
    phones = [Phone(UDID, connections=("USB", "Network")), Phone("00008110-000000000000002E", unknown)]
    with StandInUsbmuxd(socket, *phones):
        assert describe(str(socket)) == [
            Description(f"ios:{UDID}", LISTED, "iPhone 15 Pro", "Apple A17 Pro", "arm64e", "iOS 18.5"),
            Description("ios:00008110-000000000000002E", LISTED, "iPhone99,9", None, "arm64e", "iOS 18.5"),
        ]


def test_no_phone(socket: Path) -> None:
    with StandInUsbmuxd(socket):
        assert describe(str(socket)) == []


@pytest.mark.parametrize(
    ("phone", "said"),
    [
        (Phone(UDID, error="PasswordProtected"), "it doesn't tell what it is ("),
        (Phone(UDID, refuses=True), "it doesn't tell what it is ("),
    ],
)
def test_a_phone_that_says_nothing_doesnt_hide_the_others(socket: Path, phone: Phone, said: str) -> None:
    with StandInUsbmuxd(socket, phone, Phone("00008140-000000000000003E")):
        silent, other = describe(str(socket))
    assert silent.name == f"ios:{UDID}" and silent.state.startswith(said)
    assert silent.state.endswith("; unlock it, and plug it in again") and "\n" not in silent.state
    assert other.model == "iPhone 15 Pro"


def test_values_that_are_missing_are_not_made_up(socket: Path) -> None:
    with StandInUsbmuxd(socket, Phone(UDID, {"ProductType": "", "ProductVersion": 18})):
        assert describe(str(socket)) == [Description(f"ios:{UDID}", LISTED)]


def test_no_usbmuxd(socket: Path) -> None:
    with pytest.raises(InputError, match="usbmuxd is not running: install usbmuxd on Linux, Apple Devices on Windows"):
        describe(str(socket))


def test_a_usbmuxd_that_hangs(socket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.devices.ios_usbmux.ANSWER_S", 0.1)
    with (
        StandInUsbmuxd(socket, silent=True),
        pytest.raises(InputError, match="usbmuxd gave no answer for 0 s; unplug the iPhones and restart it"),
    ):
        describe(str(socket))


@pytest.mark.parametrize(
    "answer",
    [
        b"\x02\0\0\0",
        b"\x08\0\0\0\1\0\0\0",
        b"\x14\0\0\0" + b"x" * 16,
        b"\x18\0\0\0\1\0\0\0\x08\0\0\0\1\0\0\0nonsense",
        b"\x28\0\0\0\1\0\0\0\x08\0\0\0\1\0\0\0<?xml version='1.0'?><p>",
    ],
)
def test_something_else_on_the_socket(socket: Path, answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Any, stream: Any, tag: int, asked: Any) -> None:
        stream.sendall(answer)

    monkeypatch.setattr("devices.usbmuxd._Conversation._answer", refuse)
    with StandInUsbmuxd(socket), pytest.raises(InputError, match=r"iPhones can't be listed \(.*\); restart usbmuxd"):
        describe(str(socket))


def test_without_pymobiledevice3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymobiledevice3", None)
    monkeypatch.setitem(sys.modules, "pymobiledevice3.usbmux", None)
    with pytest.raises(InputError, match=r"pymobiledevice3.* is not installed: .*lorarar-toolkit\[ios\]"):
        describe()


def test_the_list_of_the_command(
    socket: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user off a Mac sees it; the socket's place is libusbmuxd's own environment variable."""
    monkeypatch.setenv("PATH", str(socket.parent))  # neither adb nor xcrun
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("USBMUXD_SOCKET_ADDRESS", str(socket))
    with StandInUsbmuxd(socket, Phone(UDID)):
        assert command.main(["--list"]) == 0
    said = capsys.readouterr().out
    assert f"ios:{UDID}" in said and "iPhone 15 Pro" in said and "only listed here" in said
    assert command.main(["--list"]) == 0
    assert "usbmuxd is not running" in capsys.readouterr().out
    with pytest.raises(InputError, match=f"--device ios:{UDID}: measuring an iPhone needs a Mac with Xcode"):
        command.main(["--device", f"ios:{UDID}", "--bundle", "b"])
