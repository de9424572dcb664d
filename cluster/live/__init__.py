"""The world on Ray: a process for each machine, gRPC between them, pages in memory that guest and backend really share.

In reading order: `plan` (what a run is made of), `session` (runs), `crew` (its actors), `host` and `carrier` (the
process that carries machines), `wiring` with `links` (gRPC) and `channels` (shared memory, event channels), `timers`,
`stores`; `ray_cluster`, `address` and `processes` (a cluster is brought up or joined). Nothing else in lateack imports
ray or grpc but the benchmark, and the machines notice nothing.

Three planes, by what a message costs. Ray's calls take a millisecond each: they place, start, ask and collect, and are
never on the way of a packet. gRPC's streams cost some 100 us a message and next to nothing a frame: they carry frames
in batches, and what the machines tell one another. Guest and backend meet in memory and wake each other by eventfd.
Nothing that a run makes has a name, but for the sockets: whatever is killed, however hard, nothing stays behind.
"""

from lateack.cluster.live.session import LiveSession

__all__ = ["LiveSession"]
