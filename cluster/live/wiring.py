"""What connects one process with the others for a run: its end of the star, and the memory that it shares."""

import asyncio
from typing import Protocol

from lateack.cluster.clock import HybridClock
from lateack.cluster.live.channels import Channel, Door, offer, room_for
from lateack.cluster.live.links import Hub, Link, Spoke
from lateack.cluster.live.plan import Opened, Order
from lateack.nodes.errors import LateackError
from lateack.nodes.memory.pages import PAGE_SIZE, Memory
from lateack.protos.lateack_pb2 import Batch

OWNERS_S = 20.0
PAUSE_S = 2.0  # between two looks: longer, and it was we who were stopped


class Carried(Protocol):
    """Whoever is connected: what arrives goes to it."""

    clock: HybridClock

    def now(self) -> int:
        """Return the time since the run's common start (ns)."""
        ...

    def take(self, batch: Batch) -> None:
        """A batch has arrived."""
        ...

    def ring(self, channel: Channel) -> None:
        """A peer has kicked."""
        ...

    def fail(self, sentence: str) -> None:
        """A connection has ended."""
        ...


class Wiring:
    """All connections of one process; `links` by the machine at the other end, `channels` by local machine and peer."""

    def __init__(self, order: Order, carried: Carried) -> None:
        """Connect nothing yet."""
        self.links: dict[str, Link] = {}
        self.channels: dict[tuple[str, str], Channel] = {}
        self._order = order
        self._carried = carried
        self._parts = {part.name: part for part in order.plan.parts}
        self._mapped = [part for part in order.plan.parts if part.shares_with in order.names]
        self._hub: Hub | None = None
        self._spoke: Spoke | None = None
        self._door: Door | None = None
        self._all_mapped = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard_at: dict[str, float] = {}
        self._looked_at = 0.0

    # --- opening -----------------------------------------------------------------------------------------------------

    async def open(self, address: str) -> tuple[str, str]:
        """Listen for the others and return where: the hub's host:port and the door for memory; empty for none."""
        hub = await self._open_hub(address) if self._order.plan.hub in self._order.names else ""
        if not self._mapped:
            return hub, ""
        room_for(sum(part.frames for part in self._mapped) * PAGE_SIZE)
        self._door = Door({part.name: part for part in self._mapped}, self._order.token, self._connect)
        self._loop.add_reader(self._door.socket, self._door.answer)
        return hub, self._door.address

    async def _open_hub(self, address: str) -> str:
        links = {names[0]: self._link(names[0]) for names in self._order.links}
        for names in self._order.links:
            self.links.update(dict.fromkeys(names, links[names[0]]))
        self._hub = Hub(self._order, links, self._carried.take, self._lose)
        return f"{address}:{await self._hub.open(address)}"

    def expect(self, names: tuple[str, ...]) -> None:
        """Get ready for a process that takes the place of a dead one; what was on its way to that is lost with it."""
        assert self._hub is not None, "only the hub has links to the others"
        link = self._link(names[0])
        self.links.update(dict.fromkeys(names, link))
        self._hub.expect(names[0], link)

    async def join(self, others: Opened) -> None:
        """Connect to the hub, and share memory with whoever is to see it; raises LateackError."""
        for name in self._order.names:
            if self._parts[name].frames:
                self._connect(offer(self._parts[name], others.door, self._order.token))
        if self._hub is None:
            link = self._link(self._order.plan.hub)
            self.links.update({name: link for name in self._parts if name not in self._order.names})
            self._spoke = Spoke(self._order, link, self._carried.take, self._lose)
            await self._spoke.open(others.hub)
        try:
            if self._mapped:
                await asyncio.wait_for(self._all_mapped.wait(), OWNERS_S)
        except TimeoutError as error:
            raise LateackError("a guest did not offer its memory in time; run it again.") from error

    def memories_of(self, name: str) -> dict[str, Memory]:
        """Return the memories that a machine owns or sees, by their owners."""
        channels = (channel for (local, _), channel in self.channels.items() if local == name)
        return {channel.part.name: channel.memory for channel in channels}

    def _link(self, peer: str) -> Link:
        return Link(self._order, peer, self._carried.clock, self._carried.now)

    def _connect(self, channel: Channel) -> None:
        assert channel.link is not None
        self.channels[channel.local, channel.peer] = channel
        self._loop.add_reader(channel.bell, self._carried.ring, channel)
        self._loop.add_reader(channel.link, self._hang_up, channel)
        if self._mapped and len(self.channels) == len(self._mapped):
            self._close_door()
            self._all_mapped.set()

    # --- ends --------------------------------------------------------------------------------------------------------

    def _lose(self, peer: str) -> None:
        if peer in self._parts and self._parts[peer].mortal:
            self._heard_at.pop(peer, None)  # the session sees whether it was a rule that killed it
            return
        self._carried.fail(f"the link between {self._order.names[0]} and {peer} broke")

    def _hang_up(self, channel: Channel) -> None:
        assert channel.link is not None
        self._loop.remove_reader(channel.link)
        self._carried.fail(f"the process of {channel.peer}, which shares memory with {channel.local}, is gone")

    def _close_door(self) -> None:
        if self._door is not None and self._door.socket.fileno() >= 0:
            self._loop.remove_reader(self._door.socket)
            self._door.socket.close()

    async def close_links(self) -> None:
        """Close every port and stream."""
        if self._spoke is not None:
            await self._spoke.close()
        if self._hub is not None:
            await self._hub.close()
        self._close_door()

    def close_channels(self) -> None:
        """Give the shared memory back; no machine may see it any more."""
        for channel in self.channels.values():
            self._loop.remove_reader(channel.bell)
            if channel.link is not None:
                self._loop.remove_reader(channel.link)
            channel.close()
        self.channels.clear()

    # --- signs of life -----------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Tell everybody that we are alive."""
        for link in set(self.links.values()):
            link.beat()

    def listen(self, now: float) -> None:
        """Notice, at `now` (loop seconds), whose process has been silent for too long."""
        paused, self._looked_at = now - self._looked_at > PAUSE_S, now
        for link in set(self.links.values()):
            if link.heard or paused:
                self._heard_at[link.peer] = now
                link.heard = False
        for peer, heard_at in self._heard_at.items():
            if now - heard_at > self._order.silence_s:
                silence = f"{self._order.silence_s:.0f} s"
                self._carried.fail(f"{peer} has said nothing to {self._order.names[0]} for {silence}")
