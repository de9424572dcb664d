"""What processes leave behind: found in /proc and in the file system, without asking them."""

import os
import tempfile
from pathlib import Path

LISTENING = "0A"  # net/tcp_states.h


def processes_marked(word: str) -> set[int]:
    """Return the processes that have a word (`NAME=value`) in their environment."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in folder.joinpath("environ").read_bytes().split(b"\0") and _lives(folder):
                found.add(int(folder.name))
        except OSError:
            continue  # gone, or somebody else's
    return found


def _lives(folder: Path) -> bool:
    return folder.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"


def listening_addresses(processes: set[int]) -> set[str]:
    """Return the IP addresses on which processes listen for TCP connections."""
    inodes = {inode for process in processes for inode in _socket_inodes(process)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                found.add(_address(fields[1].partition(":")[0]))
    return found


def _socket_inodes(process: int) -> set[str]:
    try:
        links = [os.readlink(path) for path in Path(f"/proc/{process}/fd").iterdir()]
    except OSError:
        return set()
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def _address(hexadecimal: str) -> str:
    """Return an address of /proc/net/tcp as people write it: little-endian words; ::ffff:a.b.c.d as a.b.c.d."""
    if len(hexadecimal) == 32:
        return _address(hexadecimal[24:]) if hexadecimal.startswith("0" * 16 + "FFFF0000") else hexadecimal
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(hexadecimal)))


def sockets_named(part: str) -> list[str]:
    """Return the names of Unix sockets, in the file system or the abstract namespace, that contain `part`."""
    lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    return [name for line in lines if part in (name := line.split()[-1])]


def temporary_folders(pid: int) -> list[Path]:
    """Return the folders that a session of process `pid` has made for Ray."""
    return list(Path(tempfile.gettempdir()).glob(f"lateack-{pid}-*"))
