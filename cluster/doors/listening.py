"""Sockets that listen on one port, for connections and for datagrams, or a sentence that says why there are none."""

import errno
import socket

from lateack.nodes.errors import LateackError

BACKLOG = 64
"""Connections that may wait to be accepted."""
ATTEMPTS = 16
"""How often a free port is looked for that both protocols have."""


class DoorRefused(LateackError):
    """The operating system does not let a door be opened, or what it would lead to is not there."""


def listen(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """Return a TCP and a UDP socket on one port of an IPv4 address; port 0 is any that is free.

    Raises DoorRefused.
    """
    for _ in range(ATTEMPTS if port == 0 else 1):
        stream = _bound(socket.SOCK_STREAM, host, port)
        try:
            datagrams = _bound(socket.SOCK_DGRAM, host, stream.getsockname()[1])
        except DoorRefused:
            stream.close()
            if port:
                raise
            continue  # somebody has this port for datagrams: try the next free one
        stream.listen(BACKLOG)
        return stream, datagrams
    raise DoorRefused(f"no port of {host} is free for TCP and UDP: choose one with --port.")


def _bound(kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, kind)
    try:
        if kind is socket.SOCK_STREAM:  # or a door could not be opened again while old connections are forgotten
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise DoorRefused(_reason(error, host, port)) from error
    except OverflowError as error:
        sock.close()
        raise DoorRefused(f"there is no port {port}: choose one from 0 to 65535.") from error
    return sock


def _reason(error: OSError, host: str, port: int) -> str:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no IPv4 address of this computer: name another one with --host, such as 127.0.0.1."
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: choose another one with --port, or --port 0 for any that is free."
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} is for privileged users: choose one from 1024 on with --port."
    return f"cannot listen on port {port} of {host} ({error.strerror}): choose another one with --host and --port."
