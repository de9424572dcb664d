"""A door in a process of its own, and a small frontend in Python that can lie where one likes."""

import fcntl
import json
import mmap
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from lateack.nodes.bridge import HOST_MAC
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.netif import RxFrontRing, TxFrontRing
from lateack.nodes.memory.pages import PAGE_SIZE, Memory
from lateack.nodes.memory.ring import init_shared_ring
from lateack.nodes.stack.packets import ETH_IP, IPPROTO_UDP, UDP, ip_checksum

WAIT_S = 20.0
FRAMES = 64
GRANTS, TX_RING, RX_RING, SENT, BUFFERS = 0, 1, 2, 3, 32
BUFFER_COUNT = 32
HOST_IP = 0x0A000001


class Door:
    """`lateack serve netback` as somebody else runs it."""

    def __init__(self, process: subprocess.Popen[str], path: Path) -> None:
        """Listen to what the process says, from now on."""
        self.process = process
        self.path = path
        self.said: list[dict[str, Any]] = []
        assert process.stdout is not None
        self._lines = process.stdout

    def hear(self, event: str) -> dict[str, Any]:
        """Return the next report of this kind; those before it are kept in `said`."""
        while True:
            line = self._lines.readline()
            assert line, f"the door ended before it said {event}"
            self.said.append(json.loads(line))
            if self.said[-1]["event"] == event:
                return self.said[-1]

    def descriptors(self) -> int:
        """Count the descriptors that the door has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End the door, take what it says to the end, and return its exit code."""
        self.process.send_signal(number)
        self.said += [json.loads(line) for line in self._lines.read().splitlines()]
        return self.process.wait(WAIT_S)


@contextmanager
def open_door(path: Path, backend: str = "dev-zerocopy", guests_max: int = 8) -> Iterator[Door]:
    """Start a door, wait until it serves, and see to it that it ends."""
    words = ["serve", "netback", "--socket", str(path), "--backend", backend, "--guests-max", str(guests_max), "--json"]
    process = subprocess.Popen([sys.executable, "-m", "lateack", *words], stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(100, process.kill)  # a test that waits for a line would wait for ever
    watchdog.start()
    try:
        door = Door(process, path)
        door.hear("serving")
        yield door
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Frontend:
    """One guest: 64 frames, one grant table, 32 receive buffers, and no more manners than a test gives it."""

    def __init__(self, path: Path, number: int = 1, name: str = "") -> None:
        """Have a memory, rings and bells, and a connection on which nothing has been said."""
        self.name = name or f"python{number}"
        self.mac = bytes.fromhex(f"00163e0000{number:02x}")
        self.ip = HOST_IP + 100 + number
        self.memfd = os.memfd_create(self.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.memfd, FRAMES * PAGE_SIZE)
        fcntl.fcntl(self.memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        self.memory = Memory(0, FRAMES, mmap.mmap(self.memfd, FRAMES * PAGE_SIZE), shared=True)
        self.grants = GrantTable(self.memory, GRANTS)
        for ring in (TX_RING, RX_RING):
            init_shared_ring(self.memory, ring)
        self.tx, self.rx = TxFrontRing(self.memory, TX_RING), RxFrontRing(self.memory, RX_RING)
        self.keys: dict[str, Any] = {
            "mac": self.mac.hex(":"),
            "tx-ring-ref": self.grants.grant_access(0, TX_RING, False),
            "rx-ring-ref": self.grants.grant_access(0, RX_RING, False),
            "event-channel": 1,
            "request-rx-copy": 1,
        }
        self.page = self.grants.grant_access(0, SENT, True)
        for buffer in range(BUFFER_COUNT):
            self.rx.put_request(buffer, self.grants.grant_access(0, BUFFERS + buffer, False))
        self.rx.push_requests()
        self.wake_door, self.wake_us = (os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2))
        self.link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(WAIT_S)
        self.link.connect(str(path))

    def __enter__(self) -> "Frontend":
        """Use it for as long as the block lasts."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Hang up, and let go of everything."""
        self.link.close()
        for descriptor in (self.memfd, self.wake_door, self.wake_us):
            os.close(descriptor)
        self.memory.close()

    # --- the line -----------------------------------------------------------------------------------------------------

    def greeting(self, **other: Any) -> dict[str, Any]:
        """Return the greeting of an honest frontend, with *other* fields (underscores for hyphens)."""
        plain = {"attach": self.name, "state": 4, "grant-frame": GRANTS, "keys": self.keys}
        return plain | {key.replace("_", "-"): value for key, value in other.items()}

    def say(self, line: dict[str, Any] | bytes, descriptors: list[int] | None = None) -> None:
        """Send a line, with descriptors if there are any."""
        data = line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n"
        socket.send_fds(self.link, [data], descriptors or [])

    def hear(self) -> dict[str, Any]:
        """Return the next line; empty when the door has hung up."""
        try:
            line = self.link.recv(65536)
        except ConnectionResetError:
            return {}
        return dict(json.loads(line)) if line else {}

    def greet(self, **other: Any) -> list[dict[str, Any]]:
        """Say the greeting and return all lines up to Connected, an error, or the end."""
        self.say(self.greeting(**other), [self.memfd, self.wake_door, self.wake_us])
        return self.lines_to(4)

    def lines_to(self, state: int) -> list[dict[str, Any]]:
        """Return all lines up to the one with this state, an error, or the end."""
        lines = [self.hear()]
        while lines[-1] and "error" not in lines[-1] and lines[-1].get("state") != state:
            lines.append(self.hear())
        return lines

    # --- the rings ----------------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Send a frame out of the one page that there is for that."""
        self.memory.write(SENT, 0, frame)
        self.tx.put_request(self.page, 0, 0, 7, len(frame))
        if self.tx.push_requests():
            self.kick()

    def kick(self) -> None:
        """Set the pending bit at the door."""
        os.eventfd_write(self.wake_door, 1)

    def answered(self) -> tuple[int, int]:
        """Wait for the answer to a request: (id, status)."""
        while not self.tx.final_check_for_responses():
            self._sleep()
        return self.tx.get_response()

    def receive(self) -> bytes:
        """Wait for a frame, and offer its buffer again."""
        while not self.rx.final_check_for_responses():
            self._sleep()
        buffer, offset, _, length = self.rx.get_response()
        assert length > 0
        frame = self.memory.read(BUFFERS + buffer, offset, length)
        self.rx.put_request(buffer, self.keys["rx-ring-ref"] + 2 + buffer)
        if self.rx.push_requests():
            self.kick()
        return frame

    def datagram(self, payload: bytes, mac: bytes = HOST_MAC, ip: int = HOST_IP, port: int = 7) -> bytes:
        """Return a datagram without a checksum."""
        total = 28 + len(payload)
        check = ip_checksum(total, 0, 0, IPPROTO_UDP, self.ip, ip)
        head = ETH_IP.pack(mac, self.mac, 0x0800, 0x45, 0, total, 0, 0, 64, IPPROTO_UDP, check, self.ip, ip)
        return head + UDP.pack(40000, port, 8 + len(payload), 0) + payload

    def echoes(self, payload: bytes) -> bool:
        """Send a datagram to the host, and say whether it came back as it was."""
        self.send(self.datagram(payload))
        return self.answered() == (7, 0) and self.receive()[42:] == payload

    def _sleep(self) -> None:
        assert select.select([self.wake_us], [], [], WAIT_S)[0], "nobody has kicked"
        os.eventfd_read(self.wake_us)
