"""Frontends that lie at the netback door are told so, and shut out alone."""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lateack.nodes.memory.netif import TX_REQUEST
from lateack.nodes.memory.pages import PAGE_SIZE
from lateack.nodes.memory.ring import RSP_PROD
from tests.doors.netback_frontend import GRANTS, RX_RING, SENT, TX_RING, Door, Frontend, open_door

pytestmark = pytest.mark.live

BACKENDS = ("dev-zerocopy", "grant-copy", "page-foreign", "lazy-copy", "frag-destructor", "staging-grants")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One door for all tests that must not be able to break it."""
    with open_door(tmp_path_factory.mktemp("door") / "netback") as opened:
        yield opened


@pytest.fixture(scope="module", params=BACKENDS)
def any_door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """A door for each strategy."""
    with open_door(tmp_path_factory.mktemp("door") / "netback", request.param) as opened:
        yield opened


def _with_keys(**keys: Any) -> Callable[[Frontend], None]:
    def lie(frontend: Frontend) -> None:
        changed = {key: value for key, value in (frontend.keys | keys).items() if value is not None}
        frontend.say(frontend.greeting(keys=changed), [frontend.memfd, frontend.wake_door, frontend.wake_us])

    return lie


def _with_fields(**fields: Any) -> Callable[[Frontend], None]:
    def lie(frontend: Frontend) -> None:
        frontend.say(frontend.greeting(**fields), [frontend.memfd, frontend.wake_door, frontend.wake_us])

    return lie


def _unsealed(frontend: Frontend) -> None:
    memfd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, 64 * PAGE_SIZE)
    frontend.say(frontend.greeting(), [memfd, frontend.wake_door, frontend.wake_us])
    os.close(memfd)


def _of_size(size: int, seals: int = fcntl.F_SEAL_SHRINK) -> Callable[[Frontend], None]:
    def lie(frontend: Frontend) -> None:
        memfd = os.memfd_create("odd", os.MFD_ALLOW_SEALING)
        os.ftruncate(memfd, size)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, seals)
        frontend.say(frontend.greeting(), [memfd, frontend.wake_door, frontend.wake_us])
        os.close(memfd)

    return lie


def _waiting_bell(frontend: Frontend) -> None:
    bell = os.eventfd(0, 0)
    frontend.say(frontend.greeting(), [frontend.memfd, bell, frontend.wake_us])
    os.close(bell)


LIES: dict[str, tuple[Callable[[Frontend], None], str]] = {
    "garbage": (lambda it: it.say(b"\xff{garbage"), "no line of this protocol"),
    "deep": (lambda it: it.say(b"[" * 4000), "no line of this protocol"),
    "long": (lambda it: it.say(b'{"attach":"' + b"a" * 100_000), "too long"),
    "list": (lambda it: it.say(b"[1]"), "no line of this protocol"),
    "unknown field": (_with_fields(mood="good"), "no line of this protocol"),
    "nested keys": (_with_fields(keys={"mac": ["a"]}), "no line of this protocol"),
    "bad name": (_with_fields(attach="../x"), "attach must be a name"),
    "empty name": (_with_fields(attach=""), "attach must be a name"),
    "odd state": (_with_fields(state=5), "begins in state"),
    "no table": (_with_fields(grant_frames=0), "A grant table has"),
    "table outside": (_with_fields(grant_frame=64), "lies outside"),
    "huge table": (_with_fields(grant_frame=1 << 80), ""),
    "no descriptors": (lambda it: it.say(it.greeting()), "3 descriptors"),
    "too many": (lambda it: it.say(it.greeting(), [it.memfd] * 12), "3 descriptors"),
    "far too many": (lambda it: it.say(it.greeting(), [it.memfd] * 200), "too many descriptors"),
    "no memfd": (lambda it: it.say(it.greeting(), [it.wake_us, it.wake_door, it.wake_us]), "must be a memfd"),
    "no eventfd": (lambda it: it.say(it.greeting(), [it.memfd, it.memfd, it.wake_us]), "must be eventfds"),
    "waiting bell": (_waiting_bell, "EFD_NONBLOCK"),
    "unsealed": (_unsealed, "sealed against shrinking"),
    "empty": (_of_size(0), "whole frames"),
    "half a frame": (_of_size(PAGE_SIZE + 100), "whole frames"),
    "too large": (_of_size(1 << 40), "whole frames"),
    "one frame": (_of_size(PAGE_SIZE), ""),
    "read-only": (_of_size(64 * PAGE_SIZE, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE), "cannot be mapped"),
    "no mac": (_with_keys(mac=None), "mac is missing"),
    "broken mac": (_with_keys(mac="00:16"), "mac must be"),
    "group's mac": (_with_keys(mac="01:00:5e:00:00:01"), "mac must be"),
    "host's mac": (_with_keys(mac="00:16:3e:ff:ff:01"), "mac must be"),
    "flipping": (_with_keys(**{"request-rx-copy": 0}), "request-rx-copy"),
    "no ring": (_with_keys(**{"tx-ring-ref": None}), "tx-ring-ref is missing"),
    "ring that is no number": (_with_keys(**{"tx-ring-ref": "x"}), "keys are incomplete"),
    "ring outside": (_with_keys(**{"tx-ring-ref": 1 << 40}), "cannot be mapped"),
    "negative ring": (_with_keys(**{"rx-ring-ref": -1}), "cannot be mapped"),
    "ring not lent": (_with_keys(**{"rx-ring-ref": 500}), "cannot be mapped"),
    "ring lent read-only": (_with_keys(**{"rx-ring-ref": 10}), "cannot be mapped"),
}


def descriptors_after_two_echoes(door: Door, frontend: Frontend) -> int:
    """Count the door's descriptors when it has seen the end of everybody who hung up before."""
    assert frontend.echoes(b"one")
    assert frontend.echoes(b"two")
    return door.descriptors()


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_costs_the_liar_its_connection_and_nobody_else(lie: str, door: Door) -> None:
    """It gets one line that says what is wrong; whoever was there before goes on, and no descriptor stays open."""
    tell, complaint = LIES[lie]
    with Frontend(door.path, 9, "honest") as honest:
        honest.greet()
        before = descriptors_after_two_echoes(door, honest)

        with Frontend(door.path, 3, "liar") as liar:
            tell(liar)
            lines = liar.lines_to(4)
            end = liar.hear()

        assert list(lines[-1]) == ["error"]
        assert complaint in lines[-1]["error"]
        assert end == {}
        assert descriptors_after_two_echoes(door, honest) == before


