"""The host's Xen, as far as grants go: it maps, unmaps and copies what guests lend, and counts every pin.

Behaviour follows xen/common/grant_table.c (4.17), version 1 grants. What a guest's entry says is believed only while
nothing is pinned; from the first pin on the host's own active entry rules, and a guest's edits are ignored.
Everything here is plain state, and only what is pinned or mapped takes room, so that a host is cheap to copy.
"""

from lateack.nodes.memory.atomics import Atomics
from lateack.nodes.memory.grants import (
    GRANTS_PER_PAGE,
    GTF_in_use,
    GTF_permit_access,
    GTF_reading,
    GTF_readonly,
    GTF_type_mask,
    GTF_writing,
)
from lateack.nodes.memory.pages import HALVES_PER_PAGE, PAGE_SHIFT, PAGE_SIZE, WORDS_PER_PAGE, Memory

GNTST_okay = 0
GNTST_general_error = -1
GNTST_bad_domain = -2
GNTST_bad_gntref = -3
GNTST_bad_handle = -4
GNTST_bad_virt_addr = -5
GNTST_bad_dev_addr = -6
GNTST_no_device_space = -7
GNTST_permission_denied = -8
GNTST_bad_page = -9
GNTST_bad_copy_arg = -10
GNTST_address_too_big = -11
GNTST_eagain = -12
GNTST_no_space = -13

GNTMAP_device_map = 1
GNTMAP_host_map = 2
GNTMAP_readonly = 4
GNTMAP_application_map = 8
GNTMAP_contains_pte = 16
GNTMAP_device_or_host = GNTMAP_device_map | GNTMAP_host_map
GNTMAP_known = GNTMAP_device_or_host | GNTMAP_readonly

GNTCOPY_source_gref = 1
GNTCOPY_dest_gref = 2

# Bounds, with Xen's defaults: 64 frames of grants to a domain, 1024 frames of maptrack with 256 handles each.
MAX_GRANT_FRAMES = 64
MAX_MAPTRACK_ENTRIES = 1024 * 256
# Xen flushes the TLB once for so many unmaps (GNTTAB_UNMAP_BATCH_SIZE).
UNMAP_BATCH_SIZE = 32

# An active entry's pin is four 8-bit counters in one word.
GNTPIN_hstw_inc = 1 << 0
GNTPIN_hstr_inc = 1 << 8
GNTPIN_devw_inc = 1 << 16
GNTPIN_devr_inc = 1 << 24
GNTPIN_write_mask = 0x00FF00FF
GNTPIN_cntr_width = 8

# The pins that a mapping takes, by its flags device_map (1), host_map (2) and readonly (4).
PIN_INCREMENTS = (
    0,
    GNTPIN_devw_inc,
    GNTPIN_hstw_inc,
    GNTPIN_devw_inc + GNTPIN_hstw_inc,
    0,
    GNTPIN_devr_inc,
    GNTPIN_hstr_inc,
    GNTPIN_devr_inc + GNTPIN_hstr_inc,
)


# What of the first word of an entry, `domid << 16 | flags`, decides whether a caller may use the grant.
ENTRY_MEANT = 0xFFFF << 16 | GTF_type_mask
# The same for a copy that leaves no trace: it must not find a bit that it would have to set, or to clear afterwards.
ENTRY_READ_AT_ONCE = ENTRY_MEANT | GTF_in_use
ENTRY_WRITTEN_AT_ONCE = ENTRY_READ_AT_ONCE | GTF_readonly
UNSTABLE_TRIES = 5
"""How often Xen tries to mark an entry that its guest keeps changing, before it gives up (`_set_status_v1`)."""


