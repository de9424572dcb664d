"""When is a page finished with? Each strategy is one answer: the guest's (who gives the application its buffer back)
and the backend's (when netback answers the guest). Built-in ones and a user's own come in through the same door."""

from lateack.nodes.strategies.backend import BackendStrategy, DevZerocopy, GrantCopy
from lateack.nodes.strategies.destructors import BackendFragDestructor, NoClone, ShinfoDestructor, SkbDestructor
from lateack.nodes.strategies.early import EarlyResponse, EarlyUnmap
from lateack.nodes.strategies.foreign import PageForeign
from lateack.nodes.strategies.guest import FragDestructors, FullCopy, GuestStrategy, OnReply
from lateack.nodes.strategies.guest_destructors import CloneDestructors, NoCloneDestructors, QueueDestructors
from lateack.nodes.strategies.guest_zerocopy import CopyOnRetransmit, MsgZerocopy, ZerocopyOnReply
from lateack.nodes.strategies.lazy_copy import LazyCopy
from lateack.nodes.strategies.rdma import Bounce, InvalidateFirst, RdmaOnReply, RdmaStrategy, SendCompletion
from lateack.nodes.strategies.staging import StagingGrants, StagingGrantsCopy

GUEST_STRATEGIES: dict[str, type[GuestStrategy]] = {
    strategy.name: strategy
    for strategy in (
        OnReply,
        QueueDestructors,
        CloneDestructors,
        NoCloneDestructors,
        ZerocopyOnReply,
        CopyOnRetransmit,
        FragDestructors,
        MsgZerocopy,
        FullCopy,
    )
}
BACKEND_STRATEGIES: dict[str, type[BackendStrategy]] = {
    strategy.name: strategy
    for strategy in (
        EarlyResponse,
        EarlyUnmap,
        SkbDestructor,
        NoClone,
        ShinfoDestructor,
        GrantCopy,
        PageForeign,
        LazyCopy,
        BackendFragDestructor,
        DevZerocopy,
        StagingGrants,
        StagingGrantsCopy,
    )
}

RDMA_STRATEGIES: dict[str, type[RdmaStrategy]] = {
    strategy.name: strategy for strategy in (RdmaOnReply, SendCompletion, InvalidateFirst, Bounce)
}

__all__ = [
    "BACKEND_STRATEGIES", "GUEST_STRATEGIES", "RDMA_STRATEGIES", "BackendStrategy", "GuestStrategy", "RdmaStrategy",
]  # fmt: skip
