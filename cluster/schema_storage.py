"""The keys of storage protocols: the server and its caches, RPC's timers, iSCSI, DRBD, Ceph and RDMA."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt

from lateack.cluster.schema_faults import Section

Milliseconds = Annotated[StrictInt, Field(ge=1, le=86_400_000)]


class Server(Section):
    """The NFS server and its duplicate request cache (fs/nfsd/nfscache.c)."""

    drc: Literal["checksum", "no-checksum", "none", "ganesha-like"] = Field(
        default="checksum",
        description="what tells a repeated call: xid and 256 bytes of arguments (2013), xid alone, nothing; "
        "ganesha-like keeps a table per connection, whose replies go as newer ones come and not with time",
    )
    drc_entries: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = Field(default=1024, description="replies remembered")
    drc_expiry_s: Annotated[StrictInt, Field(ge=1, le=86_400)] = Field(
        default=120,
        description="how long they are remembered; ganesha-like: how long the table of a client that is gone is kept",
    )
    rto_min_ms: Milliseconds | None = Field(
        default=None, description="the server's own shortest retransmission timeout; the guests' unless it is given"
    )
    handle_bytes: Annotated[StrictInt, Field(ge=28, le=64, multiple_of=4)] = Field(
        default=36, description="length of a file handle; moves the payload within the 256 bytes that the cache sums"
    )
    drc_port: StrictBool = Field(
        default=True, description="whether the cache's key holds the client's port, which a new connection may change"
    )
    drc_high_water: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = Field(
        default=64, description="ganesha-like: the replies that a table holds before the oldest may go"
    )
    execute_us: Annotated[StrictInt, Field(ge=0, le=60_000_000)] = Field(
        default=0, description="how long the server executes a call; one that comes again meanwhile is dropped"
    )
    reboot_ms: Milliseconds = Field(default=200, description="how long a server that crashed is gone")


class Rpc(Section):
    """The RPC client's timeouts (include/linux/nfs_fs.h)."""

    timeo_ms: Milliseconds | None = Field(
        default=None, description="first timeout; the protocol's own: TCP 60000, UDP 1100"
    )
    retrans: Annotated[StrictInt, Field(ge=0, le=1000)] | None = Field(
        default=None, description="repeats before a major timeout; the protocol's own: TCP 2, UDP 3"
    )
    soft: StrictBool = Field(default=False, description="give up at a major timeout instead of trying for ever")
    reconnect: Literal["never", "same-port", "new-port"] = Field(
        default="never",
        description="what a client does whose connection is lost: fails; connects anew from the port it had, as Linux "
        "does; or from the next one",
    )


class Iscsi(Section):
    """The iSCSI session (RFC 7143): what initiator and target agree on at login."""

    data_digest: StrictBool = Field(default=False, description="CRC32C over every data segment")
    header_digest: StrictBool = Field(default=False, description="CRC32C over every basic header segment")
    initial_r2t: StrictBool = Field(default=True, description="whether the first data, too, waits for an R2T")
    immediate_data: StrictBool = Field(default=True, description="whether data may come with the command itself")
    first_burst: Annotated[StrictInt, Field(ge=512, le=2**24 - 1)] = Field(
        default=65_536, description="FirstBurstLength: bytes before the first R2T"
    )
    max_burst: Annotated[StrictInt, Field(ge=512, le=2**24 - 1)] = Field(
        default=262_144, description="MaxBurstLength: bytes that one R2T may ask for"
    )
    max_segment: Annotated[StrictInt, Field(ge=512, le=2**24 - 1)] = Field(
        default=8_192, description="MaxRecvDataSegmentLength: bytes of one PDU"
    )


class Drbd(Section):
    """DRBD's replication link: when a write counts as done, and whether its data is summed."""

    protocol: Literal["A", "B", "C"] = Field(
        default="C",
        description="a write is done when it is in the send buffer (A), at the peer (B), written there (C)",
    )
    digest: StrictBool = Field(default=True, description="data-integrity-alg: a sum over each write's pages")


class Ceph(Section):
    """Ceph's messenger: whether the data of a message is summed."""

    crc: StrictBool = Field(default=True, description="ms_crc_data: a CRC32C over the data in each message's footer")


class Rdma(Section):
    """The reliable connection of two RDMA adapters, and how NFS uses it."""

    inline_bytes: Annotated[StrictInt, Field(ge=0, le=2**20)] = Field(
        default=4096, description="the longest WRITE that is sent inline; longer ones the server reads by itself"
    )
    path_mtu: Literal[256, 512, 1024, 2048, 4096] = Field(default=1024, description="payload bytes of one packet")
    ack_timeout_ms: Milliseconds = Field(default=100, description="how long the adapter waits for an acknowledgement")
    retries: Annotated[StrictInt, Field(ge=0, le=7)] = Field(
        default=7, description="retry_cnt: so often it sends again before the queue pair fails"
    )
    remote_invalidation: StrictBool = Field(
        default=False, description="whether the server takes back its right to read with each reply (RFC 8167)"
    )
