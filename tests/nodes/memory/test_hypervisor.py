"""Claims about the host's side of grants: statuses, pins, handles, copies and what a domain's death leaves."""

import copy

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lateack.nodes.memory import hypervisor as xen
from lateack.nodes.memory.grants import GrantTable, GTF_in_use, GTF_reading, GTF_writing
from lateack.nodes.memory.hypervisor import (
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_copy_arg,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_handle,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_no_space,
    GNTST_okay,
    Hypervisor,
)
from lateack.nodes.memory.pages import PAGE_SIZE, Memory

BACKEND = 0
GUEST = 1
READ = GNTMAP_host_map | GNTMAP_readonly
WRITE = GNTMAP_host_map
BOTH = GNTMAP_host_map | GNTMAP_device_map


class Host:
    """A host with one guest whose grant table is in frame 0 of 16."""

    def __init__(self) -> None:
        """Start the guest and make its table known."""
        self.memory = Memory(GUEST, 16)
        self.grants = GrantTable(self.memory, 0)
        self.xen = Hypervisor()
        self.xen.add_domain(self.memory, 0)

    def lend(self, frame: int = 5, readonly: bool = True) -> int:
        """Lend a frame to the backend and return the reference."""
        return self.grants.grant_access(BACKEND, frame, readonly)

    def map(self, ref: int, flags: int = READ, caller: int = BACKEND) -> tuple[int, int]:
        """Map a reference and return status and handle."""
        return self.xen.map_grant_ref(caller, GUEST, ref, flags)[:2]

    def flags(self, ref: int) -> int:
        """Read the flags of the guest's entry."""
        return self.memory.halves[ref * 4]


@pytest.fixture
def host() -> Host:
    """Give a test a fresh host."""
    return Host()


def test_a_mapping_is_the_guests_own_frame(host: Host) -> None:
    """The mapper sees what the guest writes later, and the guest sees the grant in use until the unmap."""
    ref = host.lend(frame=5)

    status, handle, memory, frame = host.xen.map_grant_ref(BACKEND, GUEST, ref, READ)
    host.memory.write(5, 0, b"later")
    ended_early = host.grants.end_access(ref)
    unmapped = host.xen.unmap_grant_ref(BACKEND, handle)

    assert (status, memory, frame) == (GNTST_okay, host.memory, 5)
    assert memory is not None and memory.read(frame, 0, 5) == b"later"
    assert not ended_early
    assert unmapped == GNTST_okay
    assert host.grants.end_access(ref)
    assert (host.xen.maps, host.xen.unmaps, host.xen.tlb_flushes, host.xen.pins()) == (1, 1, 1, {})


def test_every_wrong_map_has_its_status(host: Host) -> None:
    """Each way to ask wrongly gets Xen's own answer, and leaves nothing pinned or marked."""
    readonly, beyond, other = host.lend(), host.lend(frame=16), host.grants.grant_access(9, 5, readonly=True)

    asked = {
        "no such domain": host.xen.map_grant_ref(BACKEND, 44, readonly, READ)[0],
        "neither host nor device": host.map(readonly, GNTMAP_readonly)[0],
        "reference past the table": host.map(512)[0],
        "reference not lent": host.map(100)[0],
        "lent to another": host.map(other)[0],
        "write to a read-only grant": host.map(readonly, WRITE)[0],
        "frame past the memory": host.map(beyond)[0],
    }

    assert asked == {
        "no such domain": GNTST_bad_domain,
        "neither host nor device": GNTST_bad_gntref,
        "reference past the table": GNTST_bad_gntref,
        "reference not lent": GNTST_general_error,
        "lent to another": GNTST_general_error,
        "write to a read-only grant": GNTST_general_error,
        "frame past the memory": GNTST_bad_page,
    }
    assert host.xen.pins() == {}
    assert not any(host.flags(ref) & GTF_in_use for ref in (readonly, beyond, other))


def test_an_error_returns_no_handle_and_no_memory(host: Host) -> None:
    """A failed map cannot be mistaken for a mapping."""
    assert host.xen.map_grant_ref(BACKEND, GUEST, 100, READ) == (GNTST_general_error, -1, None, -1)


