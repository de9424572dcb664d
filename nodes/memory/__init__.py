"""Guest memory and everything Xen lays out in it.

Read in this order: `pages` (frames and who refers to them), `grants` (the guest lends a frame), `hypervisor` (the host
maps or copies what was lent), `ring` (two sides share one page of slots), `netif` and `blkif` (what a network or block
slot says), and `abi` (the hypercalls' own structures, for a frontend that is not ours).
"""
