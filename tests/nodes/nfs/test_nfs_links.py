"""Symbolic links, hard links and special files: their bytes, and what the server does about them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from lateack.nodes.nfs import nfs, nfs_calls, nfs_links, nfs_replies
from lateack.nodes.nfs.nfs_server import NfsServer
from lateack.nodes.nfs.xdr import XdrError
from lateack.nodes.storage.directory_store import DirectoryStore
from lateack.nodes.storage.store import Store
from tests.nodes.nfs.conversation import Conversation

handles = st.binary(max_size=nfs.HANDLE_BYTES_MAX)
names = st.binary(max_size=300)

SYMLINK = bytes.fromhex(
    "00000004 61626364 00000003 6c6e6b00"  # directory, name
    "00000000 00000000 00000000 00000000 00000000 00000000"  # no attributes
    "00000005 2e2e2f78 79000000"  # the text
)
LINK = bytes.fromhex("00000002 66690000 00000004 61626364 00000003 6c6e6b00")
DEVICE = bytes.fromhex(
    "00000004 61626364 00000003 6465760000000004"  # directory, name, NF3CHR
    "00000000 00000000 00000000 00000000 00000000 00000000"
    "00000001 00000003"
)


@pytest.fixture
def client(store: Store) -> Conversation:
    """A client of a server over each kind of store."""
    return Conversation(NfsServer(store, b"verifier", write_back=True))


def symlink(client: Conversation, name: bytes, target: bytes) -> nfs_replies.FileResult:
    """Make a symbolic link in the root."""
    arguments = nfs_links.encode_symlink(client.server.root_handle, name, target)
    return nfs_replies.decode_create(client.call(nfs.SYMLINK, arguments), 0)


def readlink(client: Conversation, file: bytes) -> nfs_links.ReadlinkResult:
    """Ask what a link says."""
    return nfs_links.decode_readlink_result(client.call(nfs.READLINK, nfs_calls.encode_file(file)), 0)


def link(client: Conversation, file: bytes, name: bytes, directory: bytes | None = None) -> nfs_links.LinkResult:
    """Give a file one more name."""
    arguments = nfs_links.encode_link(file, directory or client.server.root_handle, name)
    return nfs_links.decode_link_result(client.call(nfs.LINK, arguments), 0)


def test_the_calls_have_the_bytes_of_the_rfc() -> None:
    """Sections 3.3.10, 3.3.15 and 3.3.11."""
    assert nfs_links.encode_symlink(b"abcd", b"lnk", b"../xy") == SYMLINK
    assert nfs_links.encode_link(b"fi", b"abcd", b"lnk") == LINK
    assert nfs_links.encode_mknod(b"abcd", b"dev", nfs.NF3CHR, (1, 3)) == DEVICE


@given(handles, handles, names, st.binary(max_size=nfs_links.PATH_BYTES_MAX))
def test_what_is_encoded_is_read_back(file: bytes, directory: bytes, name: bytes, target: bytes) -> None:
    """Every field of each."""
    changes = nfs.SetAttributes(mode=0o777)
    made = nfs_links.decode_symlink(b"at 4" + nfs_links.encode_symlink(directory, name, target, changes), 4)
    linked = nfs_links.decode_link(nfs_links.encode_link(file, directory, name), 0)
    kinds = [nfs_links.decode_mknod(nfs_links.encode_mknod(directory, name, kind, (8, 9)), 0) for kind in range(1, 9)]

    assert made == nfs_links.SymlinkArguments(directory, name, changes, target)
    assert linked == nfs_links.LinkArguments(file, directory, name)
    assert [(made.kind, made.device) for made in kinds] == [
        (kind, (8, 9) if kind in (nfs.NF3BLK, nfs.NF3CHR) else (0, 0)) for kind in range(1, 9)
    ]


def test_a_text_beyond_all_paths_is_garbage() -> None:
    """4096 bytes are the most."""
    with pytest.raises(XdrError):
        nfs_links.decode_symlink(nfs_links.encode_symlink(b"abcd", b"lnk", bytes(4097)), 0)


def test_a_symbolic_link_is_kept_and_told(client: Conversation) -> None:
    """Whatever it says; it is the client's to follow."""
    made = symlink(client, b"link", b"../../etc/passwd")

    assert made.file is not None
    assert readlink(client, made.file) == nfs_links.ReadlinkResult(0, b"../../etc/passwd")
    attributes = client.attributes(made.file)
    assert (attributes.kind, attributes.size) == (nfs.NF3LNK, 16)
    assert client.lookup(b"link").file == made.file
    assert symlink(client, b"link", b"x").status == nfs.NFS3ERR_EXIST
    assert symlink(client, b"other", b"").status == nfs.NFS3ERR_INVAL
    assert client.status(nfs.REMOVE, nfs_calls.encode_name(client.server.root_handle, b"link")) == nfs.NFS3_OK
    assert readlink(client, made.file).status == nfs.NFS3ERR_STALE


