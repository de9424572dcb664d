"""The file service as a part: calls in, replies out, and facts that name the host that asked."""

from lateack.nodes.facts import Counted, DuplicateCall, FileAtRest, WriteExecuted
from lateack.nodes.memory.pages import HeadSlab, Memory, PagePool
from lateack.nodes.nfs import mount, nfs
from lateack.nodes.nfs.nfs_service import NfsService
from lateack.nodes.nfs.rpc import AUTH_NONE_CREDENTIAL, decode_reply, encode_call
from lateack.nodes.node import Effect
from lateack.nodes.service import ServerConfig
from lateack.nodes.stack.host import HostAddress, IpStack
from lateack.nodes.stack.packets import digest_of
from lateack.nodes.stack.tcp import TcpParameters
from lateack.nodes.storage.memory_store import MemoryStore
from tests.nodes.hand import GUEST_IP, GUEST_MAC, SERVER_IP, SERVER_MAC, facts_of
from tests.nodes.nfs.conversation import call_record, write_arguments

ASKING = ("10.0.0.11", 700)


class Bed:
    """A service over a store with one empty file."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self.store = MemoryStore(handle_bytes=36)
        self.file = self.store.create(self.store.root, b"f", 0o644, 0)
        memory = Memory(9, 16)
        pool = PagePool(memory, 0, 16)
        address, neighbours = HostAddress(SERVER_IP, SERVER_MAC), {GUEST_IP: GUEST_MAC}
        stack = IpStack(
            address,
            neighbours,
            slab=HeadSlab(memory, pool),
            pool=pool,
            effects=self.effects,
            parameters=TcpParameters(),
        )
        config = ServerConfig("server", "network", address, neighbours, {GUEST_IP: "guest1"}, TcpParameters())
        self.service = NfsService(config, self.store, stack)


def test_a_write_is_told_with_the_name_of_the_host_that_asked() -> None:
    """And the file is looked at in the end, beside the counts of the request cache."""
    bed = Bed()
    record = call_record(nfs.WRITE, write_arguments(bed.file, 0, b"data"), 7)

    reply = bed.service.serve(record, ASKING, GUEST_IP, 0)
    bed.service.audit()

    assert reply is not None
    assert decode_reply(reply).xid == 7
    assert facts_of(bed.effects, WriteExecuted) == [WriteExecuted(7, "guest1", "f", 0, 4, digest_of(b"data"))]
    assert facts_of(bed.effects, FileAtRest) == [FileAtRest("f", 4, 4096, (digest_of(b"data"),))]
    assert {fact.name: fact.amount for fact in facts_of(bed.effects, Counted)}["drc_misses"] == 1


def test_a_repeated_call_is_answered_from_memory() -> None:
    """The same bytes under the same xid are executed once."""
    bed = Bed()
    record = call_record(nfs.WRITE, write_arguments(bed.file, 0, b"data"), 7)

    replies = [bed.service.serve(record, ASKING, GUEST_IP, now) for now in (0, 1)]

    assert replies[0] == replies[1]
    assert len(facts_of(bed.effects, WriteExecuted)) == 1
    assert [fact.outcome for fact in facts_of(bed.effects, DuplicateCall)] == ["replied"]


def test_a_client_can_mount_where_it_writes() -> None:
    """MOUNT is answered on the port of NFS with the root of the store."""
    bed = Bed()
    record = encode_call(7, mount.PROGRAM, 3, mount.MNT, AUTH_NONE_CREDENTIAL) + mount.encode_path(b"/")

    reply = bed.service.serve(record, ASKING, GUEST_IP, 0)

    assert reply is not None
    assert mount.decode_mount_result(reply[decode_reply(reply).results :])[:2] == (mount.MNT3_OK, bed.store.root)