def test_a_name_and_an_address_are_taken_once(door: Door) -> None:
    """The second of a name, or of an Ethernet address, is refused, and the first one keeps it."""
    with (
        Frontend(door.path, 1, "first") as first,
        Frontend(door.path, 2, "first") as same_name,
        Frontend(door.path, 1, "second") as same_address,
    ):
        first.greet()

        assert "already" in same_name.greet()[-1]["error"]
        assert "another guest's" in same_address.greet()[-1]["error"]
        assert first.echoes(b"still here")


def test_a_later_line_is_judged_like_the_first(door: Door) -> None:
    """A connected frontend that says nonsense, or brings descriptors, is shut out."""
    for line in (b"nonsense", b'{"state":77}', b'{"state":4,"keys":{}}'):
        with Frontend(door.path, 1) as frontend:
            frontend.greet()
            frontend.say(line)

            assert "error" in frontend.lines_to(9)[-1]


def test_no_more_come_than_there_is_room_for(tmp_path: Path) -> None:
    """The third of two is refused, and let in once somebody has left."""
    with open_door(tmp_path / "netback", guests_max=2) as door:
        with Frontend(door.path, 1) as one, Frontend(door.path, 2) as two, Frontend(door.path, 3) as three:
            one.greet()
            two.greet()

            assert "as many as may come" in three.greet()[-1]["error"]

        door.hear("left")
        with Frontend(door.path, 3) as three:
            assert three.greet()[-1]["state"] == 4