def test_the_server_never_follows_a_link(tmp_path: Path) -> None:
    """Neither to a file nor to a directory outside of what it exports, nor through one that a client has made."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root").mkdir()
    store = DirectoryStore(tmp_path / "root")
    client = Conversation(NfsServer(store, b"verifier"))
    root = client.server.root_handle
    to_file, to_directory = symlink(client, b"file", b"../secret").file, symlink(client, b"up", b"..").file
    assert to_file is not None
    assert to_directory is not None

    statuses = (
        client.read(to_file, 0, 9).status,
        client.write(to_file, 0, b"x").status,
        client.status(nfs.SETATTR, nfs_calls.encode_setattr(to_file, nfs.SetAttributes(size=0))),
        client.lookup(b"secret", to_directory).status,
        client.create(b"made", to_directory).status,
        link(client, to_file, b"hard").status,
        client.status(nfs.RENAME, nfs_calls.encode_rename(to_directory, b"secret", root, b"stolen")),
    )
    hard = readlink(client, client.lookup(b"hard").file or b"")
    store.close()

    not_a_file, not_a_directory = nfs.NFS3ERR_INVAL, nfs.NFS3ERR_NOTDIR
    assert statuses == (*[not_a_file] * 3, *[not_a_directory] * 2, nfs.NFS3_OK, not_a_directory)
    assert hard.target == b"../secret"  # one more name of the link, not of what it points to
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "secret"]
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_a_hard_link_is_the_same_file(client: Conversation) -> None:
    """One handle, one fileid, one content, whichever name is asked for, and whichever goes first."""
    inner = client.made_directory(b"inner")
    file = client.made(b"file")
    client.write(file, 0, b"data", nfs.UNSTABLE)

    linked = link(client, file, b"second", inner)
    names = client.lookup(b"file").file, client.lookup(b"second", inner).file
    client.status(nfs.REMOVE, nfs_calls.encode_name(client.server.root_handle, b"file"))
    left = client.attributes(file)

    assert linked.attributes is not None
    assert (linked.status, linked.attributes.links) == (0, 2)
    assert names == (file, file)
    assert (left.links, left.fileid) == (1, linked.attributes.fileid)
    assert client.read(file, 0, 9).data == b"data"
    assert client.commit(file).status == nfs.NFS3_OK
    assert client.server.procedures.store.path(file) == "inner/second"
    client.status(nfs.REMOVE, nfs_calls.encode_name(inner, b"second"))
    assert client.read(file, 0, 9).status == nfs.NFS3ERR_STALE


def test_names_of_one_file_are_moved_one_by_one(client: Conversation) -> None:
    """Also onto another name of the same file, where nothing happens."""
    root, file = client.server.root_handle, client.made(b"a")
    link(client, file, b"b")

    same = client.status(nfs.RENAME, nfs_calls.encode_rename(root, b"a", root, b"b"))
    moved = client.status(nfs.RENAME, nfs_calls.encode_rename(root, b"b", root, b"c"))

    assert (same, moved) == (0, 0)
    assert client.lookup(b"a").file == client.lookup(b"c").file == file
    assert client.lookup(b"b").status == nfs.NFS3ERR_NOENT
    assert client.attributes(file).links == 2


def test_a_link_that_cannot_be_is_refused(client: Conversation) -> None:
    """A name that is taken or leads out, a directory, and a handle that is none."""
    root, file = client.server.root_handle, client.made(b"file")

    statuses = [
        link(client, file, b"file").status,
        link(client, file, b"..").status,
        link(client, root, b"x").status,
        link(client, b"none", b"x").status,
        link(client, file, b"x", file).status,
    ]

    assert statuses == [
        nfs.NFS3ERR_EXIST, nfs.NFS3ERR_ACCES, nfs.NFS3ERR_ISDIR, nfs.NFS3ERR_BADHANDLE, nfs.NFS3ERR_NOTDIR,
    ]  # fmt: skip
    assert readlink(client, file).status == nfs.NFS3ERR_INVAL


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (nfs.NF3CHR, nfs.NFS3ERR_NOTSUPP),
        (nfs.NF3BLK, nfs.NFS3ERR_NOTSUPP),
        (nfs.NF3FIFO, nfs.NFS3ERR_NOTSUPP),
        (nfs.NF3SOCK, nfs.NFS3ERR_NOTSUPP),
        (nfs.NF3REG, nfs.NFS3ERR_BADTYPE),
        (nfs.NF3LNK, nfs.NFS3ERR_BADTYPE),
        (77, nfs.NFS3ERR_BADTYPE),
    ],
)
def test_special_files_are_not_made(client: Conversation, kind: int, status: int) -> None:
    """What MKNOD is not for is another mistake than what is not done here; the body is a failure's."""
    results = client.call(nfs.MKNOD, nfs_links.encode_mknod(client.server.root_handle, b"made", kind))

    assert int.from_bytes(results[:4], "big") == status
    assert len(results) == 12
    assert client.lookup(b"made").status == nfs.NFS3ERR_NOENT


def test_times_and_owner_of_a_link_are_its_own(tmp_path: Path) -> None:
    """As archivers set them; a size it has not."""
    (tmp_path / "root").mkdir()
    (tmp_path / "file").write_bytes(b"")
    before = (tmp_path / "file").stat().st_mtime_ns
    store = DirectoryStore(tmp_path / "root")
    client = Conversation(NfsServer(store, b"verifier"))
    file = symlink(client, b"link", b"../file").file
    assert file is not None

    changes = nfs.SetAttributes(mode=0o600, uid=os.getuid(), mtime=7 * nfs.SECOND)
    status = client.status(nfs.SETATTR, nfs_calls.encode_setattr(file, changes))
    mtime = client.attributes(file).mtime
    store.close()

    assert (status, mtime) == (0, 7 * nfs.SECOND)
    assert (tmp_path / "file").stat().st_mtime_ns == before