class Domain:
    """A domain as a lender: where its grant table lies, and an active entry for each reference that is pinned now."""

    __slots__ = ("active", "atomics", "domid", "first_half", "first_word", "memory", "nr_refs")

    def __init__(self, memory: Memory, grant_frame: int, nr_grant_frames: int) -> None:
        """Find the table of `memory`'s domain in its frames from `grant_frame` on."""
        assert 0 < nr_grant_frames <= MAX_GRANT_FRAMES and grant_frame + nr_grant_frames <= memory.frames
        self.domid = memory.domid
        self.memory = memory
        self.first_half = grant_frame * HALVES_PER_PAGE
        self.first_word = grant_frame * WORDS_PER_PAGE
        self.nr_refs = nr_grant_frames * GRANTS_PER_PAGE
        self.atomics: Atomics | None = None
        # ref -> (pin, domid it is lent to, frame); there is an entry exactly while pin > 0.
        self.active: dict[int, tuple[int, int, int]] = {}

    def pin(self, caller: int, ref: int, increment: int) -> int:
        """Add `increment` to the pins of `ref` on behalf of domain `caller`; return the frame, or a negative status.

        `increment` is one of PIN_INCREMENTS. Status: bad_gntref, bad_page, or general_error for all that Xen calls so.
        """
        if ref in self.active:
            return self._pin_again(caller, ref, increment)
        if not 0 <= ref < self.nr_refs:
            return GNTST_bad_gntref
        memory = self.memory
        words = memory.words
        word = self.first_word + ref * 2
        # Believe the guest's entry, this once (`_set_status_v1`). Xen swaps flags and domid in one cmpxchg, and gives
        # up after five tries with a guest that keeps changing them. Without `atomics` we load them once and store them
        # once; grants.end_access says what that leaves open between processes.
        entry = words[word]
        if entry & ENTRY_MEANT != caller << 16 | GTF_permit_access:
            return GNTST_general_error
        used = GTF_reading
        if increment & GNTPIN_write_mask:
            if entry & GTF_readonly:
                return GNTST_general_error
            used = GTF_in_use
        frame = words[word + 1]
        if frame >= memory.frames:
            return GNTST_bad_page
        if self.atomics is None:
            words[word] = entry | used
        elif not self.atomics.swap(word, entry, entry | used):
            return self._pin_unstable(caller, ref, increment)
        self.active[ref] = (increment, caller, frame)
        return frame

    def _pin_unstable(self, caller: int, ref: int, increment: int) -> int:
        """Pin an entry that its guest has changed under our hands: look at it anew, and not for ever."""
        atomics, words, word = self.atomics, self.memory.words, self.first_word + ref * 2
        assert atomics is not None
        writes = increment & GNTPIN_write_mask
        for _ in range(UNSTABLE_TRIES - 1):
            entry, frame = words[word], words[word + 1]
            if entry & ENTRY_MEANT != caller << 16 | GTF_permit_access or (writes and entry & GTF_readonly):
                return GNTST_general_error
            if frame >= self.memory.frames:
                return GNTST_bad_page
            if atomics.swap(word, entry, entry | (GTF_in_use if writes else GTF_reading)):
                self.active[ref] = (increment, caller, frame)
                return frame
        return GNTST_general_error

    def _pin_again(self, caller: int, ref: int, increment: int) -> int:
        pin, domid, frame = self.active[ref]
        # A counter is full at 128: its top bit stays clear so that no increment can carry into its neighbour.
        if domid != caller or pin & (increment << (GNTPIN_cntr_width - 1)):
            return GNTST_general_error
        if increment & GNTPIN_write_mask and not pin & GNTPIN_write_mask:
            half = self.first_half + ref * 4
            flags = self.memory.halves[half]
            if flags & GTF_readonly:
                return GNTST_general_error
            if self.atomics is None:
                self.memory.halves[half] = flags | GTF_in_use
            else:
                self.atomics.set_bits(half, GTF_in_use)
        self.active[ref] = (pin + increment, domid, frame)
        return frame

    def glance(self, caller: int, ref: int, meant: int) -> int:
        """Find the frame for a copy that is over before anybody can look: nothing is marked, nothing to be unpinned.

        `meant` is ENTRY_READ_AT_ONCE or ENTRY_WRITTEN_AT_ONCE. Returns -1 for everything that needs a second look, and
        wherever another process could see the copy under way: then `pin`, copy and `unpin`.
        """
        memory = self.memory
        if memory.shared or ref in self.active or not 0 <= ref < self.nr_refs:
            return -1
        words = memory.words
        word = self.first_word + ref * 2
        if words[word] & meant != caller << 16 | GTF_permit_access:
            return -1
        frame = words[word + 1]
        return frame if frame < memory.frames else -1

    def unpin(self, ref: int, decrement: int) -> None:
        """Take `decrement` off the pins of `ref`, and clear the guest's reading and writing bits with the last ones."""
        pin, domid, frame = self.active[ref]
        half = self.first_half + ref * 4
        if pin == decrement:
            del self.active[ref]
            self._clear(half, GTF_in_use)
            return
        pin -= decrement
        self.active[ref] = (pin, domid, frame)
        if decrement & GNTPIN_write_mask and not pin & GNTPIN_write_mask:
            self._clear(half, GTF_writing)

    def _clear(self, half: int, bits: int) -> None:
        if self.atomics is None:
            self.memory.halves[half] &= ~bits
        else:
            self.atomics.clear_bits(half, bits)

    def live_pins(self) -> int:
        """Count all pins of all references."""
        return sum(sum(pin.to_bytes(4, "little")) for pin, _, _ in self.active.values())


