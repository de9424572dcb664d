"""A host with an RDMA adapter whose calls are fenced before they are given up, and wait for nothing else."""

from lateack import RdmaStrategy
from lateack.nodes.strategies.rdma import RdmaWrite


class FenceFirst(RdmaStrategy):
    """The half of the repair that needs no patience: nobody reads by key what its caller has back."""

    name = "fence-first"
    summary = "takes the server's right to read back before a call is given up; completes on the reply"

    def aborted(self, write: RdmaWrite) -> None:
        """The caller gave up: revoke the key, and only then give the buffer back."""
        self.kernel.invalidate(write)
        self.kernel.complete(write)
