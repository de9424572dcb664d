"""gRPC between processes: a star of long-lived streams, the network machine's process in the middle.

There is no generated service code: the method is named by its path, and both ends exchange the bytes of a Batch. Who
connects says Hello in the call's metadata; a stranger, or a process left over from another run, is refused there.
"""

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from lateack.cluster.clock import HybridClock
from lateack.cluster.live.plan import Order
from lateack.cluster.wire import Outbox
from lateack.nodes.errors import LateackError
from lateack.protos.lateack_pb2 import Batch, Hello

SERVICE = "lateack.v1.Link"
METHOD = "Exchange"
HELLO_KEY = "lateack-hello-bin"
CONNECT_S = 20.0
MESSAGE_BYTES_MAX = 64 * 1024 * 1024
STRANGERS_MAX = 8
OPTIONS = [
    ("grpc.so_reuseport", 0),  # two servers would share a port without a word
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.enable_http_proxy", 0),
]

Take = Callable[[Batch], None]
Lost = Callable[[str], None]


class LinkBroken(LateackError):
    """A stream between two processes has ended before the run did."""


class Link:
    """One end of a stream: what waits to leave, and what to do with what arrives."""

    def __init__(self, order: Order, peer: str, clock: HybridClock, now: Callable[[], int]) -> None:
        """Prepare the link of `order`'s process to the process of machine `peer`."""
        self.peer = peer
        self.epoch = order.epoch
        self.outbox = Outbox(order.names[0], order.epoch)
        self.up = asyncio.Event()
        self.heard = False
        self.sent = self.received = 0  # frames and notes
        self._clock = clock
        self._now = now
        self._wake = asyncio.Event()
        self._beat = False

    def put_frames(self, source: str, target: str, frames: tuple[bytes, ...], sent_at: int) -> None:
        """Send frames that the card of `source` read at `sent_at` (ns), once all that is ready now has been handled."""
        self.sent += len(frames)
        self.outbox.put_frames(source, target, frames, sent_at)
        self._wake.set()

    def put_note(self, note: bytes, sent_at: int) -> None:
        """Send a note, which says itself for whom it is."""
        self.sent += 1
        self.outbox.put_note(note, sent_at)
        self._wake.set()

    def beat(self) -> None:
        """Say that we are alive, if nothing else says it."""
        self._beat = True
        self._wake.set()

    async def pump_out(self, write: Callable[[bytes], Awaitable[None]], lost: Lost) -> None:
        """Write batch after batch until the stream ends, which `lost` is told.

        Waiting for the stream is what lets the next batch gather, and what holds us back when the peer is slow.
        """
        outbox, clock = self.outbox, self._clock
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._beat and not outbox:
                    clock.tick(self._now())
                    await write(outbox.heartbeat(clock.wall, clock.logical))
                self._beat = False
                while outbox:
                    clock.tick(self._now())
                    await write(outbox.take(clock.wall, clock.logical))
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
            lost(self.peer)

    async def pump_in(self, read: Callable[[], Awaitable[Any]], take: Take) -> None:
        """Read batch after batch until the other side ends the stream; raises grpc.aio.AioRpcError where it breaks."""
        while (received := await read()) is not grpc.aio.EOF:
            self.heard = True
            self.up.set()
            batch = Batch.FromString(received)
            if batch.epoch == self.epoch:
                self.received += len(batch.frames) + len(batch.notes)
                take(batch)


class Hub:
    """The middle of the star: serves every other process."""

    def __init__(self, order: Order, links: dict[str, Link], take: Take, lost: Lost) -> None:
        """Serve the processes named in `links`; what they send goes to `take`, and `lost` hears whose stream ended."""
        self._hello = (order.epoch, order.token)
        self._links = links
        self._free = set(links)
        self._take = take
        self._lost = lost
        self._server: grpc.aio.Server | None = None

    async def open(self, host: str) -> int:
        """Listen on a free port of `host` and return it; raises LinkBroken where that cannot be."""
        handler = grpc.stream_stream_rpc_method_handler(self._exchange)
        self._server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=len(self._links) + STRANGERS_MAX)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        try:
            port: int = self._server.add_insecure_port(f"{host}:0")
        except RuntimeError as error:
            raise LinkBroken(f"cannot listen on {host} ({error}); see that the address is this machine's.") from error
        await self._server.start()
        return port

    def expect(self, name: str, link: Link) -> None:
        """Let the process of machine `name` in once more, over a `link` of its own: it has died and was replaced."""
        self._links[name] = link
        self._free.add(name)

    async def close(self) -> None:
        """Close the port and every stream."""
        if self._server is not None:
            await self._server.stop(None)

    async def _exchange(self, _: object, context: Any) -> None:
        link = self._admit(dict(context.invocation_metadata()).get(HELLO_KEY, b""))
        if link is None:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a machine of this run")
            return
        writer = asyncio.create_task(link.pump_out(context.write, self._lost))
        link.beat()
        try:
            await link.pump_in(context.read, self._take)
        finally:
            writer.cancel()
            self._lost(link.peer)

    def _admit(self, metadata: bytes) -> Link | None:
        """Return the link of whoever says this Hello, once; None for a stranger."""
        try:
            hello = Hello.FromString(metadata)
        except Exception:  # whatever a stranger sends
            return None
        epoch, token = self._hello
        if hello.run_epoch != epoch or not hmac.compare_digest(hello.token, token) or hello.name not in self._free:
            return None
        self._free.discard(hello.name)
        return self._links[hello.name]


class Spoke:
    """Everyone else's one stream, to the hub."""

    def __init__(self, order: Order, link: Link, take: Take, lost: Lost) -> None:
        """Connect as the process that `order` speaks of; `take` and `lost` as for the hub."""
        self._hello = Hello(name=order.names[0], run_epoch=order.epoch, token=order.token)
        self._link = link
        self._channel: grpc.aio.Channel | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._take = take
        self._lost = lost

    async def open(self, address: str) -> None:
        """Connect to the hub at `address` (host:port); raises LinkBroken if it does not answer."""
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        metadata = ((HELLO_KEY, self._hello.SerializeToString()),)
        call = self._channel.stream_stream(f"/{SERVICE}/{METHOD}")(metadata=metadata)
        self._tasks = [
            asyncio.create_task(self._link.pump_out(call.write, self._lost)),
            asyncio.create_task(self._receive(call.read)),
        ]
        try:
            await asyncio.wait_for(self._link.up.wait(), CONNECT_S)
        except TimeoutError as error:
            raise LinkBroken(
                f"{self._hello.name} cannot reach {self._link.peer} at {address}; see that no firewall is between."
            ) from error

    async def close(self) -> None:
        """End the stream."""
        for task in self._tasks:
            task.cancel()
        if self._channel is not None:
            await self._channel.close()

    async def _receive(self, read: Callable[[], Awaitable[Any]]) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):  # its code says no more than that the other side is gone
            await self._link.pump_in(read, self._take)
        self._lost(self._link.peer)
