"""What an iSCSI initiator and its target are told at boot, and what memory their PDUs need; see `orders`."""

from lateack.cluster.scenario import Scenario
from lateack.nodes.iscsi.iscsi_login import IscsiParameters


def iscsi_parameters(scenario: Scenario) -> IscsiParameters:
    """Return what either side wants of a session."""
    terms = scenario.iscsi
    return IscsiParameters(
        terms.data_digest, terms.header_digest, terms.initial_r2t, terms.immediate_data, terms.first_burst,
        terms.max_burst, terms.max_segment,
    )  # fmt: skip


def pages_for_pdus(scenario: Scenario) -> int:
    """Return how many frames an initiator needs besides its buffers: heads of PDUs, and pages for digests and padding.

    As many again for what a lost connection has left below it.
    """
    if scenario.workload.protocol != "iscsi":
        return 0
    terms, workload = scenario.iscsi, scenario.workload
    pdus = workload.buffers * (-(-workload.write_size // min(terms.max_segment, terms.max_burst)) + 1)
    padded = any(length % 4 for length in (terms.first_burst, terms.max_burst, terms.max_segment))
    return pdus * (3 if terms.data_digest or padded else 1)
