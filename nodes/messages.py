"""Everything that machines say to each other; what crosses between two processes is one of these and nothing else."""

import msgspec

from lateack.nodes.facts import AnyFact


class Frames(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A burst of raw Ethernet frames, in the order in which they left the sender."""

    frames: tuple[bytes, ...]


class Notify(msgspec.Struct, frozen=True, gc=False, tag=True):
    """An event channel was kicked: one pending bit, so that many kicks may arrive as one."""

    port: int


class Xenbus(msgspec.Struct, frozen=True, tag=True):
    """One end of a split driver has changed its xenbus state (xen/io/xenbus.h) and published these xenstore keys."""

    state: int
    keys: dict[str, str | int]


class Noticed(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A machine has recorded a fact that a rule of the receiver waits for."""

    node: str
    fact: AnyFact


Message = Frames | Notify | Xenbus | Noticed
