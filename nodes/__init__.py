"""The machines and what they are made of. Nothing here knows a clock, a socket, Ray, gRPC or a scenario.

Reading order: node (the contract), messages, facts; memory/ (pages, grants, rings); stack/lifetime and stack/skb* (who
uses a page), stack/tcp*, egress and nic; strategies/ (when is a page finished with?); application; storage/ (RPC and
NFS); split/ (netfront and netback); rules, gates and crash; then the four machines: guest, backend, network, server. Machines
never import one another; they meet in messages only.
"""
