"""A guest with a virtual disk: its application copies a file to the disk, and what keeps the disk is not its business.

    application -> blkfront -> shared ring        and the answers the same way back

A disk's promise is simple: once a write is answered, its pages are the guest's own again. The application believes it
and refills the buffer in place.
"""

from collections.abc import Sequence

from lateack.nodes.application import IN_PLACE, Copier, PageBuffer, Source, frames_needed
from lateack.nodes.facts import Counted, FrontendClosing, LeftOver
from lateack.nodes.gates import Gates
from lateack.nodes.memory.blkif import BLKIF_RSP_OKAY
from lateack.nodes.memory.grants import GrantTable
from lateack.nodes.memory.pages import Memory
from lateack.nodes.messages import Message, Noticed, Notify, Xenbus
from lateack.nodes.node import Audit, Boot, Effect, Event, Received, Send, Time
from lateack.nodes.records import Record
from lateack.nodes.rules import Rule
from lateack.nodes.split.blkfront import Bio, Blkfront
from lateack.nodes.split.vbd import GRANT_FRAME
from lateack.nodes.split.xenbus import CLOSED, CLOSING, CONNECTED, INIT_WAIT, INITIALISED


class BlockGuestConfig(Record):
    """What the guest is told at boot: who keeps its disk, which file it copies there, and in what pieces."""

    name: str
    backend: str
    file: str
    buffers: int = 4
    write_size: int = 32768
    reuse: str = IN_PLACE
    rules: tuple[Rule, ...] = ()
    passes: int = 1


class BlockGuest:
    """The machine."""

    def __init__(self, config: BlockGuestConfig, memory: Memory, source: Source) -> None:
        self.config = config
        self.effects: list[Effect] = []
        self.memory = memory
        self.grants = GrantTable(memory, GRANT_FRAME)
        self.blkfront = Blkfront(config.name, config.backend, memory, self.grants, self.effects)
        frames = frames_needed(config.buffers, config.write_size, config.reuse)
        self.copier = Copier(
            source, config.file, memory, self.effects,
            first_frame=memory.frames - frames, buffers=config.buffers, write_size=config.write_size,
            reuse=config.reuse, passes=config.passes,
        )  # fmt: skip
        self.closing = False
        self.gates: Gates | None = None
        if config.rules:
            switches = {f"{config.name}.buffers": Scribbler(self.blkfront, self.copier)}
            self.gates = Gates(config.rules, switches, self.effects, owner=config.name, addresses={})

    def handle(self, event: Event, now: Time) -> Sequence[Effect]:
        """Take one event at `now`; see `Node`."""
        if isinstance(event, Received):
            self._received(event.message)
        elif isinstance(event, Boot):
            if self.gates is not None:
                self.gates.start()
        elif isinstance(event, Audit):
            self._audit()
        self.blkfront.flush()
        if self.gates is not None and self.gates.waits_for_itself:
            self.gates.own_facts(self.config.name, 0)
        effects = self.effects
        done = effects.copy()
        effects.clear()
        return done

    def pending(self) -> int:
        """Whether the copy is still under way."""
        return int(not self.copier.over)

    def close(self) -> None:
        """Let go of the machine's memory; see `Node`."""
        self.memory.close()

    # --- the disk -----------------------------------------------------------------------------------------------------

    def _received(self, message: Message) -> None:
        if isinstance(message, Notify):
            for bio in self.blkfront.interrupt():
                self._written(bio)
            if self.blkfront.broken:
                self.copier.fail("the disk's backend broke the rules")
            self._close_when_finished()
        elif isinstance(message, Noticed):
            assert self.gates is not None
            self.gates.fact_occurred(message.node, message.fact)
        else:
            assert isinstance(message, Xenbus), f"a guest with a disk has no use for {message}"
            self._backend_changed(message.state)

    def _backend_changed(self, state: int) -> None:
        """Follow the backend's xenbus state (`blkback_changed`)."""
        if state == INIT_WAIT:
            self._tell(INITIALISED, self.blkfront.connect(self.copier.source.size))
        elif state == CONNECTED:
            self._tell(CONNECTED, {})
            self._write(self.copier.first_fill())
            self._close_when_finished()
        elif state == CLOSED:
            self._disconnected()

    def _disconnected(self) -> None:
        """The backend has let go: take the ring back; the application has finished if it was we who closed."""
        if not self.blkfront.disconnect():
            self.copier.fail("the disk's backend closed and kept the ring")
        elif self.closing:
            self.copier.finish()
        else:
            self.copier.fail("the disk's backend closed")

    def _tell(self, state: int, keys: dict[str, str | int]) -> None:
        self.effects.append(Send(self.config.backend, Xenbus(state, keys)))

    # --- the application ----------------------------------------------------------------------------------------------

    def _write(self, buffers: list[PageBuffer]) -> None:
        for buffer in buffers:
            self.blkfront.write(buffer)

    def _written(self, bio: Bio) -> None:
        """A write is done: its buffer takes the next bytes, and they are written."""
        copier = self.copier
        if bio.status != BLKIF_RSP_OKAY:
            copier.fail(f"the disk answered a write with status {bio.status}")
        elif not copier.over and copier.refill(bio.buffer):
            self._write([bio.buffer])
        self._write(copier.next_pass())

    def _close_when_finished(self) -> None:
        """Every byte is on the disk: close it; the copy is finished when the backend has closed it, too."""
        if self.copier.finished() and not self.copier.over and not self.closing:
            self.closing = True
            self.effects.append(FrontendClosing(self.config.name, self.blkfront.outstanding))
            self._tell(CLOSING, {})

    # --- audit --------------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        blkfront = self.blkfront
        left = {
            "grants": self.grants.in_use - (blkfront.ring_ref >= 0),
            "unanswered requests": blkfront.outstanding,
            "page references": self.copier.shared_pages(),
        }
        self.effects += [LeftOver(what, count) for what, count in left.items() if count]
        self.effects.append(Counted("notifications", blkfront.notifications))


class Scribbler:
    """The switch by which a rule makes the application write into buffers that are being written, without waiting."""

    __slots__ = ("blkfront", "copier")

    def __init__(self, blkfront: Blkfront, copier: Copier) -> None:
        self.blkfront = blkfront
        self.copier = copier

    def on(self) -> None:
        """Turn every bit of each buffer whose write the disk has not answered."""
        for buffer in self.blkfront.under_way():
            self.copier.rewrite(buffer)

    def off(self) -> None:
        """What is written is written."""

    def waiting(self) -> int:
        """Return how many packets wait here: none ever do."""
        return 0
