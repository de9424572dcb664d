"""How fast the worlds are, each figure beside what the same machine does without us.

In reading order: `figures` (what a figure is), `virtual_world`, `floor` (the live path without a protocol),
`live_world`, `commands` (from command to verdict), `report` (what people see), `command` (what `lateack bench` does).

A number of one machine says little on another, and on a busy one little at all: read the ratios. Each figure and its
floor are measured in turns, in the same rounds. Nothing here is asserted: a benchmark that fails on a slow computer is
switched off on all of them.
"""

from lateack.cluster.bench.command import main

__all__ = ["main"]
