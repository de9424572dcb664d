"""The hub lets in the machines of its run, once each, and nobody else."""

import asyncio

import grpc
import grpc.aio
import pytest

from lateack.cluster.clock import HybridClock
from lateack.cluster.live.links import HELLO_KEY, METHOD, SERVICE, Hub, Link, Spoke
from lateack.cluster.live.plan import Order
from lateack.protos.lateack_pb2 import Batch, Hello
from tests.live.machines import HUB, SmallPlan

pytestmark = pytest.mark.live

EPOCH = 7
TOKEN = "a" * 32


def order_of(name: str) -> Order:
    """Return what the process of a machine is told."""
    return Order(SmallPlan({"guest": ()}), (name,), (("guest",),), EPOCH, TOKEN, local=True, silence_s=1.0)


def link_to(order: Order, peer: str) -> Link:
    """Return one end of a link, at time 0."""
    return Link(order, peer, HybridClock(), lambda: 0)


@pytest.mark.parametrize(
    "hello",
    [
        b"",
        b"\xff\xff",
        Hello(name="guest", run_epoch=EPOCH, token="b" * 32).SerializeToString(),
        Hello(name="guest", run_epoch=EPOCH - 1, token=TOKEN).SerializeToString(),
        Hello(name="stranger", run_epoch=EPOCH, token=TOKEN).SerializeToString(),
    ],
    ids=["nothing", "noise", "wrong token", "another run", "unknown machine"],
)
def test_strangers_are_refused(hello: bytes) -> None:
    """Without the run's token, its number and a machine's name, nobody gets as far as a batch."""

    async def knock() -> grpc.StatusCode:
        order = order_of(HUB)
        hub = Hub(order, {"guest": link_to(order, "guest")}, batches.append, lost.append)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await hub.open('127.0.0.1')}") as channel:
            call = channel.stream_stream(f"/{SERVICE}/{METHOD}")(metadata=((HELLO_KEY, hello),))
            code: grpc.StatusCode = await call.code()
        await hub.close()
        return code

    batches: list[Batch] = []
    lost: list[str] = []

    code = asyncio.run(knock())

    assert code == grpc.StatusCode.PERMISSION_DENIED
    assert batches == [] and lost == []


def test_both_ends_learn_of_the_end() -> None:
    """Batches pass in both directions; when one side goes, the other is told whom it has lost."""

    async def talk() -> None:
        order, other = order_of(HUB), order_of("guest")
        link = link_to(order, "guest")
        hub = Hub(order, {"guest": link}, arrived.append, lost.append)
        address = f"127.0.0.1:{await hub.open('127.0.0.1')}"
        spoke = Spoke(other, mine := link_to(other, HUB), arrived.append, lost.append)
        await spoke.open(address)
        mine.put_frames("guest", HUB, (b"up",), 0)
        link.put_frames(HUB, "guest", (b"down",), 0)
        while sum(bool(batch.frames) for batch in arrived) < 2:
            await asyncio.sleep(0)
        await spoke.close()
        while not lost:
            await asyncio.sleep(0)
        await hub.close()

    arrived: list[Batch] = []
    lost: list[str] = []

    asyncio.run(asyncio.wait_for(talk(), 20))

    assert sorted(bytes(batch.frames[0]) for batch in arrived if batch.frames) == [b"down", b"up"]
    assert "guest" in lost
