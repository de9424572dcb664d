"""The guest with a disk: it writes, refills in place, closes when it is done, and believes its disk."""

from lateack.nodes.block_guest import BlockGuest, BlockGuestConfig
from lateack.nodes.facts import BufferRefilled, BufferRetired, BufferRewritten, CopyFailed, CopyFinished, LeftOver
from lateack.nodes.memory.blkif import BLKIF_RSP_ERROR, BLKIF_RSP_OKAY
from lateack.nodes.memory.hypervisor import Hypervisor
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Notify, Xenbus
from lateack.nodes.node import Audit, Boot, Effect, Received
from lateack.nodes.rules import FactMatch, Rule, Trigger
from lateack.nodes.split.blkback import DiskImage, Vbd
from lateack.nodes.split.vbd import GRANT_FRAME, backend_features
from lateack.nodes.split.xenbus import CLOSED, CLOSING, CONNECTED, INIT_WAIT, INITIALISED
from tests.nodes.hand import facts_of, messages_to
from tests.nodes.one_guest import Bytes, pattern


class Disk:
    """A guest in the hand, and the backend's half of its disk."""

    def __init__(self, data: bytes, rules: tuple[Rule, ...] = ()) -> None:
        memory = Memory(1, 64)
        config = BlockGuestConfig("guest1", "backend", "input.bin", buffers=1, write_size=4096, rules=rules)
        self.guest = BlockGuest(config, memory, Bytes(data))
        hypervisor = Hypervisor()
        hypervisor.add_domain(memory, GRANT_FRAME)
        self.back = Vbd("guest1", 1, DiskImage("input.bin", memory, []), hypervisor)
        self.effects: list[Effect] = []
        self.tell(Boot())

    def tell(self, event: Boot | Received | Audit) -> list[Effect]:
        """Let the guest handle one event."""
        effects = list(self.guest.handle(event, 0))
        self.effects += effects
        return effects

    def connect(self) -> None:
        """Bring the disk up."""
        (message,) = messages_to(self.tell(Received("backend", Xenbus(INIT_WAIT, backend_features()))), "backend")
        assert isinstance(message, Xenbus) and message.state == INITIALISED
        assert self.back.attach(message.keys) is None
        self.back.connect()
        self.tell(Received("backend", Xenbus(CONNECTED, {})))

    def answer(self, status: int = BLKIF_RSP_OKAY) -> bytes:
        """Take one request, answer it, and return what it held."""
        (write,) = self.back.take()
        self.back.finish(write, status)
        self.back.push()
        self.tell(Received("backend", Notify(1)))
        return write.data


def test_the_buffer_is_refilled_in_place_until_the_file_is_written() -> None:
    """Each answer gives the buffer back; the same frame then holds the next bytes."""
    disk = Disk(pattern(12288))
    disk.connect()

    written = [disk.answer() for _ in range(3)]

    assert b"".join(written) == pattern(12288)
    assert {fact.frames for fact in facts_of(disk.effects, BufferRefilled)} == {(63,)}
    assert len(facts_of(disk.effects, BufferRetired)) == 1


def test_the_copy_is_finished_when_the_disk_is_closed() -> None:
    """The guest closes its disk after the last write, and takes the ring back before it calls that the end."""
    disk = Disk(pattern(4096))
    disk.connect()
    disk.answer()
    early = facts_of(disk.effects, CopyFinished)

    disk.back.disconnect()
    disk.tell(Received("backend", Xenbus(CLOSED, {})))
    disk.tell(Audit())

    assert messages_to(disk.effects, "backend")[-1] == Xenbus(CLOSING, {})
    assert early == []
    assert len(facts_of(disk.effects, CopyFinished)) == 1
    assert (disk.guest.pending(), facts_of(disk.effects, LeftOver)) == (0, [])


def test_a_disk_that_fails_ends_the_copy() -> None:
    """The application gives up at the first write that the disk refuses, and does not fill the buffer again."""
    disk = Disk(pattern(8192))
    disk.connect()

    disk.answer(BLKIF_RSP_ERROR)

    assert [fact.reason for fact in facts_of(disk.effects, CopyFailed)] == ["the disk answered a write with status -1"]
    assert facts_of(disk.effects, BufferRefilled) == []
    assert disk.guest.pending() == 0


def test_a_disk_that_goes_away_ends_the_copy() -> None:
    """A backend may close by itself; what was written before is not judged here."""
    disk = Disk(pattern(8192))
    disk.connect()
    disk.answer()
    (write,) = disk.back.take()
    disk.back.finish(write, BLKIF_RSP_ERROR)

    disk.back.disconnect()
    disk.tell(Received("backend", Xenbus(CLOSED, {})))

    assert [fact.reason for fact in facts_of(disk.effects, CopyFailed)] == ["the disk's backend closed"]


def test_what_was_never_given_back_is_told() -> None:
    """At the end a request without an answer is a leak: its slot, and the grant of its page."""
    disk = Disk(pattern(4096))
    disk.connect()

    disk.tell(Audit())

    assert [(fact.what, fact.count) for fact in facts_of(disk.effects, LeftOver)] == [
        ("grants", 1),
        ("unanswered requests", 1),
    ]


def test_a_rule_can_make_the_application_rewrite_what_is_being_written() -> None:
    """The write is under way, and its buffer changes: what the disk gets depends on when it looks."""
    rule = Rule(
        name="scribble", action="rewrite", place="guest1.buffers",
        since=Trigger(frames=(), facts=(FactMatch("BufferRefilled", "guest1", ()),)),
    )  # fmt: skip
    disk = Disk(pattern(8192), (rule,))
    disk.connect()

    first, second = disk.answer(), disk.answer()

    assert first == pattern(4096)
    assert second == bytes(byte ^ 0xFF for byte in pattern(8192)[4096:])
    assert len(facts_of(disk.effects, BufferRewritten)) == 1
