"""Xen's split network driver: netfront in the guest, netback in the backend domain, and the handshake between them."""
