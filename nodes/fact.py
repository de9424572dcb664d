"""What a fact is: the base of everything that machines record (see `facts`)."""

import msgspec


class Fact(msgspec.Struct, frozen=True, gc=False, tag=True):
    """A past event that a machine vouches for."""
