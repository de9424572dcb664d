"""Guests come and go while a backend runs, and none of them keeps it for itself."""

from lateack.nodes.backend import POLL_TIMER, Backend, BackendConfig
from lateack.nodes.bridge import HOST_MAC, BridgeConfig
from lateack.nodes.facts import VifDisabled
from lateack.nodes.messages import Notify, Xenbus
from lateack.nodes.node import Boot, Received, SetTimer, TimerFired
from lateack.nodes.split.xenbus import CLOSED, CONNECTED, GRANT_FRAME, INIT_WAIT, INITIALISING
from lateack.nodes.strategies.backend import DevZerocopy
from tests.nodes.hand import GUEST_MAC, Frontend, facts_of, messages_to, udp_frame

HOST_IP = 0x0A000001


def running(*, poll_budget: int = 0) -> Backend:
    """Return a host without guests that answers at 10.0.0.1."""
    config = BackendConfig("backend", "network", {}, {}, bridge=BridgeConfig(address=HOST_IP), poll_budget=poll_budget)
    backend = Backend(config, {}, DevZerocopy)
    backend.handle(Boot(), 0)
    return backend


def plugged(backend: Backend, front: Frontend, name: str = "late") -> list[int]:
    """Plug a guest in and connect it; return the states that netback went through."""
    backend.plug(name, front.memory.domid, front.memory, grant_frame=GRANT_FRAME, grant_frames=1)
    effects = [*backend.handle(Received(name, Xenbus(INITIALISING, {})), 0)]
    effects += backend.handle(Received(name, Xenbus(CONNECTED, front.keys)), 0)
    return [message.state for message in messages_to(effects, name) if isinstance(message, Xenbus)]


def test_a_guest_that_comes_late_is_connected_and_answered() -> None:
    """It is offered an interface as those are that were there at boot."""
    backend, front = running(), Frontend()

    states = plugged(backend, front)
    front.send(HOST_MAC + udp_frame(b"x")[6:])
    backend.handle(Received("late", Notify(1)), 0)
    front.netfront.interrupt(0)

    assert states == [INIT_WAIT, CONNECTED]
    assert front.netfront.unanswered() == 0


def test_a_guest_is_forgotten_once_it_is_closed() -> None:
    """Not before: what is mapped of it would be nobody's. Its number and its name are free then."""
    backend, front = running(), Frontend()
    plugged(backend, front)

    early = backend.unplug("late")
    backend.handle(Received("late", Xenbus(CLOSED, {})), 0)
    late = backend.unplug("late")

    assert (early, late) == (False, True)
    assert (backend.vifs, backend.memories, backend.hypervisor.pins()) == ({}, {}, {})
    assert plugged(backend, Frontend()) == [INIT_WAIT, CONNECTED]


def test_a_ring_is_left_when_its_budget_is_spent() -> None:
    """The rest waits until the others have had their turn, and the machine wakes itself for it."""
    backend, front = running(poll_budget=2), Frontend()
    plugged(backend, front)
    for _ in range(5):
        front.send(HOST_MAC + udp_frame(b"x")[6:])
    taken = []

    effects = backend.handle(Received("late", Notify(1)), 0)
    while any(isinstance(effect, SetTimer) and effect.name == POLL_TIMER + "late" for effect in effects):
        taken.append(backend.vifs["late"].tx.req_cons)  # type: ignore[union-attr]
        effects = backend.handle(TimerFired(POLL_TIMER + "late"), 0)

    assert taken[:2] == [2, 4]
    assert backend.vifs["late"].tx.req_cons == 5  # type: ignore[union-attr]


def test_a_ring_that_grew_too_long_meanwhile_shuts_its_interface() -> None:
    """A guest that produces without end is found out when its ring is looked into again."""
    backend, front = running(poll_budget=1), Frontend()
    plugged(backend, front)
    for _ in range(3):
        front.send(HOST_MAC + udp_frame(b"x")[6:])
    backend.handle(Received("late", Notify(1)), 0)

    front.memory.words[front.netfront.tx.header] += 1000
    effects = backend.handle(TimerFired(POLL_TIMER + "late"), 0)

    assert [fact.guest for fact in facts_of(effects, VifDisabled)] == ["late"]


def test_what_the_emulator_does_not_know_is_flooded_only_where_the_host_answers() -> None:
    """ARP reaches a host with an address, and its answer the guest."""
    backend, front = running(), Frontend()
    plugged(backend, front)
    ask = b"\xff" * 6 + GUEST_MAC + bytes.fromhex("080600010800060400010016 3e000001 0a000065 000000000000 0a000001")

    front.send(ask)
    backend.handle(Received("late", Notify(1)), 0)

    assert front.netfront.rx.unconsumed_responses() == 1
