"""What a scenario's parts have to do with each other: machines, facts, frames, sizes, strategies."""

import pytest

from lateack.cluster.scenario import ScenarioError, load

MISFITS = {
    "faults.x={gate: backend.nic, since: {fact: FrameCaptured}}": "faults.x.since.fact names no fact: "
    "'FrameCaptured'; the nearest is 'FrameDropped'.",
    "workload.release=reply": (
        "workload.release means nothing unless workload.stable is unstable: no COMMIT is waited for."
    ),
    "faults.cut={reset: {protocol: udp}}": ("faults.cut.reset means nothing over udp: there is no connection to cut."),
    "faults.cut={reset: {from: gest1}}": "faults.cut.reset.from names no machine: 'gest1'; the nearest is 'guest1'.",
    "faults.acks.since.frame.from=guest2": "faults.acks.since.frame.from names no machine: 'guest2'; the nearest is "
    "'guest1'.",
    "faults.acks.hold.to=sever": "faults.acks.hold.to names no machine: 'sever'; the nearest is 'server'.",
    "faults.acks.until.0.node=backen": "faults.acks.until.0.node names no machine: 'backen'; the nearest is 'backend'.",
    "faults.acks.since.frame.rpc=WRIT": "faults.acks.since.frame.rpc names no storage message: 'WRIT'; the nearest is "
    "'WRITE'.",
    "faults.egress.until.0.fact=BufferFill": "faults.egress.until.0.fact names no fact: 'BufferFill'; the nearest is "
    "'BufferRefilled'.",
    "faults.acks.until.0.where.agin=1": (
        "faults.acks.until.0.where.agin names no field of Parked; the nearest is 'again'."
    ),
    "faults.acks.until.0.where.again=1": "faults.acks.until.0.where.again must be true or false, not 1.",
    "faults.acks.until.0.where.seq=first": "faults.acks.until.0.where.seq must be a whole number, not 'first'.",
    "requires.0.fact=Timeout": "requires.0.fact names no fact: 'Timeout'; the nearest is 'CallTimedOut'.",
    "expect.1.when={server.drk: none}": "expect.1.when.server.drk names no key of a scenario; the nearest is "
    "'server.drc'.",
    "expect.1.when={seed.low: 1}": "expect.1.when.seed.low names no key of a scenario; seed has no keys of its own.",
    "expect.1.when={server.drc: [none, some]}": "expect.1.when.server.drc must be checksum, no-checksum, none "
    "or ganesha-like, not 'some'; the nearest is 'none'.",
    "workload.common_prefix=5000": "workload.common_prefix is 5000, longer than the write_size of 4096.",
    "workload.buffers=96": "workload.buffers needs 96 pages, and guests.memory_pages gives 32.",
    "tcp.rto_min_ms=130000": "tcp.rto_min_ms is 130000, above the rto_max_ms of 120000.",
    "datagrams=[{to: guest1}]": "datagrams.0.to is 'guest1', who sends them; name 'host' or another guest.",
    "faults.egress.gate=backend.tap": (
        "faults.egress.gate names backend.tap, where nothing waits without host.tap: true."
    ),
    "faults.egress.gate=guest1.tap": (
        "faults.egress.gate names guest1.tap, where nothing waits without guests.tap: true."
    ),
    "faults.egress.gate=backend.socket": (
        "faults.egress.gate names backend.socket, where nothing waits without datagrams to 'host'."
    ),
    "faults.egress={crash: server, until: {fact: ReplyMatched}}": (
        "faults.egress.until means nothing: the server is back by itself, after server.reboot_ms."
    ),
    "strategies.guest=on-repli": "strategies.guest names no strategy: 'on-repli'; the nearest is 'on-reply'.",
}


@pytest.mark.parametrize(("override", "sentence"), MISFITS.items())
def test_parts_that_do_not_fit_are_told(override: str, sentence: str) -> None:
    """A name or value that is right by itself but wrong in this scenario is refused like any other mistake."""
    with pytest.raises(ScenarioError) as caught:
        load("late-ack", [override])

    assert str(caught.value) == f"--set {override}: {sentence}"


MEANINGLESS = {
    ("iscsi-digest", "server.drc=none"): "server.drc means nothing with iscsi, only with nfs.",
    ("drbd-protocol-a", "rpc.reconnect=new-port"): "rpc.reconnect means nothing with drbd, only with nfs.",
    ("ceph-bad-crc", "workload.stable=unstable"): "workload.stable means nothing with ceph, only with nfs.",
    ("late-ack", "strategies.guest=bounce"): (
        "strategies.guest names a strategy of hosts with RDMA adapters, 'bounce', and kind is split: take a story of "
        "kind rdma."
    ),
    ("udp-retransmit", "rpc.reconnect=same-port"): (
        "rpc.reconnect means nothing where workload.transport is udp: there is no connection to lose."
    ),
    ("block-path", "host.mirror=true"): "host.mirror means nothing where kind is block, only where it is split.",
    ("block-path", "guests.tap=true"): (
        "guests.tap means nothing where kind is block, only where it is split, metal or loopback."
    ),
    ("loopback-server", "host.device=tun"): (
        "host.device means nothing where kind is loopback, only where it is split, metal or block."
    ),
    ("late-ack-metal", "faults.egress={crash: backend}"): (
        "faults.egress.crash names no machine to which that can be done: 'backend'; the nearest is 'server'."
    ),
    ("loopback-server", "faults={death: {crash: server}}"): (
        "faults.death.crash names no machine to which that can be done: 'server': a scenario of this kind has none."
    ),
}


@pytest.mark.parametrize(("story", "override", "sentence"), [(*key, told) for key, told in MEANINGLESS.items()])
def test_what_means_nothing_in_a_kind_is_told(story: str, override: str, sentence: str) -> None:
    """Nobody shall believe that a run had what its kind does not have."""
    with pytest.raises(ScenarioError) as caught:
        load(story, [override])

    assert str(caught.value) == f"--set {override}: {sentence}"


def test_more_guests_make_more_names() -> None:
    """Machine names follow the number of guests."""
    scenario = load("late-ack", ["guests.count=2", "faults.acks.hold.to=guest2"])

    assert scenario.faults["acks"].hold is not None
    assert scenario.faults["acks"].hold.target == "guest2"
