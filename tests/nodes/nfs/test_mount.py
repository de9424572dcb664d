"""MOUNT: what a client that mounts is told, and who is known to have mounted."""

from __future__ import annotations

import pytest

from lateack.nodes.nfs import mount, rpc
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.storage.memory_store import MemoryStore
from tests.nodes.nfs.conversation import CREDENTIAL, Conversation

GUEST = ("10.0.0.2", 800)
OTHER = ("10.0.0.3", 800)


class Mounter:
    """A client of a server with the directory `inner`, a file `file` in it and a symbolic link `link` beside it."""

    def __init__(self, own_path: bytes = b"/srv/files") -> None:
        self.server = NfsServer(MemoryStore(), b"verifier", own_path=own_path)
        conversation = Conversation(self.server)
        self.inner = conversation.made_directory(b"inner")
        conversation.made(b"file", self.inner)
        self.server.procedures.store.symlink(self.server.root_handle, b"link", b"inner", 0)

    def reply(self, procedure: int, arguments: bytes = b"", client: tuple[str, int] = GUEST, version: int = 3) -> bytes:
        """Make a call of the program and give the whole reply."""
        record = rpc.encode_call(7, mount.PROGRAM, version, procedure, CREDENTIAL) + arguments
        answer = self.server.handle_call(record, client, 0)
        assert answer is not None
        return answer

    def results(self, procedure: int, arguments: bytes = b"", client: tuple[str, int] = GUEST) -> bytes:
        """Make a call that succeeds and give its results."""
        answer = self.reply(procedure, arguments, client)
        header = rpc.decode_reply(answer)
        assert header.succeeded()
        return answer[header.results :]

    def mount(self, path: bytes, client: tuple[str, int] = GUEST) -> tuple[int, bytes, tuple[int, ...]]:
        """Mount a path."""
        return mount.decode_mount_result(self.results(mount.MNT, mount.encode_path(path), client))


@pytest.mark.parametrize("path", [b"/", b"", b"//", b"/srv/files", b"/srv/files/"])
def test_the_root_can_be_mounted_by_both_of_its_names(path: bytes) -> None:
    """A client gets the root's handle and the flavors that it may use."""
    mounter = Mounter()

    assert mounter.mount(path) == (mount.MNT3_OK, mounter.server.root_handle, (rpc.AUTH_SYS, rpc.AUTH_NONE))


@pytest.mark.parametrize("path", [b"/inner", b"inner/", b"/srv/files/inner"])
def test_a_directory_below_can_be_mounted(path: bytes) -> None:
    """A client that is given the path of a file mounts the directory that holds it."""
    mounter = Mounter()

    assert mounter.mount(path)[:2] == (mount.MNT3_OK, mounter.inner)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"/srv", mount.MNT3ERR_NOENT),
        (b"/srv/filesystem", mount.MNT3ERR_NOENT),
        (b"/inner/../inner", mount.MNT3ERR_ACCES),
        (b"/inner/file", mount.MNT3ERR_NOTDIR),
        (b"/link", mount.MNT3ERR_NOTDIR),
        (b"/" + b"n" * 256, mount.MNT3ERR_NAMETOOLONG),
    ],
)
def test_what_is_no_directory_of_ours_cannot_be_mounted(path: bytes, status: int) -> None:
    """Nothing outside the root has a name, and neither files nor links are mounted."""
    mounter = Mounter()

    assert mounter.mount(path) == (status, b"", ())
    assert mount.decode_dump(mounter.results(mount.DUMP)) == []


def test_an_nfsstat3_that_mount_does_not_know_is_a_fault_of_the_server() -> None:
    """A stale root, say, has no mountstat3 of its own."""
    assert mount.encode_mount_failure(70) == mount.MNT3ERR_SERVERFAULT.to_bytes(4)


def test_the_list_of_mounts_is_by_address_and_path() -> None:
    """Who mounts twice is listed once, UMNT takes back one path and UMNTALL all of one client's."""
    mounter = Mounter()
    for path, client in ((b"/", GUEST), (b"/inner", GUEST), (b"/", GUEST), (b"/inner", OTHER)):
        mounter.mount(path, client)

    before = mount.decode_dump(mounter.results(mount.DUMP))
    mounter.results(mount.UMNT, mount.encode_path(b"/"))
    mounter.results(mount.UMNT, mount.encode_path(b"/never/mounted"))
    between = mount.decode_dump(mounter.results(mount.DUMP))
    mounter.results(mount.UMNTALL)

    assert before == [("10.0.0.2", b"/inner"), ("10.0.0.2", b"/"), ("10.0.0.3", b"/inner")]
    assert between == [("10.0.0.2", b"/inner"), ("10.0.0.3", b"/inner")]
    assert mount.decode_dump(mounter.results(mount.DUMP)) == [("10.0.0.3", b"/inner")]


def test_the_list_of_mounts_is_bounded() -> None:
    """Clients that never unmount cannot fill the server's memory."""
    mounter = Mounter()

    for number in range(mount.MOUNTS_MAX + 3):
        mounter.mount(b"/", (f"10.0.1.{number}", 800))

    listed = mount.decode_dump(mounter.results(mount.DUMP))
    assert len(listed) == mount.MOUNTS_MAX
    assert listed[0] == ("10.0.1.3", b"/")


def test_one_export_is_listed_by_the_name_that_always_works() -> None:
    """With a second name for the root, clients would look for a second export inside the first."""
    assert mount.decode_exports(Mounter().results(mount.EXPORT)) == [b"/"]


@pytest.mark.parametrize("version", [1, 2, 4])
def test_other_versions_are_told_which_one_there_is(version: int) -> None:
    """Clients of MOUNT version 1 learn that there is version 3."""
    assert Mounter().reply(mount.NULL, version=version) == rpc.encode_program_mismatch(7, 3, 3)


def test_other_calls_are_refused_as_rpc_says() -> None:
    """A procedure that there is not, a path beyond its bound, and one that is cut short."""
    mounter = Mounter()
    too_long = mount.encode_path(b"/" * (mount.PATH_BYTES_MAX + 1))

    assert mounter.reply(mount.PROCEDURES) == rpc.encode_refusal(7, rpc.PROC_UNAVAIL)
    assert mounter.reply(mount.MNT, too_long) == rpc.encode_refusal(7, rpc.GARBAGE_ARGS)
    assert mounter.reply(mount.UMNT, bytes(3)) == rpc.encode_refusal(7, rpc.GARBAGE_ARGS)
    assert mounter.results(mount.NULL) == b""
