"""What an NFS server tells its owner: events that the owner turns into facts."""

from __future__ import annotations

from lateack.nodes.nfs.drc import Client
from lateack.nodes.records import LightRecord


class WriteExecuted(LightRecord):
    """A WRITE's bytes went into a file; `digest` is the xxh3_64 of the bytes written."""

    xid: int
    client: Client
    name: str
    offset: int
    count: int
    stable: int
    digest: int


class CommitExecuted(LightRecord):
    """A COMMIT made a file's bytes stable."""

    xid: int
    client: Client
    name: str
    offset: int
    count: int


class OperationFailed(LightRecord):
    """A call was executed and failed with an nfsstat3."""

    xid: int
    client: Client
    proc: int
    status: int


class DuplicateSeen(LightRecord):
    """A modifying call came again; `outcome` is replied, dropped or executed-again.

    `payload_differs` says whether its arguments were other than those of the first.
    """

    xid: int
    client: Client
    proc: int
    outcome: str
    payload_differs: bool


ServerEvent = WriteExecuted | CommitExecuted | OperationFailed | DuplicateSeen
