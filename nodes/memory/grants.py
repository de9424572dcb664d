"""The guest's own side of the grant table: which of its frames it lends, to whom, and since when it takes them back.

Version 1 entries in Xen's layout (xen/include/public/grant_table.h, `struct grant_entry_v1`): 8 bytes,
`u16 flags | u16 domid | u32 frame`, 512 to a frame. The host's side is `hypervisor`.
"""

from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.memory.pages import HALVES_PER_PAGE, PAGE_SIZE, WORDS_PER_PAGE, Memory

GTF_invalid = 0
GTF_permit_access = 1
GTF_accept_transfer = 2
GTF_transitive = 3
GTF_type_mask = 3
GTF_readonly = 1 << 2
GTF_reading = 1 << 3
GTF_writing = 1 << 4
GTF_sub_page = 1 << 8
GTF_in_use = GTF_reading | GTF_writing
GTF_permit_reading = GTF_permit_access | GTF_readonly

GRANT_ENTRY_SIZE = 8
GRANTS_PER_PAGE = PAGE_SIZE // GRANT_ENTRY_SIZE
# References 0 to 7 belong to the toolstack (0 is the console, 1 is xenstore).
GNTTAB_NR_RESERVED_ENTRIES = 8


class GrantTable:
    """The grant table of one domain, kept in that domain's own memory.

    References are reused last freed first, as Linux's free list does (drivers/xen/grant-table.c).
    """

    __slots__ = ("first_half", "first_word", "free_refs", "memory", "next_ref", "nr_refs")

    def __init__(self, memory: Memory, first_frame: int, nr_frames: int = 1) -> None:
        """Lay the table over `nr_frames` zeroed frames from `first_frame` on: 512 references to a frame."""
        assert first_frame >= 0 and first_frame + nr_frames <= memory.frames
        self.memory = memory
        self.first_half = first_frame * HALVES_PER_PAGE
        self.first_word = first_frame * WORDS_PER_PAGE
        self.nr_refs = nr_frames * GRANTS_PER_PAGE
        # References from next_ref on were never used, so that a new table costs nothing to build.
        self.next_ref = GNTTAB_NR_RESERVED_ENTRIES
        self.free_refs: list[int] = []

    def grant_access(self, domid: int, frame: int, readonly: bool) -> int:
        """Lend `frame` to domain `domid` and return the grant reference; raises MemoryExhausted when none is left.

        Linux's `gnttab_grant_foreign_access`.
        """
        if self.free_refs:
            ref = self.free_refs.pop()
        else:
            ref = self.next_ref
            if ref == self.nr_refs:
                raise self._exhausted()
            self.next_ref = ref + 1
        words = self.memory.words
        word = self.first_word + ref * 2
        # Whoever sees the flags must see the rest, so the word with flags and domid is the last store (Linux has wmb()
        # before it). x86 keeps stores in order (TSO) and CPython neither reorders nor joins these two; a machine with
        # weaker rules would need a barrier here.
        words[word + 1] = frame
        words[word] = domid << 16 | (GTF_permit_reading if readonly else GTF_permit_access)
        return ref

    def end_access(self, ref: int) -> bool:
        """Take a frame back and free its reference; False, and nothing changed, while the host still has it pinned.

        Linux's `gnttab_end_foreign_access_ref`. It ends new maps only: it cannot revoke one that exists.
        """
        half = self.first_half + ref * 4
        halves = self.memory.halves
        flags = halves[half]
        assert flags, "a grant that was never given, or is ended already, was ended"
        if flags & GTF_in_use:
            return False
        # Xen's guests use cmpxchg here, and CPython has none. In one process the interpreter lock and one machine at a
        # time make load and store one step. Between processes they are two: a map that falls between them is lost from
        # the entry, though not from the host's pin count. An honest pair never gets there: the frontend ends a grant
        # only after the response, and the backend's last use comes before it. A peer that breaks this order may hit it.
        halves[half] = GTF_invalid
        self.free_refs.append(ref)
        return True

    def withdraw(self, ref: int) -> bool:
        """Take a frame back but keep its reference for `lend_again`; False, and nothing changed, while it is pinned.

        The short way of `end_access` and `grant_access` for a receive buffer, which is offered again once it is read.
        """
        halves = self.memory.halves
        half = self.first_half + ref * 4
        if halves[half] & GTF_in_use:
            return False
        halves[half] = GTF_invalid
        return True

    def lend_again(self, ref: int) -> None:
        """Lend a withdrawn frame, writable, to the domain that had it; domid and frame still stand in the entry."""
        self.memory.halves[self.first_half + ref * 4] = GTF_permit_access

    def query_access(self, ref: int) -> int:
        """Tell how the host uses the grant now, in GTF_reading and GTF_writing; it may change at any moment."""
        return self.memory.halves[self.first_half + ref * 4] & GTF_in_use

    @property
    def in_use(self) -> int:
        """How many references are lent, counting those that could not be ended yet."""
        return self.next_ref - GNTTAB_NR_RESERVED_ENTRIES - len(self.free_refs)

    def _exhausted(self) -> MemoryExhausted:
        return MemoryExhausted(
            f"domain {self.memory.domid} has all its {self.nr_refs - GNTTAB_NR_RESERVED_ENTRIES} grant references "
            "in use: give the table more frames, a smaller window, or find which grants never end"
        )