class MapTrack:
    """The mappings that one domain holds of others' frames, by handle."""

    __slots__ = ("live", "next_handle")

    def __init__(self) -> None:
        """Start without mappings."""
        # handle -> (lender, ref, GNTMAP flags)
        self.live: dict[int, tuple[Domain, int, int]] = {}
        self.next_handle = 0

    def free_handle(self) -> int:
        """Find a handle that no live mapping has, or -1 if there is none; begin where the last search ended.

        Xen reuses the handle that was freed longest ago. We go round the whole range, which remembers less and
        takes longer to give an old handle a new meaning, so that a late unmap is seen as bad_handle.
        """
        handle = self.next_handle
        live = self.live
        if handle in live:
            if len(live) >= MAX_MAPTRACK_ENTRIES:
                return -1
            while handle in live:
                handle = (handle + 1) % MAX_MAPTRACK_ENTRIES
        self.next_handle = (handle + 1) % MAX_MAPTRACK_ENTRIES
        return handle


class Hypervisor:
    """The grant operations of one physical host, with counters of what they cost.

    A caller is named by its domid; it need not have lent anything. Counters: `maps`, `unmaps`, `copies`, `bytes_copied`
    and `tlb_flushes` count successes only, but a flush is paid for a batch whatever came of it, as in Xen.
    """

    __slots__ = ("bytes_copied", "copies", "domains", "dying", "maps", "maptracks", "tlb_flushes", "unmaps")

    def __init__(self) -> None:
        """Start a host without domains."""
        self.domains: dict[int, Domain] = {}
        self.dying: list[Domain] = []
        self.maptracks: dict[int, MapTrack] = {}
        self.maps = 0
        self.unmaps = 0
        self.copies = 0
        self.bytes_copied = 0
        self.tlb_flushes = 0

    def add_domain(self, memory: Memory, grant_frame: int, nr_grant_frames: int = 1) -> None:
        """Let the owner of `memory` lend frames through the grant table at `grant_frame`."""
        assert memory.domid not in self.domains, "a domain was added twice"
        self.domains[memory.domid] = Domain(memory, grant_frame, nr_grant_frames)

    def remove_domain(self, domid: int) -> None:
        """Destroy a domain: its own mappings go at once, while frames that others have pinned keep it as a zombie.

        Nothing of it can be mapped any more; what is mapped stays readable and can be unmapped.
        """
        for handle in list(self.maptracks[domid].live if domid in self.maptracks else ()):
            self._unmap(domid, handle, GNTMAP_device_or_host)
        self.maptracks.pop(domid, None)
        domain = self.domains.pop(domid, None)
        if domain is not None and domain.active:
            self.dying.append(domain)

    def map_grant_ref(self, caller: int, domid: int, ref: int, flags: int) -> tuple[int, int, Memory | None, int]:
        """Map a frame that `domid` lends to `caller`: (status, handle, memory, frame) (`GNTTABOP_map_grant_ref`).

        `flags` are GNTMAP bits. On an error the handle is -1, the memory None and the frame -1.
        """
        flags &= GNTMAP_known
        increment = PIN_INCREMENTS[flags]
        if not increment:
            return GNTST_bad_gntref, -1, None, -1
        domain = self.domains.get(domid)
        if domain is None:
            return GNTST_bad_domain, -1, None, -1
        track = self.maptracks.get(caller)
        if track is None:
            track = self.maptracks[caller] = MapTrack()
        handle = track.free_handle()
        if handle < 0:
            return GNTST_no_space, -1, None, -1
        frame = domain.pin(caller, ref, increment)
        if frame < 0:
            return frame, -1, None, -1
        self.maps += 1
        track.live[handle] = (domain, ref, flags)
        return GNTST_okay, handle, domain.memory, frame

    def unmap_grant_ref(self, caller: int, handle: int, flags: int = GNTMAP_host_map) -> int:
        """Undo the host or device half of a mapping, or both; return the status (`GNTTABOP_unmap_grant_ref`).

        The handle and the grant stay until both halves that were mapped are gone (XSA-394).
        """
        self.tlb_flushes += 1
        return self._unmap(caller, handle, flags)

    def unmap_batch(self, caller: int, handles: list[int]) -> list[int]:
        """Undo the host half of many mappings and return their statuses; one TLB flush pays for up to 32."""
        self.tlb_flushes += -(-len(handles) // UNMAP_BATCH_SIZE)
        return [self._unmap(caller, handle, GNTMAP_host_map) for handle in handles]

    def copy_from_grant(self, caller: int, domid: int, ref: int, offset: int, length: int) -> tuple[int, bytes]:
        """Copy bytes out of a frame that `domid` lends: (status, bytes) (`GNTTABOP_copy`, source_gref)."""
        if not length:
            return GNTST_okay, b""  # Xen looks at nothing then
        domain = self.domains.get(domid)
        if domain is None:
            return GNTST_bad_domain, b""
        frame = domain.glance(caller, ref, ENTRY_READ_AT_ONCE)
        pinned = frame < 0
        if pinned:
            frame = domain.pin(caller, ref, GNTPIN_hstr_inc)
            if frame < 0:
                return frame, b""
        data = b""
        status = GNTST_bad_copy_arg
        if offset >= 0 and length >= 0 and offset + length <= PAGE_SIZE:
            start = (frame << PAGE_SHIFT) + offset
            data = domain.memory.view[start : start + length].tobytes()
            self.copies += 1
            self.bytes_copied += length
            status = GNTST_okay
        if pinned:
            domain.unpin(ref, GNTPIN_hstr_inc)
        return status, data

    def copy_to_grant(self, caller: int, domid: int, ref: int, offset: int, data: bytes | memoryview) -> int:
        """Copy bytes into a frame that `domid` lends writable; return the status (`GNTTABOP_copy`, dest_gref)."""
        if not data:
            return GNTST_okay
        domain = self.domains.get(domid)
        if domain is None:
            return GNTST_bad_domain
        frame = domain.glance(caller, ref, ENTRY_WRITTEN_AT_ONCE)
        pinned = frame < 0
        if pinned:
            frame = domain.pin(caller, ref, GNTPIN_hstw_inc)
            if frame < 0:
                return frame
        length = len(data)
        status = GNTST_bad_copy_arg
        if offset >= 0 and offset + length <= PAGE_SIZE:
            start = (frame << PAGE_SHIFT) + offset
            domain.memory.view[start : start + length] = data
            self.copies += 1
            self.bytes_copied += length
            status = GNTST_okay
        if pinned:
            domain.unpin(ref, GNTPIN_hstw_inc)
        return status

    def mapped_by(self, caller: int) -> int:
        """Return how many mappings of others' frames a domain holds now."""
        track = self.maptracks.get(caller)
        return len(track.live) if track is not None else 0

    def pins(self) -> dict[int, int]:
        """Count the live pins on each domain's frames, zombies included; a domain without pins is left out."""
        counts: dict[int, int] = {}
        for domain in (*self.domains.values(), *self.dying):
            if domain.active:
                counts[domain.domid] = counts.get(domain.domid, 0) + domain.live_pins()
        return counts

    def _unmap(self, caller: int, handle: int, flags: int) -> int:
        track = self.maptracks.get(caller)
        if track is None:
            return GNTST_bad_handle
        mapping = track.live.get(handle)
        if mapping is None:
            return GNTST_bad_handle
        domain, ref, mapped = mapping
        done = flags & mapped & GNTMAP_device_or_host
        if not done:
            return GNTST_okay
        domain.unpin(ref, PIN_INCREMENTS[done | mapped & GNTMAP_readonly])
        left = mapped ^ done
        if left & GNTMAP_device_or_host:
            track.live[handle] = (domain, ref, left)
            return GNTST_okay
        del track.live[handle]
        self.unmaps += 1
        if self.dying and not domain.active and domain in self.dying:
            self.dying.remove(domain)
        return GNTST_okay
