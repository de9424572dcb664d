"""Xen's split drivers, half in the guest and half in the backend domain, and the handshake between the halves.

The network's: netfront, netback*, xenbus. The disk's: blkfront, blkback, nfs_disk (what a disk is made of here), vbd.
"""