def test_a_pinned_grant_ignores_the_guests_edits(host: Host) -> None:
    """From the first pin on the host's own entry rules: a rewritten domain or frame moves nothing."""
    ref = host.lend(frame=5)
    host.map(ref)

    host.memory.halves[ref * 4 + 1] = 9
    host.memory.words[ref * 2 + 1] = 6
    second = host.xen.map_grant_ref(BACKEND, GUEST, ref, READ)
    stranger = host.map(ref, caller=9)

    assert (second[0], second[3]) == (GNTST_okay, 5)
    assert stranger == (GNTST_general_error, -1)


def test_a_read_pin_does_not_let_a_writer_in(host: Host) -> None:
    """A read-only grant stays read-only while it is pinned for reading."""
    ref = host.lend(readonly=True)
    host.map(ref, READ)

    assert host.map(ref, WRITE)[0] == GNTST_general_error
    assert host.flags(ref) & GTF_in_use == GTF_reading


def test_the_last_writer_clears_writing_and_the_last_user_reading(host: Host) -> None:
    """The two bits end with the pins that they stand for, not before."""
    ref = host.lend(readonly=False)
    _, reader = host.map(ref, READ)
    _, writer = host.map(ref, WRITE)
    both = host.flags(ref) & GTF_in_use

    host.xen.unmap_grant_ref(BACKEND, writer)
    one = host.flags(ref) & GTF_in_use
    host.xen.unmap_grant_ref(BACKEND, reader)

    assert (both, one, host.flags(ref) & GTF_in_use) == (GTF_reading | GTF_writing, GTF_reading, 0)


def test_a_pin_counter_never_carries_into_its_neighbour(host: Host) -> None:
    """The 129th read pin is refused, while a write pin has its own counter."""
    ref = host.lend(readonly=False)
    statuses = [host.map(ref, READ)[0] for _ in range(129)]

    assert statuses == [GNTST_okay] * 128 + [GNTST_general_error]
    assert host.map(ref, WRITE)[0] == GNTST_okay
    assert host.xen.pins() == {GUEST: 129}


def test_half_an_unmap_keeps_the_handle(host: Host) -> None:
    """A mapping for host and device is over only when both halves are gone, in either order."""
    ref = host.lend()
    _, handle = host.map(ref, BOTH | GNTMAP_readonly)

    device = host.xen.unmap_grant_ref(BACKEND, handle, GNTMAP_device_map)
    device_again = host.xen.unmap_grant_ref(BACKEND, handle, GNTMAP_device_map)
    between = (host.xen.pins(), host.xen.unmaps, host.grants.end_access(ref))
    rest = host.xen.unmap_grant_ref(BACKEND, handle)

    assert (device, device_again, rest) == (GNTST_okay, GNTST_okay, GNTST_okay)
    assert between == ({GUEST: 1}, 0, False)
    assert (host.xen.pins(), host.xen.unmaps) == ({}, 1)
    assert host.xen.unmap_grant_ref(BACKEND, handle) == GNTST_bad_handle


def test_a_handle_is_its_owners_alone(host: Host) -> None:
    """A handle unmapped twice, never issued, or held by another domain is bad."""
    ref = host.lend()
    _, handle = host.map(ref)

    stranger = host.xen.unmap_grant_ref(9, handle)
    unknown = host.xen.unmap_grant_ref(BACKEND, handle + 1)
    host.xen.unmap_grant_ref(BACKEND, handle)

    assert (stranger, unknown) == (GNTST_bad_handle, GNTST_bad_handle)
    assert host.xen.unmap_grant_ref(BACKEND, handle) == GNTST_bad_handle


def test_a_handle_is_never_issued_twice_while_live(host: Host) -> None:
    """Issuing goes round the whole range and steps over what is still mapped."""
    ref = host.lend()
    _, kept = host.map(ref)
    track = host.xen.maptracks[BACKEND]
    track.next_handle = xen.MAX_MAPTRACK_ENTRIES - 1

    handles = [host.map(ref)[1] for _ in range(2)]

    assert handles == [xen.MAX_MAPTRACK_ENTRIES - 1, kept + 1]


def test_no_room_for_a_handle_is_no_space(host: Host) -> None:
    """A caller with every handle in use gets no_space, and the grant stays free."""
    ref, other = host.lend(), host.lend()
    host.map(ref)
    live = host.xen.maptracks[BACKEND].live
    live.update(dict.fromkeys(range(xen.MAX_MAPTRACK_ENTRIES), live[0]))

    assert host.map(other)[0] == GNTST_no_space
    assert host.flags(other) & GTF_in_use == 0


