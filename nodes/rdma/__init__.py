"""An RDMA adapter and NFS over it: bytes are read out of a host's memory by whoever was given the right to do so.

Read in this order: packets, memory_region (the right to read), work, queue_pair and responder (the two sides of a
connection), adapter; connection and connector (how one is made); rpc_rdma, lending, nfs_rdma.
"""
