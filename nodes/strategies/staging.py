"""Staging grants: netback finds a guest's pages mapped already, and needs no grant operation for a packet out of them.

A frontend that was offered a control ring lends a pool of its pages when it connects, and copies each packet into it
(`split/staging_pool`); the backend keeps them mapped (`split/gref_mappings`). What is lent otherwise goes the usual
way, so each of the two strategies stands on one that knows how.

Source: xen's docs/misc/netif-staging-grants.pandoc (2016-17) and the netback series of Joao Martins (2015-17), where
slot and mapping are released when the packet's destructor runs. That destructor is netback's ubuf_info, so clones, taps
and local sockets copy here as they do under dev-zerocopy.
"""

from lateack.nodes.errors import MemoryExhausted
from lateack.nodes.memory.netif import NETIF_RSP_OKAY
from lateack.nodes.split.gref_mappings import GrefMapping, GrefMappings
from lateack.nodes.stack.lifetime import Frag, UbufInfo
from lateack.nodes.stack.skb import SkBuff, alloc_skb, kfree_skb, skb_put
from lateack.nodes.strategies.backend import (
    XEN_NETBACK_TX_COPY_LEN,
    BackendKernel,
    DevZerocopy,
    GrantCopy,
    TxSlot,
    Vif,
)


class StagedLoan:
    """The pool pages of one packet while the stack has them, and the slots to answer when it lets go.

    Without a vif there is nobody to answer: netback has died since.
    """

    __slots__ = ("mappings", "slots", "table", "vif")

    def __init__(self, vif: Vif, slots: list[TxSlot], table: GrefMappings, mappings: list[GrefMapping]) -> None:
        self.vif: Vif | None = vif
        self.slots = slots
        self.table = table
        self.mappings = mappings


class StagingGrants(DevZerocopy):
    """Shows the stack the pool's own pages, mapped for as long as the interface lives.

    Nobody ever touches an unmapped page here, not even after netback died: a mapping goes with its last packet. The
    price of a mistake is silence: an answer that came too early would let the guest refill the page under the stack.
    """

    name = "staging-grants"
    summary = "the guest copies into pages that stay mapped, and the stack is shown those"
    wants_staging = True

    def __init__(self, kernel: BackendKernel) -> None:
        super().__init__(kernel)
        self.staged: dict[StagedLoan, None] = {}

    def admit(self, vif: Vif, slots: list[TxSlot]) -> SkBuff | None:
        """Copy the header with the CPU and show the rest where it lies; what is not of the pool is mapped."""
        table = vif.staging
        mappings = None if table is None else table.find([slot.gref for slot in slots])
        if table is None or mappings is None:
            return super().admit(vif, slots)
        skb = alloc_skb(self.kernel.slab)
        take_header(skb, slots[0], mappings[0])
        if not slots[0].size:
            vif.respond(slots[0], NETIF_RSP_OKAY)
            slots, mappings = slots[1:], mappings[1:]
        if slots:
            self._show(skb, StagedLoan(vif, slots, table, mappings))
        return skb

    def zerocopy_complete(self, token: object, success: bool) -> None:
        """The packet's data block is gone: give the mappings back, and answer when the burst is over."""
        if not isinstance(token, StagedLoan):
            super().zerocopy_complete(token, success)
            return
        if success:
            self.success += 1
        else:
            self.fail += 1
        for mapping in token.mappings:
            token.table.put(mapping)
        del self.staged[token]
        if token.vif is not None:
            token.vif.released += token.slots

    def settle(self, vif: Vif) -> None:
        """Answer what lay in the pool, for which there is nothing to unmap; the rest as dev-zerocopy does."""
        staged = [slot for slot in vif.released if slot.page is None]
        if staged:
            vif.released = [slot for slot in vif.released if slot.page is not None]
            for slot in staged:
                vif.respond(slot, NETIF_RSP_OKAY)
        super().settle(vif)

    def in_flight(self, vif: Vif | None = None) -> int:
        """Packets sent up and not yet called back, out of the pool and otherwise."""
        owners = [loan.vif for loan in self.staged if loan.vif is not None]
        return super().in_flight(vif) + (len(owners) if vif is None else sum(owner is vif for owner in owners))

    def forget(self, vif: Vif) -> None:
        """netback died: the table lets go of the pool, but what packets show stays mapped until they are freed."""
        vif.released = [slot for slot in vif.released if slot.page is not None]
        for loan in self.staged:
            if loan.vif is vif:
                loan.vif = None
        if vif.staging is not None:
            vif.staging.close()
        super().forget(vif)

    def kept_mappings(self) -> set[int]:
        """Return the handles of the pages that packets show: `xenvif_put_grant` undoes each with its last packet."""
        return {mapping.handle for loan in self.staged for mapping in loan.mappings}

    def _show(self, skb: SkBuff, loan: StagedLoan) -> None:
        shinfo = skb.shinfo
        for slot, mapping in zip(loan.slots, loan.mappings, strict=True):
            loan.table.get(mapping)
            mapping.page.refs += 1
            shinfo.frags.append(Frag(mapping.page, slot.offset, slot.size))
        shinfo.shared_frag = True
        shinfo.ubuf = UbufInfo(self, loan)
        self.staged[loan] = None
        self.sent += 1


class StagingGrantsCopy(GrantCopy):
    """Copies out of the pool with the CPU, so that the guest has its slot back at once: no hypercall, two copies."""

    name = "staging-grants-copy"
    summary = "the guest copies into pages that stay mapped, the backend copies out of them"
    wants_staging = True

    def admit(self, vif: Vif, slots: list[TxSlot]) -> SkBuff | None:
        """Copy header and fragments out of the pool; what is not of the pool is copied by the hypervisor."""
        table = vif.staging
        mappings = None if table is None else table.find([slot.gref for slot in slots])
        if mappings is None:
            return super().admit(vif, slots)
        kernel = self.kernel
        skb = alloc_skb(kernel.slab)
        take_header(skb, slots[0], mappings[0])
        for index, (slot, mapping) in enumerate(zip(slots, mappings, strict=True)):
            if not slot.size:
                continue
            try:
                page, source = kernel.pool.alloc(), mapping.page
            except MemoryExhausted:
                kfree_skb(skb)
                raise
            page.memory.write(page.frame, 0, source.memory.window(source.frame, slot.offset, slot.size))
            skb.shinfo.frags.append(Frag(page, 0, slot.size))
            if index:  # the first slot is the linear area, as under grant-copy
                kernel.copied(slot.size)
        for slot in slots:
            vif.respond(slot, NETIF_RSP_OKAY)
        return skb

    def forget(self, vif: Vif) -> None:
        """Let go of the pool."""
        if vif.staging is not None:
            vif.staging.close()


def take_header(skb: SkBuff, slot: TxSlot, mapping: GrefMapping) -> None:
    """Copy a packet's first bytes out of a mapped page: a memcpy where others ask the hypervisor."""
    size = min(slot.size, XEN_NETBACK_TX_COPY_LEN)
    page = mapping.page
    skb_put(skb, page.memory.read(page.frame, slot.offset, size))
    slot.offset += size
    slot.size -= size