def test_a_ring_that_claims_more_than_it_has_is_shut(door: Door) -> None:
    """RING_REQUEST_PROD_OVERFLOW: netback shuts the interface, and the door says why."""
    with Frontend(door.path, 1) as frontend:
        frontend.greet()
        frontend.memory.words[TX_RING * PAGE_SIZE // 4] = 257
        frontend.kick()

        assert "more requests than it has slots" in frontend.hear()["error"]


def test_a_producer_that_never_rests_keeps_nobody(door: Door) -> None:
    """It puts more while netback takes; the others have their turn, and once it puts too much it is found out."""
    with Frontend(door.path, 1) as liar, Frontend(door.path, 2) as honest:
        liar.greet()
        honest.greet()
        words, producer, rested = liar.memory.words, TX_RING * PAGE_SIZE // 4, threading.Event()

        def produce() -> None:
            while not rested.is_set():
                words[producer] = (words[producer + RSP_PROD] + 200) & 0xFFFFFFFF
                liar.kick()

        thread = threading.Thread(target=produce)
        thread.start()
        try:
            turns = [honest.echoes(b"my turn %d" % number) for number in range(20)]
        finally:
            rested.set()
            thread.join()
        words[producer] += 1000
        liar.kick()

        assert turns == [True] * 20
        assert words[producer + RSP_PROD] > 200
        assert "more requests than it has slots" in liar.hear()["error"]


def test_a_bell_that_waits_is_cut_short(door: Door) -> None:
    """An eventfd that is full, and waits since its flags are shared, keeps the door for a second and no longer."""
    with Frontend(door.path, 1) as liar, Frontend(door.path, 2) as honest:
        liar.greet()
        honest.greet()
        fcntl.fcntl(liar.wake_us, fcntl.F_SETFL, 0)
        os.eventfd_write(liar.wake_us, 2**64 - 2)
        liar.send(liar.datagram(b"x"))

        assert "kept the door waiting" in liar.hear()["error"]
        assert honest.echoes(b"after a while")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_lies_in_a_ring_the_door_goes_on(any_door: Door, data: st.DataObject) -> None:
    """Requests, extra slots, grants and indices of any content harm nobody else."""
    small = st.integers(0, 12) | st.integers(0, 0xFFFF)
    slot = st.tuples(small, small, st.integers(0, 15), small, small | st.sampled_from([14, 60, 1514, 4096]))
    slots = data.draw(st.lists(slot, min_size=1, max_size=40))
    claimed = data.draw(st.just(len(slots)) | st.integers(0, 300) | st.integers(0, 0xFFFFFFFF))
    flags = data.draw(st.lists(st.integers(0, 0xFFFF), max_size=12))
    page = data.draw(st.binary(max_size=64))
    with Frontend(any_door.path, 1, "liar") as liar, Frontend(any_door.path, 2, "honest") as honest:
        liar.greet()
        honest.greet()
        liar.memory.write(SENT, 0, (honest.mac + liar.mac + b"\x08\x00\x45" + page)[:PAGE_SIZE])
        for number, each in enumerate(slots):
            TX_REQUEST.pack_into(liar.memory.buffer, TX_RING * PAGE_SIZE + 64 + number * 12, *each)
        for ref, flag in enumerate(flags, start=8):
            liar.memory.halves[GRANTS * PAGE_SIZE // 2 + ref * 4] = flag
        liar.memory.words[RX_RING * PAGE_SIZE // 4] = claimed
        liar.memory.words[TX_RING * PAGE_SIZE // 4] = claimed
        liar.kick()

        # What the liar sent may come first: it knows the neighbour's address.
        honest.send(honest.datagram(b"truth"))
        assert honest.answered() == (7, 0)
        while honest.receive()[42:] != b"truth":
            pass


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.dictionaries(
        st.sampled_from(["mac", "tx-ring-ref", "rx-ring-ref", "request-rx-copy", "ctrl-ring-ref", "session"]),
        st.integers(-2, 12) | st.text(max_size=20) | st.integers() | st.none() | st.lists(st.integers(), max_size=2),
    ),
    states=st.lists(st.integers(-1, 8), max_size=6),
)
def test_whatever_a_frontend_says_the_door_goes_on(door: Door, keys: dict[str, Any], states: list[int]) -> None:
    """Keys and states of any content and order end in a line, or in nothing."""
    with Frontend(door.path, 1, "liar") as liar, Frontend(door.path, 2, "honest") as honest:
        honest.greet()
        _with_keys(**keys)(liar)
        try:
            for state in states:
                liar.say({"state": state, "keys": liar.keys})
        except OSError:
            pass  # it has been shown the door

        assert honest.echoes(b"truth")
