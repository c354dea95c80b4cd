"""A stand-in for usbmuxd and the lockdownd of its phones, on a Unix socket: enough to be asked what is connected.

Packets are a length, three little-endian words and a property list; after `Connect`, a big-endian length and one.
"""

from __future__ import annotations

import plistlib
import socket
import socketserver
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

LOCKDOWN_PORT = 62078
PLIST_VERSION, PLIST_MESSAGE = 1, 8
REFUSED = 3  # usbmuxd's word for a phone that doesn't take the connection
PHONE = {
    "DeviceClass": "iPhone",
    "DeviceName": "Test phone",
    "ProductType": "iPhone16,1",
    "ProductVersion": "18.5",
    "BuildVersion": "22F76",
    "HardwareModel": "D83AP",
    "CPUArchitecture": "arm64e",
}


@dataclass(frozen=True)
class Phone:
    """What usbmuxd and lockdownd say of it; `error` is lockdownd's answer to GetValue."""

    udid: str
    values: Mapping[str, Any] = field(default_factory=lambda: PHONE)
    connections: tuple[str, ...] = ("USB",)
    refuses: bool = False
    error: str | None = None


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    phones: tuple[Phone, ...]
    silent: threading.Event | None


class _Conversation(socketserver.BaseRequestHandler):
    """One client's connection, until it hangs up."""

    def handle(self) -> None:
        server = cast(_Server, self.server)
        stream = cast(socket.socket, self.request)
        try:
            while True:
                length, _, _, tag = struct.unpack("<IIII", _exactly(stream, 16))
                asked = plistlib.loads(_exactly(stream, length - 16))
                if server.silent is not None:
                    server.silent.wait()
                    return
                phone = self._answer(stream, tag, asked)
                if phone is not None:
                    _lockdown(stream, phone)
                    return
        except (EOFError, OSError):
            return  # it hung up

    def _answer(self, stream: socket.socket, tag: int, asked: Mapping[str, Any]) -> Phone | None:
        """Answer one request; the phone where it is now to be spoken to."""
        devices = _devices(cast(_Server, self.server).phones)
        answer: dict[str, Any] = {"MessageType": "Result", "Number": 0}
        phone = None
        match asked["MessageType"]:
            case "ReadBUID":
                answer = {"BUID": "00000000-0000-4000-8000-000000000000"}
            case "ListDevices":
                answer = {"DeviceList": [_attached(number, *found) for number, found in devices.items()]}
            case "ReadPairRecord":
                answer["Number"] = 2  # there is none
            case "Connect":
                assert socket.ntohs(asked["PortNumber"]) == LOCKDOWN_PORT
                phone = devices[asked["DeviceID"]][0]
                if phone.refuses:
                    phone, answer["Number"] = None, REFUSED
        body = plistlib.dumps(answer)
        stream.sendall(struct.pack("<IIII", 16 + len(body), PLIST_VERSION, PLIST_MESSAGE, tag) + body)
        return phone


def _devices(phones: tuple[Phone, ...]) -> dict[int, tuple[Phone, str]]:
    """By usbmuxd's number: each phone once for every connection that it has."""
    return dict(enumerate(((phone, connection) for phone in phones for connection in phone.connections), 1))


def _attached(number: int, phone: Phone, connection: str) -> dict[str, Any]:
    facts = {"ConnectionType": connection, "DeviceID": number, "LocationID": number, "ProductID": 4776}
    return {"DeviceID": number, "MessageType": "Attached", "Properties": facts | {"SerialNumber": phone.udid}}


def _lockdown(stream: socket.socket, phone: Phone) -> None:
    values = {**phone.values, "UniqueDeviceID": phone.udid}
    while True:
        (length,) = struct.unpack(">I", _exactly(stream, 4))
        asked = plistlib.loads(_exactly(stream, length))
        answer = {"Request": asked["Request"]}
        match asked["Request"]:
            case "QueryType":
                answer["Type"] = "com.apple.mobile.lockdown"
            case "GetValue" if phone.error is None:
                key = asked.get("Key")
                answer["Value"] = values if key is None else values.get(key)
            case _:
                answer["Error"] = phone.error or "InvalidHostID"
        body = plistlib.dumps(answer)
        stream.sendall(struct.pack(">I", len(body)) + body)


def _exactly(stream: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = stream.recv(size - len(found))
        if not more:
            raise EOFError
        found += more
    return found


class StandInUsbmuxd:
    """It, while it is entered. A silent one takes connections and never answers."""

    def __init__(self, path: Path, *phones: Phone, silent: bool = False) -> None:
        self.path, self.phones, self.silent = path, phones, threading.Event() if silent else None

    def __enter__(self) -> StandInUsbmuxd:
        self.server = _Server(str(self.path), _Conversation)
        self.server.phones, self.server.silent = self.phones, self.silent
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.silent is not None:
            self.silent.set()
        self.server.shutdown()
        self.server.server_close()
        self.path.unlink()
