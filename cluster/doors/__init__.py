"""Real doors: parts of the emulator that software of others can use, over the sockets of this computer.

Read in this order: command (what `lateack serve` offers), nfs_door (the NFS server), netback_door (a backend for
frontends over a Unix socket).
"""
