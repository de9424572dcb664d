"""The shapes that immutable and frequent data come in: a class that derives from one of these is complete.

The options are inherited and not repeated behind a class, because mypyc, which can compile the machines (`make fast`),
drops the keywords of a class statement without a word. Messages, facts, events and effects write theirs out; their
modules are never compiled.
"""

from typing import dataclass_transform

import msgspec


@dataclass_transform(frozen_default=True)
class Record(msgspec.Struct, frozen=True):
    """What never changes."""


@dataclass_transform(frozen_default=True)
class LightRecord(msgspec.Struct, frozen=True, gc=False):
    """What never changes, is made by the million and is never part of a cycle: the garbage collector passes it by."""


@dataclass_transform()
class LightState(msgspec.Struct, gc=False):
    """What its owner changes, and the garbage collector passes by."""
