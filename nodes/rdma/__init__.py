"""An RDMA adapter and NFS over it: bytes are read out of a host's memory by whoever was given the right to do so."""
