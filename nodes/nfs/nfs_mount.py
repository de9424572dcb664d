"""What an NFS client is told when it mounts."""

from lateack.nodes.nfs.rpc_client import RpcTimeouts
from lateack.nodes.records import Record


class NfsMount(Record):
    """What the client is told: who it is, the server's address and root, and how to talk (the mount options of nfs(5)).

    `stable` is what a WRITE asks for (RFC 1813 3.3.7); without `unmount` the connection outlives the copy. `aborts`
    """

    client: str
    server: int
    root: bytes
    transport: str
    timeouts: RpcTimeouts
    stable: int
    first_xid: int
    unmount: bool
    aborts: bool = False
    pins: bool = False
    reconnect: str = "never"
    releases_early: bool = False