def test_a_batch_flushes_once_for_every_32(host: Host) -> None:
    """65 unmaps cost three flushes, and a bad handle among them spoils only itself."""
    ref = host.lend()
    handles = [host.map(ref)[1] for _ in range(64)]

    statuses = host.xen.unmap_batch(BACKEND, [*handles[:10], 999, *handles[10:]])

    assert statuses == [GNTST_okay] * 10 + [GNTST_bad_handle] + [GNTST_okay] * 54
    assert (host.xen.tlb_flushes, host.xen.unmaps, host.xen.pins()) == (3, 64, {})


def test_an_empty_batch_costs_nothing(host: Host) -> None:
    """No unmap, no flush."""
    assert host.xen.unmap_batch(BACKEND, []) == []
    assert host.xen.tlb_flushes == 0


def test_a_copy_takes_the_bytes_of_its_moment(host: Host) -> None:
    """A copied piece does not change afterwards, and nothing stays pinned."""
    ref = host.lend(frame=5)
    host.memory.write(5, 10, b"then")

    status, data = host.xen.copy_from_grant(BACKEND, GUEST, ref, 10, 4)
    host.memory.write(5, 10, b"now!")

    assert (status, data) == (GNTST_okay, b"then")
    assert host.grants.end_access(ref)
    assert (host.xen.copies, host.xen.bytes_copied, host.xen.pins()) == (1, 4, {})


def test_a_copy_into_a_grant_needs_it_writable(host: Host) -> None:
    """Bytes land in a writable grant, and a read-only one refuses them."""
    writable, readonly = host.lend(frame=5, readonly=False), host.lend(frame=6)

    statuses = [host.xen.copy_to_grant(BACKEND, GUEST, ref, 4092, b"data") for ref in (writable, readonly)]

    assert statuses == [GNTST_okay, GNTST_general_error]
    assert host.memory.read(5, 4092, 4) == b"data"
    assert host.memory.read(6, 4092, 4) == bytes(4)
    assert host.grants.end_access(writable)


@pytest.mark.parametrize(
    ("offset", "length", "status"),
    [
        (0, PAGE_SIZE, GNTST_okay),
        (4095, 1, GNTST_okay),
        (7, 0, GNTST_okay),
        (4095, 2, GNTST_bad_copy_arg),
        (1, PAGE_SIZE, GNTST_bad_copy_arg),
    ],
)
def test_a_copy_never_crosses_a_page(host: Host, offset: int, length: int, status: int) -> None:
    """Both kinds of copy accept what fits a page, also nothing at all, refuse the rest, and leave no pin."""
    ref = host.lend(readonly=False)

    taken = host.xen.copy_from_grant(BACKEND, GUEST, ref, offset, length)
    given = host.xen.copy_to_grant(BACKEND, GUEST, ref, offset, bytes(length))

    assert (taken[0], given) == (status, status)
    assert host.grants.end_access(ref)


def test_every_wrong_copy_has_its_status(host: Host) -> None:
    """Copies check the grant as maps do."""
    other = host.grants.grant_access(9, 5, readonly=False)

    asked = [(44, other), (GUEST, 512), (GUEST, 100), (GUEST, other), (GUEST, host.lend(frame=16, readonly=False))]
    taken = [host.xen.copy_from_grant(BACKEND, domid, ref, 0, 1)[0] for domid, ref in asked]
    given = [host.xen.copy_to_grant(BACKEND, domid, ref, 0, b"x") for domid, ref in asked]

    assert taken == [GNTST_bad_domain, GNTST_bad_gntref, GNTST_general_error, GNTST_general_error, GNTST_bad_page]
    assert given == taken
    assert (host.xen.copies, host.xen.bytes_copied) == (0, 0)


