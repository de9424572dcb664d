"""A file in memory and the places where it has a name."""

from lateack.nodes.storage.memory_file import MemoryFile


def test_a_place_is_replaced_where_it_stands() -> None:
    """The first one, or one of the others."""
    file = MemoryFile(7, b"handle", 0o107644, 9)
    file.parent, file.name = b"d", b"first"
    file.other_places = [(b"d", b"second"), (b"e", b"first")]

    file.replace((b"d", b"first"), (b"d", b"moved"))
    file.replace((b"e", b"first"), (b"e", b"moved"))

    assert (file.parent, file.name) == (b"d", b"moved")
    assert file.other_places == [(b"d", b"second"), (b"e", b"moved")]
    assert (file.mode, file.mtime) == (0o7644, 9)
