"""What `lateack serve nfs` does: opens a directory, opens a door to it, says where, and closes both when told to."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from lateack.cluster.doors.listening import DoorRefused, listen
from lateack.cluster.doors.nfs_door import NfsDoor, new_verifier
from lateack.nodes.nfs.drc import Mode
from lateack.nodes.nfs.drc_ganesha import request_cache
from lateack.nodes.nfs.nfs import TRANSFER_BYTES_MAX
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.read_only_store import ReadOnlyStore
from lateack.nodes.storage.store import Store


class NfsOptions(NamedTuple):
    """What the command line says: the directory, the address and port, and how the server is to work."""

    directory: Path
    host: str = "127.0.0.1"
    port: int = 2049
    read_only: bool = False
    drc: Mode = "checksum"
    as_json: bool = False


def serve_nfs(options: NfsOptions) -> int:
    """Serve a directory until Ctrl-C or SIGTERM, and return the exit status; raises DoorRefused."""
    root = _open_directory(options)
    store: Store = DirectoryStore(root)
    if options.read_only:
        store = ReadOnlyStore(store)
    server = NfsServer(
        store, new_verifier(), request_cache(options.drc), TRANSFER_BYTES_MAX,
        write_back=not options.read_only, own_path=os.fsencode(root),
    )  # fmt: skip
    try:
        door = NfsDoor(server, *listen(options.host, options.port))
        try:
            with _stopped_by_signals(door):
                _announce(options, door, root)
                door.run()
        finally:
            door.close()
    finally:
        store.close()
    _take_leave(door)
    return 0


def _open_directory(options: NfsOptions) -> Path:
    """Return the directory's real path; raises DoorRefused where it cannot be served."""
    given = options.directory
    try:
        root = given.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # the latter for a circle of symbolic links
        raise DoorRefused(f"there is no directory {given}: make it first, or name another one.") from error
    if not root.is_dir():
        raise DoorRefused(f"{given} is not a directory: name the one that holds the files to serve.")
    if not os.access(root, os.R_OK | os.X_OK):
        raise DoorRefused(f"{given} may not be read: name another directory, or run as somebody who may.")
    if not options.read_only and not os.access(root, os.W_OK):
        raise DoorRefused(f"{given} may not be written: serve it with --read-only, or name another directory.")
    return root


def url_of(host: str, port: int) -> str:
    """Return the URL of the export for libnfs, which asks no portmapper where it is told both ports.

    Of the two slashes the first ends the host and the second is the export: libnfs mounts what stands before the last
    slash, cannot mount an empty path, and so could not reach a file behind a single one.
    """
    return f"nfs://{host}//?version=3&nfsport={port}&mountport={port}"


def _announce(options: NfsOptions, door: NfsDoor, root: Path) -> None:
    """Say that calls are taken now, and where."""
    host, port = door.stream.getsockname()
    url = url_of(host, port)
    if options.as_json:
        print(json.dumps({"host": host, "port": port, "url": url, "directory": str(root)}), flush=True)
    else:
        print(f"serving {root} at {url}", flush=True)
    if not ip_address(host).is_loopback:
        may = "read" if options.read_only else "read and change"
        print(
            f"lateack: whoever reaches {host} may {may} what is there, for nobody is asked who he is.", file=sys.stderr
        )


def _take_leave(door: NfsDoor) -> None:
    counts = f"{door.writes} writes, {door.commits} commits and {door.duplicates} repeated calls"
    print(f"lateack: served {door.server.calls} calls, among them {counts}.", file=sys.stderr)


@contextmanager
def _stopped_by_signals(door: NfsDoor) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the loop between two calls, unless whoever started us has them ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        door.stop()

    signals = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