def test_a_destroyed_guest_stays_a_zombie_until_unmapped(host: Host) -> None:
    """Mapped frames outlive their domain: they can be read and unmapped, but not mapped again."""
    ref = host.lend(frame=5)
    host.memory.write(5, 0, b"ghost")
    _, handle, memory, frame = host.xen.map_grant_ref(BACKEND, GUEST, ref, READ)

    host.xen.remove_domain(GUEST)
    zombie = (host.xen.pins(), host.map(ref)[0])
    unmapped = host.xen.unmap_grant_ref(BACKEND, handle)

    assert zombie == ({GUEST: 1}, GNTST_bad_domain)
    assert memory is not None and memory.read(frame, 0, 5) == b"ghost"
    assert unmapped == GNTST_okay
    assert host.xen.pins() == {}
    assert host.xen.dying == []


def test_a_destroyed_backend_lets_go_of_every_grant(host: Host) -> None:
    """When the mapper dies, all halves of its mappings are undone for it, and the guest can end its grants."""
    refs = [host.lend(), host.lend(readonly=False)]
    host.map(refs[0], BOTH | GNTMAP_readonly)
    host.map(refs[1], WRITE)

    host.xen.remove_domain(BACKEND)

    assert host.xen.pins() == {}
    assert all(host.grants.end_access(ref) for ref in refs)


def test_a_copied_host_goes_its_own_way(host: Host) -> None:
    """A deep copy of guest and host keeps them joined to each other and apart from the original."""
    ref = host.lend()
    _, handle = host.map(ref)

    twin = copy.deepcopy(host)
    host.xen.unmap_grant_ref(BACKEND, handle)

    assert twin.xen.pins() == {GUEST: 1}
    assert not twin.grants.end_access(ref)
    assert twin.xen.unmap_grant_ref(BACKEND, handle) == GNTST_okay
    assert twin.grants.end_access(ref)


class GrantTraffic(RuleBasedStateMachine):
    """A guest that lends and takes back while a backend maps, unmaps and copies, in any order."""

    def __init__(self) -> None:
        """Start with nothing lent."""
        super().__init__()
        self.host = Host()
        self.lent: set[int] = set()
        self.held: dict[int, tuple[int, int]] = {}

    @rule(frame=st.integers(1, 15), readonly=st.booleans())
    def lend(self, frame: int, readonly: bool) -> None:
        """Lend one more frame."""
        self.lent.add(self.host.lend(frame, readonly))

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), flags=st.integers(0, 7))
    def map(self, data: st.DataObject, flags: int) -> None:
        """Map something lent, with any flags."""
        ref = data.draw(st.sampled_from(sorted(self.lent)))
        status, handle = self.host.map(ref, flags)
        if status == GNTST_okay:
            assert handle not in self.held
            self.held[handle] = (ref, flags & BOTH)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), flags=st.integers(0, 3))
    def unmap(self, data: st.DataObject, flags: int) -> None:
        """Undo one half, both or nothing of a mapping."""
        handle = data.draw(st.sampled_from(sorted(self.held)))
        assert self.host.xen.unmap_grant_ref(BACKEND, handle, flags) == GNTST_okay
        ref, mapped = self.held.pop(handle)
        if mapped & ~flags:
            self.held[handle] = (ref, mapped & ~flags)

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), offset=st.integers(0, 4096), length=st.integers(0, 4096))
    def copy(self, data: st.DataObject, offset: int, length: int) -> None:
        """Copy out of something lent, within its page or beyond."""
        ref = data.draw(st.sampled_from(sorted(self.lent)))
        status, _ = self.host.xen.copy_from_grant(BACKEND, GUEST, ref, offset, length)
        assert status == (GNTST_okay if offset + length <= PAGE_SIZE else GNTST_bad_copy_arg)

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """Take a frame back, which succeeds exactly when nothing of it is mapped."""
        ref = data.draw(st.sampled_from(sorted(self.lent)))
        ended = self.host.grants.end_access(ref)
        assert ended == (ref not in {held for held, _ in self.held.values()})
        if ended:
            self.lent.discard(ref)

    @invariant()
    def pins_are_the_mapped_halves(self) -> None:
        """The host counts one pin for each mapped half, and the guest sees reading set exactly where there is one."""
        halves = sum(mapped.bit_count() for _, mapped in self.held.values())
        assert self.host.xen.pins() == ({GUEST: halves} if halves else {})
        pinned = {ref for ref, _ in self.held.values()}
        assert {ref for ref in self.lent if self.host.flags(ref) & GTF_reading} == pinned


GrantTraffic.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestGrantTraffic = GrantTraffic.TestCase
