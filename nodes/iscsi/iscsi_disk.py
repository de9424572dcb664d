"""The disk behind an iSCSI target: a file of the store, in blocks of 512 bytes, and the commands that it can do.

The file is as long as was wanted, to the byte; the disk's last block may stick out of it. What is written there is not
kept, and reads as zeros (a backing file whose length is no multiple of the block's, as losetup has it).
"""

from lateack.nodes.iscsi import scsi
from lateack.nodes.iscsi.scsi import BLOCK_BYTES, ScsiError
from lateack.nodes.nfs.nfs import NFS3ERR_FBIG, NFS3ERR_NOSPC, NfsError, SetAttributes
from lateack.nodes.node import Time
from lateack.nodes.storage.store import Store
from lateack.nodes.storage.volume import Volume

BLOCKS_MAX = 1 << 14
"""The most blocks that one command may move: 8 MiB."""


class Disk(Volume):
    """One logical unit; `size` is the length of its file, `blocks` that of the disk."""

    __slots__ = ("blocks", "size")

    def __init__(self, store: Store, name: str, size: int | None, now: Time) -> None:
        """Open the file, made or cut or extended to *size* bytes; None leaves it as it is. Raises NfsError."""
        super().__init__(store, name, now)
        there = store.getattr(self.handle).size
        if size is not None and there != size:
            store.setattr(self.handle, SetAttributes(size=size), now)
        self.size = there if size is None else size
        self.blocks = max(1, scsi.blocks_of(self.size))

    def check(self, descriptor: bytes) -> tuple[int, int]:
        """Return the bytes (start, count) that a READ or WRITE is about; raises ScsiError if they are not all here."""
        block, count = scsi.extent_of(descriptor)
        if block + count > self.blocks:
            raise ScsiError(scsi.OUT_OF_RANGE)
        if count > BLOCKS_MAX:
            raise ScsiError(scsi.WRONG_FIELD)
        return block * BLOCK_BYTES, count * BLOCK_BYTES

    def put(self, start: int, data: bytes, now: Time) -> bytes:
        """Write blocks, and return those of their bytes that lie in the file; raises ScsiError."""
        kept = data[: max(self.size - start, 0)]
        try:
            if kept:
                self.write(start, kept, now)
        except (NfsError, OSError) as error:
            full = isinstance(error, NfsError) and error.status in (NFS3ERR_NOSPC, NFS3ERR_FBIG)
            raise ScsiError(scsi.NO_SPACE if full else scsi.WRITE_FAILED) from error
        return kept

    def get(self, descriptor: bytes) -> bytes:
        """Return what a command reads; raises ScsiError if it is none that reads."""
        operation = descriptor[0]
        if operation in scsi.READ_COMMANDS:
            start, count = self.check(descriptor)
            return self.store.read(self.handle, start, count).ljust(count, b"\0")
        if operation == scsi.INQUIRY:
            if descriptor[1] & 1:
                raise ScsiError(scsi.WRONG_FIELD)  # no page of vital product data
            return scsi.inquiry_data()[: int.from_bytes(descriptor[3:5], "big")]
        if operation == scsi.READ_CAPACITY_10:
            return scsi.capacity_10(self.blocks)
        if operation == scsi.SERVICE_ACTION_IN_16 and descriptor[1] & 0x1F == scsi.READ_CAPACITY_16:
            return scsi.capacity_16(self.blocks)[: int.from_bytes(descriptor[10:14], "big")]
        if operation == scsi.REPORT_LUNS:
            return scsi.one_unit()
        raise ScsiError(scsi.NOT_SUPPORTED)
