"""Serve a study: the listening socket, the address to type in or scan, and uvicorn."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

import segno
import uvicorn
from starlette.applications import Starlette

from lorarar.errors import InputError


def listen(host: str, port: int) -> socket.socket:
    """Return a socket bound to host and port; port 0 takes any free one. Raises InputError."""
    if not 0 <= port <= 65535:
        raise InputError(f"`port` is {port}; a port is 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise InputError(f"{host}: not an address of this machine; use 127.0.0.1, or 0.0.0.0 for the network") from None
    server = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there, the option would let two servers share the port
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
    except OSError as error:
        server.close()
        raise InputError(
            f"can't listen on {host} port {port} ({error.strerror}); choose another `port` or `host`"
        ) from None
    return server


def is_local(host: str) -> bool:
    """Tell whether only this machine can reach the host."""
    return host in ("localhost", "::1") or host.startswith("127.")


def url(host: str, port: int) -> str:
    """Return what to open in a browser. For all interfaces it names the one that leads to the network."""
    if host in ("0.0.0.0", "::"):
        host = _own_address()
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sends nothing; it only chooses the interface. A documentation address.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def qr_code(text: str) -> str:
    """Return a QR code in half-block characters, for a terminal."""
    rows = [list(row) for row in segno.make(text, error="l").matrix_iter(border=2)]
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    # A module that is dark on paper is left empty, since most terminals are dark.
    blocks = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    return "\n".join(
        "".join(blocks[int(bool(upper)), int(bool(lower))] for upper, lower in zip(top, bottom, strict=True))
        for top, bottom in zip(rows[::2], rows[1::2], strict=True)
    )


def make_server(app: Starlette) -> uvicorn.Server:
    """Make a uvicorn server with nothing but HTTP/1.1; it logs warnings and errors only."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=500,
        timeout_graceful_shutdown=3,
    )
    return uvicorn.Server(config)


def serve(app: Starlette, server: socket.socket, announce: Callable[[], None]) -> None:
    """Serve on a bound socket until Ctrl-C or SIGTERM, then return."""
    # Connections wait in the queue from here on, so the address holds when it is announced.
    server.listen(128)
    announce()
    try:
        make_server(app).run(sockets=[server])
    except KeyboardInterrupt:
        # uvicorn raises the signal again after its orderly shutdown.
        return
