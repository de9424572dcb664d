"""The file of a mount, whatever carries its calls: what is asked for, and what each answer leads to."""

import pytest

from lateack.nodes.application import IN_PLACE, Copier, PageBuffer
from lateack.nodes.facts import CopyFailed, CopyFinished, Fact, ReplyMatched
from lateack.nodes.memory.pages import Memory
from lateack.nodes.nfs import nfs, nfs_replies
from lateack.nodes.nfs.nfs_file import NfsFile
from lateack.nodes.nfs.nfs_mount import NfsMount
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.nfs.rpc import encode_refusal
from lateack.nodes.nfs.rpc_client import RpcRequest, RpcTimeouts
from lateack.nodes.node import Effect, Time
from lateack.nodes.storage.memory_store import MemoryStore
from lateack.nodes.storage.page_write import PageWrite
from tests.nodes.hand import facts_of
from tests.nodes.one_guest import Bytes, pattern


class Carrier(NfsFile):
    """A mount whose calls a test carries by hand."""

    def __init__(self, store: MemoryStore, file: str) -> None:
        effects: list[Effect] = []
        copier = Copier(
            Bytes(pattern(8192)), file, Memory(1, 4), effects,
            first_frame=0, buffers=2, write_size=4096, reuse=IN_PLACE, passes=1,
        )  # fmt: skip
        mount = NfsMount("guest1", 1, store.root, "by hand", RpcTimeouts.tcp(), nfs.FILE_SYNC, 7, True)
        super().__init__(mount, copier, effects)
        self.server = NfsServer(store, b"verifier")
        self.calls: list[bytes] = []
        self.ended = False

    def _transmit(self, request: RpcRequest, now: Time) -> None:
        self.rpc.transmitted(request, now)
        self.calls.append(request.head)

    def _all_answered(self, now: Time) -> None:
        self.ended = True

    def write(self, buffer: PageBuffer, now: Time) -> PageWrite:
        """Issue a write and leave it there."""
        write = PageWrite(buffer, now)
        self._issue(write)
        return write

    def finish(self, now: Time) -> None:
        """The writes were issued."""

    def told(self, kind: type[Fact]) -> int:
        """Count the facts of a type."""
        return len(facts_of(self.effects, kind))

    def carry(self) -> None:
        """Have every call served, and give the answers."""
        while self.calls:
            reply = self.server.handle_call(self.calls.pop(0), ("10.0.0.11", 700), 0)
            assert reply is not None
            self._reply(reply, 0)


@pytest.mark.parametrize("file", ["input.bin", "guest1/input.bin"])
def test_the_file_is_made_where_it_belongs_and_then_written(file: str) -> None:
    """In a folder of its own where its name has one; each call is answered before the next."""
    store = MemoryStore(handle_bytes=36)
    client = Carrier(store, file)

    client._open(0)
    client.carry()

    handle = store.root
    for name in file.encode().split(b"/"):
        handle = store.lookup(handle, name)
    assert client.file == handle
    assert client.told(ReplyMatched) == file.count("/") + 1
    assert (client.payload_bytes, client.outstanding()) == (8192, 0)


def test_whatever_has_no_reply_is_sent_again_in_its_order() -> None:
    """And a reply that comes twice finds nobody the second time."""
    client = Carrier(MemoryStore(handle_bytes=36), "input.bin")
    client._open(0)
    client._create(client.mount.root, "other", 0)
    first = list(client.calls)

    client._send_pending(0)

    assert client.calls == first * 2
    client.finishing = True
    client.carry()
    assert client.counted() == {"rpc_retransmissions": 2, "unmatched_replies": 2}
    assert client.ended


@pytest.mark.parametrize("answer", ["refused", "cut", "failed"])
def test_an_answer_that_is_no_success_ends_the_copy(answer: str) -> None:
    """A refusal of RPC, bytes that do not decode, or an nfsstat3."""
    client = Carrier(MemoryStore(handle_bytes=36), "input.bin")
    client._open(0)
    served = client.server.handle_call(client.calls[0], ("10.0.0.11", 700), 0)
    assert served is not None

    replies = {
        "refused": encode_refusal(7, 5),
        "cut": served[:40],
        "failed": served[:24] + nfs.NFS3ERR_NOSPC.to_bytes(4) + bytes(8),
    }
    client._reply(replies[answer], 0)

    assert client.told(CopyFailed) == 1
    assert client.told(CopyFinished) == 0
    assert nfs_replies.decode_create(served, 24).file is not None
