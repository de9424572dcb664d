"""An NFS door in a process of its own, and a client of ours that talks to it over real sockets, for tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lateack.nodes.nfs import mount, nfs, nfs_calls, nfs_replies, rpc
from lateack.nodes.nfs.rpc import RecordReader, record_mark

ROOT = Path(__file__).parent.parent.parent
CREDENTIAL = rpc.encode_auth_sys(rpc.AuthSys(0, b"test", 0, 0))
PATIENCE_S = 30


class Door:
    """A running `lateack serve nfs`, and where it listens."""

    def __init__(self, directory: Path, *options: str) -> None:
        words = [sys.executable, "-m", "lateack", "serve", "nfs", str(directory), "--json", *options]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
        self.process = subprocess.Popen(
            words, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the door did not open"
        self.ready = json.loads(line)
        self.port: int = self.ready["port"]

    def url(self, path: str) -> str:
        """The URL of a path below the export."""
        return str(self.ready["url"]).replace("?", f"{path}?")

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, wait for the end, and return the exit status and what was said on stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, said

    def resident_bytes(self) -> int:
        """How much memory the process has."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def open_door(directory: Path, *options: str, port: int = 0) -> Iterator[Door]:
    """Open a door to a directory; whatever becomes of it, the process is gone afterwards."""
    door = Door(directory, "--port", str(port), *options)
    try:
        yield door
    finally:
        if door.process.poll() is None:
            door.process.kill()
        door.process.communicate()


class Caller:
    """A client of a door over TCP, which may also send what no client should."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = RecordReader(rpc.RECORD_BYTES_MAX)
        self.replies: list[bytes] = []
        self.xid = 0

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def send(self, procedure: int, arguments: bytes, program: int = nfs.PROGRAM) -> int:
        """Send a call without waiting for its reply, and return its XID."""
        self.xid += 1
        record = rpc.encode_call(self.xid, program, 3, procedure, CREDENTIAL) + arguments
        self.socket.sendall(record_mark(len(record)) + record)
        return self.xid

    def next_reply(self) -> bytes | None:
        """Wait for the next reply; None where the server has closed the connection."""
        while not self.replies:
            try:
                data = self.socket.recv(1 << 18)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.replies += self.reader.feed(data)
        return self.replies.pop(0)

    def call(self, procedure: int, arguments: bytes, program: int = nfs.PROGRAM) -> bytes:
        """Make a call that is executed, and return its results."""
        xid = self.send(procedure, arguments, program)
        reply = self.next_reply()
        assert reply is not None
        header = rpc.decode_reply(reply)
        assert header.xid == xid
        assert header.succeeded()
        return reply[header.results :]

    def mount(self, path: bytes = b"/") -> bytes:
        """Mount a path and return its handle."""
        results = self.call(mount.MNT, mount.encode_path(path), mount.PROGRAM)
        status, handle, _ = mount.decode_mount_result(results)
        assert status == mount.MNT3_OK
        return handle

    def create(self, directory: bytes, name: bytes) -> bytes:
        """Create a file, or find it, and return its handle."""
        arguments = nfs_calls.encode_create(directory, name, nfs.SetAttributes(mode=0o644))
        found = nfs_replies.decode_create(self.call(nfs.CREATE, arguments), 0)
        assert found.file is not None
        return found.file

    def write(self, file: bytes, offset: int, data: bytes, stable: int) -> nfs_replies.WriteResult:
        """Write bytes."""
        return nfs_replies.decode_write_result(self.call(nfs.WRITE, write_arguments(file, offset, data, stable)), 0)

    def commit(self, file: bytes) -> nfs_replies.CommitResult:
        """Let everything that was written last."""
        return nfs_replies.decode_commit(self.call(nfs.COMMIT, nfs_calls.encode_range(file, 0, 0)), 0)


def write_arguments(file: bytes, offset: int, data: bytes, stable: int) -> bytes:
    """WRITE's arguments with their payload."""
    return nfs_calls.encode_write_head(file, offset, len(data), stable) + data + bytes(-len(data) % 4)
