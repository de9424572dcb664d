"""What hosts with RDMA adapters are told at boot, and their server; see `orders`."""

from lateack.cluster.orders import NETWORK, Orders
from lateack.nodes.application import frames_needed
from lateack.nodes.errors import LateackError
from lateack.nodes.memory.pages import PAGE_SIZE
from lateack.nodes.nfs.nfs import FILE_SYNC, UNSTABLE
from lateack.nodes.node import MS
from lateack.nodes.rdma.lending import RETIRED_PER_BUFFER
from lateack.nodes.rdma.work import RdmaParameters
from lateack.nodes.rdma_host import RdmaHostConfig

FIRST_PSNS = 0x7FFF
"""Connections begin to number their packets below this, and the server's side far above (see rdma_server)."""


class RdmaOrders:
    """The configurations of a scenario of kind `rdma`, next to those that every kind has."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self._check_memory()
        rdma = orders.scenario.rdma
        self.parameters = RdmaParameters(rdma.path_mtu, rdma.ack_timeout_ms * MS, rdma.retries)

    def _check_memory(self) -> None:
        """See that there is room for the buffers and for a copy of each, and of those whose calls were given up."""
        scenario = self.orders.scenario
        workload = scenario.workload
        copies = workload.buffers + (RETIRED_PER_BUFFER * workload.buffers + 1 if workload.abort else 0)
        needed = frames_needed(workload.buffers, workload.write_size, workload.reuse)
        needed += copies * (workload.write_size // PAGE_SIZE)
        if scenario.guests.memory_pages < needed:
            raise LateackError(
                f"guests.memory_pages is {scenario.guests.memory_pages}, but {workload.buffers} buffers of "
                f"{workload.write_size} bytes, and copies of what an adapter may still read, need at least {needed}"
            )

    def host(self, name: str, root: bytes, seed: int) -> RdmaHostConfig:
        """Return what a host is told; *root* is the handle that it mounts, *seed* chooses its numbers."""
        orders, workload = self.orders, self.orders.scenario.workload
        numbers = orders.client(name, root, seed)
        return RdmaHostConfig(
            name=name,
            network=NETWORK,
            address=orders.addresses.others[name],
            server=orders.addresses.server,
            addresses=orders.by_ip,
            rpc=orders.timeouts(),
            root=root,
            file=orders.files[name],
            rdma=self.parameters,
            inline_bytes=orders.scenario.rdma.inline_bytes,
            unmount=workload.unmount,
            stable=FILE_SYNC if workload.stable == "file-sync" else UNSTABLE,
            buffers=workload.buffers,
            write_size=workload.write_size,
            first_xid=numbers.first_xid,
            first_psn=1 + numbers.isn % FIRST_PSNS,
            rules=orders.rules[name],
            reuse=workload.reuse,
            passes=workload.passes,
            abort=workload.abort,
            stable_pages=workload.stable_pages,
        )
