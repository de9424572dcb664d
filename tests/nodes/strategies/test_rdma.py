"""Claims about the strategies of hosts with RDMA adapters: what each waits for and takes back, in which order."""

import pytest

from lateack.nodes.application import PageBuffer
from lateack.nodes.memory.pages import Memory, PagePool
from lateack.nodes.rdma.lending import Lending, PostedWrite
from lateack.nodes.rdma.memory_region import RegionTable
from lateack.nodes.strategies import RDMA_STRATEGIES
from lateack.nodes.strategies.rdma import (
    Bounce,
    InvalidateFirst,
    RdmaOnReply,
    RdmaStrategy,
    RdmaWrite,
    SendCompletion,
)

DATA = bytes(range(256)) * 16


class Kernel:
    """A host that writes down what its strategy asks for."""

    def __init__(self, strategy: type[RdmaStrategy], sends: int = 1) -> None:
        self.memory = Memory(1, 8)
        self.kernel_pages = PagePool(self.memory, 0, 4)
        self.asked: list[str] = []
        buffer = PageBuffer(0, self.memory, 5, 1)
        buffer.fill(self.memory, 0, DATA)
        self.write = PostedWrite(buffer, 0)
        self.write.sends = sends
        self.strategy = strategy(self)
        self.lending = Lending(RegionTable([]), self.strategy, [], retired_max=1)

    def complete(self, write: RdmaWrite) -> None:
        """The application may go on."""
        write.done = True
        self.asked.append("complete")

    def invalidate(self, write: RdmaWrite) -> None:
        """The key is taken back."""
        self.asked.append("invalidate")
        self.lending.invalidate(write)

    def retire(self, write: RdmaWrite) -> None:
        """The key is taken back some time."""
        self.asked.append("retire")
        self.lending.retire(write)

    def copied(self, count: int) -> None:
        """The host copied this much."""
        self.asked.append(f"copied {count}")

    def reply(self) -> list[str]:
        """Let the reply come; return what was asked for so far."""
        self.write.replied = True
        self.strategy.replied(self.write)
        return self.asked

    def abort(self) -> list[str]:
        """Let the application give up; return what was asked for so far."""
        self.write.aborted = True
        self.strategy.aborted(self.write)
        return self.asked

    def send_over(self) -> list[str]:
        """Let the Send complete; return what was asked for so far."""
        self.write.sends -= 1
        self.strategy.sent(self.write)
        return self.asked


@pytest.mark.parametrize("ends", [Kernel.reply, Kernel.abort], ids=["reply", "abort"])
def test_on_reply_asks_nobody(ends: object) -> None:
    """The Send may leave once more, and the key stays good."""
    kernel = Kernel(RdmaOnReply)

    assert ends(kernel) == ["complete", "retire"]  # type: ignore[operator]


@pytest.mark.parametrize("ends", [Kernel.reply, Kernel.abort], ids=["reply", "abort"])
def test_send_completion_waits_for_the_send(ends: object) -> None:
    """Whichever comes first; a Send that was complete before is not waited for."""
    kernel, quick = Kernel(SendCompletion), Kernel(SendCompletion, sends=0)

    assert ends(kernel) == []  # type: ignore[operator]
    assert kernel.send_over() == ["complete", "retire"]
    assert ends(quick) == ["complete", "retire"]  # type: ignore[operator]


@pytest.mark.parametrize("ends", [Kernel.reply, Kernel.abort], ids=["reply", "abort"])
def test_invalidate_first_takes_the_key_back_before_anything_else(ends: object) -> None:
    """Then it waits for the Send, too."""
    kernel = Kernel(InvalidateFirst)

    assert ends(kernel) == ["invalidate"]  # type: ignore[operator]
    assert kernel.send_over()[:2] == ["invalidate", "complete"]


def test_a_send_of_a_call_that_goes_on_completes_nothing() -> None:
    """Nobody has answered yet."""
    for strategy in RDMA_STRATEGIES.values():
        assert Kernel(strategy).send_over() == []


def test_a_bounced_payload_is_copied_once_and_stays_as_it_was() -> None:
    """The copy is what is sent again, whatever the application has done to its buffer; it is freed in the end."""
    kernel = Kernel(Bounce)
    [(page, offset, size)] = kernel.strategy.take(kernel.write)
    kernel.write.buffer.fill(kernel.memory, 0, DATA[::-1])

    again = kernel.strategy.take(kernel.write)

    assert again == [(page, offset, size)]
    assert kernel.memory.read(page.frame, offset, size) == DATA
    kernel.reply()
    assert kernel.kernel_pages.outstanding == 1
    kernel.send_over()
    kernel.lending.release(kernel.write)
    assert kernel.kernel_pages.outstanding == 0
    assert kernel.asked == ["copied 4096", "complete", "invalidate"]


def test_keys_that_nobody_needs_are_taken_back_when_others_are() -> None:
    """A pool keeps some readable; settling takes back the rest."""
    kernel = Kernel(RdmaOnReply)
    writes = []
    for _ in range(3):
        write = PostedWrite(kernel.write.buffer, 0)
        kernel.lending.lend(write)
        kernel.lending.retire(write)
        writes.append(write)

    assert [write.region is not None for write in writes] == [False, False, True]
    kernel.lending.settle()
    assert kernel.lending.regions.regions == {}
