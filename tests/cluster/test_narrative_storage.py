"""What befalls connections, servers, sessions and registered memory is told, in its order, from real runs."""

import pytest

from lateack.cluster.experiment import run_experiment
from lateack.cluster.narrative import moments
from lateack.cluster.scenario import load
from tests.cluster.late_write import in_order, sentences


def told(story: str, *overrides: str) -> str:
    """Run a story in virtual time, and return all that is told of it."""
    return sentences(moments(run_experiment(load(story, list(overrides)), "virtual").trace))


def test_a_late_remote_read_is_told_from_the_key_to_the_file() -> None:
    """Registered, sent, given up, refilled, read, executed: and only then is the key taken back."""
    text = told("rdma-late-read")

    assert in_order(
        text,
        "The client registered frame 63 under key 0x00000100: by it the server's adapter reads there when it likes.",
        "Rule read began to hold frames back in the network: 1 in number.",
        "The adapter was through with the call itself, and not the server with the memory that it names.",
        "the application gave up on the call: the application had its buffer back.",
        "The application refilled frame 63, which the server might still read by its key",
        "guest1.nic answered the server's remote read with 1024 bytes of sequence",
        "put 4096 bytes into input.bin at offset 0",
        "Key 0x00000100 was invalidated",
    )


def test_a_revoked_key_comes_before_the_buffer_and_its_price_after() -> None:
    """Who takes the right back first is asked in vain, and has to connect anew."""
    text = told("rdma-late-read", "strategies.guest=invalidate-first")

    assert in_order(
        text,
        "the application had its buffer back, once the key to it was taken back.",
        "Key 0x00000100 was invalidated",
        "A remote read came with key 0x00000100, which was not valid any more: refused.",
        "The queue pair failed, and with it all that was under way",
        "The client connected anew, from port 49171",
    )


def test_a_bounced_write_is_read_late_and_right() -> None:
    """The copy is what was registered, so the call that nobody waits for is told as executed with its own bytes."""
    text = told("rdma-late-read", "strategies.guest=bounce")

    assert in_order(
        text,
        "The client copied the bytes into frame 0, and registered that, under key 0x00000100",
        "The application refilled frame 63, of which the packet has a copy",
        "and they are still right: a private copy had frozen them",
        "Key 0x00000100 was invalidated",
    )


def test_an_adapter_defers_and_repeats_in_its_own_name() -> None:
    """What Linux's stack does elsewhere, the adapter does here."""
    text = told("rdma-resend", "strategies.guest=send-completion")

    assert in_order(
        text,
        "the adapter queued the same bytes again",
        "The reply came, but the completion was deferred: the adapter still used the pages of the write.",
        "The last user of the pages let go",
    )


def test_a_queued_write_is_told_of_its_own_bytes() -> None:
    """Both writes were queued out of the same pages before either left: the stale packet is the first one's."""
    text = told("drbd-protocol-a")

    assert in_order(
        text,
        "The application wrote 32768 bytes at offset 0 of input.bin from frames 88-95: P_DATA, block id",
        "The write was completed after 0.000 ms, before any acknowledgement to it had come",
        "whose old bytes were still to be sent, with the file's bytes from 32768",
        "they are not the bytes that were handed over",
        "The digest over 32768 bytes for offset 0 did not fit them: disconnected.",
        "2 blocks that may differ went out once more, as the node's own disk has them",
        "The file is intact",
    )


def test_a_loop_of_failing_sums_says_how_often() -> None:
    """The first failure is told in full, the others are counted, and why the bytes pass in the end is said."""
    text = told("ceph-bad-crc")

    assert in_order(
        text,
        "although its write was not done",
        "The digest over 8192 bytes for offset 0 did not fit them: disconnected.\nand 2 more of the kind",
        "The client connected anew",
        "1 write that nobody had answered went out once more",
        "OSD write tid 0x1f3779b1 of guest1 put 8192 bytes into input.bin",
        "their digest fits: it was taken anew as they went out again",
        "The OSD reply completed the write",
    )
    assert "xid" not in text


def test_a_command_that_is_reissued_keeps_its_story() -> None:
    """A new session gives the write a new task tag, under which its answer comes."""
    text = told("iscsi-digest")

    assert in_order(
        text,
        "SCSI WRITE, task tag 0x1f3779b6",
        "The digest over 4096 bytes for offset 0 did not fit them",
        "The write went out again as a new command, task tag",
        "their digest fits: it was taken anew",
        "The SCSI response completed the write",
    )


def test_an_older_write_is_told_from_its_first_copy_to_its_second() -> None:
    """What lies on top of a write in the end is told from where it began."""
    text = told("reconnect-new-port")

    assert in_order(
        text,
        "The application wrote other bytes to the same place before",
        "Rule stray held a frame with its bytes back in the network.",
        "Rule firewall, a firewall that has forgotten 10.0.0.11:700>10.0.1.1:2049, told its sender that it was gone.",
        "The client connected anew, from port 701",
        "RPC sent the older call again, under its old xid.",
        "The application wrote 4096 bytes at offset 0 of input.bin from frame 63",
        "The server executed the older write",
        "it had executed that before, and its duplicate request cache did not know the call",
        "lies over it",
    )


def test_a_death_of_the_server_is_told_up_to_the_second_copy() -> None:
    """Death, return, a new connection, another verifier, and a new call."""
    text = told("server-restart")

    assert in_order(
        text,
        "The server died",
        "The server was back, over the same disk, with write verifier",
        "The client connected anew, from port",
        "The write verifier was another than before: the 4096 bytes at offset 0 may be lost",
        "The write went out again as a new call, xid",
        "The reply completed the write",
    )


@pytest.mark.parametrize(
    ("story", "again"), [("drbd-protocol-a", 2), ("iscsi-digest", 1), ("ceph-bad-crc", 3), ("server-restart", 2)]
)
def test_what_went_out_once_more_is_counted_in_every_protocol(story: str, again: int) -> None:
    """Calls repeated or issued anew, and blocks of a resync, are all things that somebody had to send again."""
    verdict = run_experiment(load(story), "virtual").verdict

    assert verdict.retransmitted_calls == again
