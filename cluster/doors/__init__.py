"""Real doors: parts of the emulator that software of others can use, over the sockets of this computer.

Read in this order: command (what `lateack serve` offers); serving (a directory), nfs_door (its loop), connection (one
client) and listening (the sockets) for NFS; netback_door (a backend for frontends over a Unix socket).
"""
