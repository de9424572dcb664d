"""A disk on an NFS server: what becomes of its requests when the image is lost, and when the guest closes it."""

from lateack.nodes.facts import CopyFailed, VbdDisabled, VbdDisconnected, WriteCompleted, WriteIssued
from lateack.nodes.messages import Xenbus
from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.node import Received, TimerFired
from lateack.nodes.split.xenbus import CLOSING, INITIALISED
from lateack.nodes.strategies.guest import FragDestructors
from tests.nodes.one_block import Block
from tests.nodes.one_guest import pattern


def test_a_call_that_fails_is_an_error_of_the_disk() -> None:
    """A soft mount gives up: the request is unmapped and answered with an error, which ends the guest's copy."""
    timeouts = RpcTimeouts.tcp(timeo=1_000_000, retrans=0, soft=True)
    block = Block({"guest1": pattern(8192)}, rpc=timeouts)
    block.passes = lambda target: not block.of(WriteIssued)
    block.boot()

    block.fire("backend")

    assert [name for name, fact in block.facts if isinstance(fact, CopyFailed)] == ["backend", "guest1"]
    assert block.backend.hypervisor.mapped_by(0) == 1
    assert block.of(WriteCompleted) == []


def test_a_waiting_strategy_keeps_a_failed_request_mapped_while_the_stack_shows_it() -> None:
    """The call is given up, but TCP still has the page in its queue: no answer before that is gone."""
    timeouts = RpcTimeouts.tcp(timeo=1_000_000, retrans=0, soft=True)
    block = Block({"guest1": pattern(8192)}, FragDestructors, rpc=timeouts)
    block.passes = lambda target: not block.of(WriteIssued)
    block.boot()

    block.fire("backend")
    waiting = block.backend.hypervisor.mapped_by(0)
    block.release()

    assert waiting == 2
    assert block.backend.hypervisor.mapped_by(0) == 1
    assert [name for name, fact in block.facts if isinstance(fact, CopyFailed)] == ["backend", "guest1"]


def test_a_guest_that_closes_early_is_waited_for() -> None:
    """A ring is not unmapped while a request of it is under way."""
    block = Block({"guest1": pattern(4096)}, unmount=False)
    block.passes = lambda target: target == "server" or not block.of(WriteIssued)
    block.boot()

    block.handle("backend", Received("guest1", Xenbus(CLOSING, {})))
    early = block.backend.disks["guest1"].vbd.ring
    block.release()

    assert early is not None
    assert block.backend.disks["guest1"].vbd.ring is None
    assert block.file("guest1") == pattern(4096)


def test_an_image_that_cannot_be_made_gives_no_disk() -> None:
    """The server knows no such root: the guest is told that its disk is gone, and takes its ring back."""
    block = Block({"guest1": pattern(4096)}, root=bytes(36)).boot()

    left = block.left_over()

    assert [name for name, fact in block.facts if isinstance(fact, CopyFailed)] == ["backend", "guest1"]
    assert len(block.of(VbdDisconnected)) == 1
    assert left == []


def test_a_frontend_connects_once() -> None:
    """Whoever publishes keys again, or nonsense, changes nothing about the disk that it has."""
    block = Block({"guest1": pattern(8192)})
    block.passes = lambda target: not block.of(WriteIssued)
    block.boot()
    ring = block.backend.disks["guest1"].vbd.ring

    block.handle("backend", Received("guest1", Xenbus(INITIALISED, {"ring-ref": 99})))
    block.release()

    assert block.of(VbdDisabled) == []
    assert ring is not None
    assert block.file("guest1") == pattern(8192)


def test_nobody_waits_for_the_calls_of_a_lost_image() -> None:
    """The image is lost while its file is being made: the guest is told, and the call is forgotten."""
    block = Block({"guest1": pattern(4096)}, transport="udp")
    block.passes = lambda target: False
    block.boot()

    block.backend.disks["guest1"].vbd.image.fail("the connection to the server was lost")
    block.handle("backend", TimerFired("rpc"))
    block.release()

    assert len(block.of(VbdDisconnected)) == 1
    assert block.left_over() == []
