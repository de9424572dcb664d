"""When is a page finished with? Each strategy is one answer: the guest's (who gives the application its buffer back)
and the backend's (when netback answers the guest). Built-in ones and a user's own come in through the same door."""

from lateack.nodes.strategies.backend import BackendStrategy, DevZerocopy, GrantCopy
from lateack.nodes.strategies.guest import FragDestructors, FullCopy, GuestStrategy, OnReply

GUEST_STRATEGIES: dict[str, type[GuestStrategy]] = {
    strategy.name: strategy for strategy in (OnReply, FragDestructors, FullCopy)
}
BACKEND_STRATEGIES: dict[str, type[BackendStrategy]] = {
    strategy.name: strategy for strategy in (DevZerocopy, GrantCopy)
}

__all__ = ["BACKEND_STRATEGIES", "GUEST_STRATEGIES", "BackendStrategy", "GuestStrategy"]
