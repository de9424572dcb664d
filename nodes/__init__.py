"""The machines and what they are made of. Nothing here knows a clock, a socket, Ray, gRPC or a scenario.

Reading order: node (the contract), messages, facts; memory/ (pages, grants, rings); stack/lifetime and stack/skb* (who
uses a page), stack/tcp*, egress and nic; strategies/ (when is a page finished with?); application; storage/ (what is
written through, and disks) and nfs/, with iscsi/ and replication/ beside it (the protocols); client and service (what
most hosts have in common, on either side); split/ (the two halves of a driver); rules, gates and crash; then the
machines: guest, backend, network, server. The other machines come after them: metal and loopback (no hypervisor),
block_guest and block_backend (a disk), rdma/, rdma_host and rdma_server (no stack). Machines never import one another;
they meet in messages only.
"""
