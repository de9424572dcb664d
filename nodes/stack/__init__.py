"""The network stack of a host: packets, socket buffers and their lifetime, TCP, UDP and the NIC."""
