"""What the two halves of a block driver tell each other through xenstore."""

from lateack.nodes.split import vbd


def test_the_frontend_publishes_its_ring_and_its_layout() -> None:
    """The keys are those under device/vbd/51712, and the length that stands in for a toolstack's image."""
    keys = vbd.frontend_keys(8, 70_000)

    assert (keys["ring-ref"], keys["protocol"], keys["image-bytes"]) == (8, "x86_64-abi", 70_000)


def test_a_disk_counts_a_last_sector_that_its_image_does_not_fill() -> None:
    """Sectors are 512 bytes, and a guest can only write whole ones."""
    assert [vbd.disk_keys(length)["sectors"] for length in (0, 1, 512, 513)] == [0, 1, 1, 2]


def test_the_backend_promises_nothing_that_it_cannot_do() -> None:
    """A frontend must neither flush, nor order writes, nor leave pages mapped."""
    assert set(vbd.backend_features().values()) == {0}


def test_the_fixed_frames_do_not_overlap() -> None:
    """The grant table, the ring and the first free frame are three different places."""
    assert len({vbd.GRANT_FRAME, vbd.RING_FRAME, vbd.FIRST_FREE_FRAME}) == 3
