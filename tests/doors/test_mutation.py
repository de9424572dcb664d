"""Ten thousand calls that went wrong on their way: the server answers each, and touches nothing that none names."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings, strategies as st

from lateack.nodes.nfs import mount, nfs, rpc
from lateack.nodes.nfs.rpc import FRAGMENTS_MAX, record_mark
from tests.doors.door import PATIENCE_S, Caller, open_door
from tests.doors.mutation import Grounds, Mutation, check_answer, mutated, new_server, recipes

CLIENT = ("127.0.0.1", 800)
ROUNDS, CALLS = 450, 40  # about two thirds of the calls are different ones


def test_every_call_of_the_corpus_is_good(tmp_path: Path) -> None:
    """Each is executed, so that the mutants come from all that a server can do."""
    grounds = Grounds(tmp_path)
    server = new_server(grounds)

    replies = [server.handle_call(record, CLIENT, 0) for record in grounds.corpus]
    server.sync()

    headers = [rpc.decode_reply(reply) for reply in replies if reply is not None]
    procedures = {(record[12:16], record[20:24]) for record in grounds.corpus}
    assert len(headers) == len(grounds.corpus)
    assert all(header.succeeded() for header in headers)
    assert len(procedures) == nfs.PROCEDURES + mount.PROCEDURES
    assert grounds.snapshot() == grounds.before


@pytest.mark.slow
@settings(max_examples=ROUNDS, suppress_health_check=list(HealthCheck))
@given(st.lists(recipes, min_size=CALLS, max_size=CALLS))
def test_mutated_calls_are_answered_and_touch_nothing_apart(chosen: list[tuple[int, list[Mutation]]]) -> None:
    """In each round some calls go wrong, one after the other, on a server that is used by all of them."""
    with tempfile.TemporaryDirectory() as home:
        grounds = Grounds(Path(home))
        server = new_server(grounds)

        for recipe in chosen:
            record = grounds.mutant(recipe)
            if grounds.is_fair(record):
                check_answer(record, server.handle_call(record, CLIENT, 0))
        server.sync()
        server.procedures.store.close()

        assert grounds.snapshot() == grounds.before


def sample(grounds: Grounds, count: int) -> list[bytes]:
    """As many mutants as are wanted, the same ones in every run."""
    found: list[bytes] = []

    @seed(2011)
    @settings(max_examples=count, database=None, suppress_health_check=list(HealthCheck))
    @given(recipes)
    def collect(recipe: tuple[int, list[Mutation]]) -> None:
        record = grounds.mutant(recipe)
        if grounds.is_fair(record):
            found.append(record)

    collect()
    return found


@pytest.mark.live
@pytest.mark.slow
def test_mutated_calls_over_real_sockets_leave_the_door_open(tmp_path: Path) -> None:
    """As records, as streams whose marks lie, and as datagrams; then everybody else is still served."""
    grounds = Grounds(tmp_path)
    records = sample(grounds, 1000)

    with open_door(grounds.served) as door:
        caller = Caller(door.port)
        for record in records:
            caller.socket.sendall(record_mark(len(record)) + record)
            probe = caller.send(nfs.NULL, b"")
            answers = [caller.next_reply()]
            while answers[-1] is not None and answers[-1] != rpc.encode_success(probe, b""):
                answers.append(caller.next_reply())
            check_answer(record, answers[0] if len(answers) > 1 else None)
            caller.xid += 1000  # further than a mutant's, so that no answer can be taken for another
        for number, record in enumerate(records[:300]):
            liar = Caller(door.port)
            stream = mutated(record_mark(len(record)) + record, ("number", 0, number), records)
            liar.socket.sendall(stream)
            liar.socket.shutdown(socket.SHUT_WR)
            while liar.next_reply() is not None:
                pass
            liar.close()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.settimeout(PATIENCE_S)
            datagrams.connect(("127.0.0.1", door.port))
            for number, record in enumerate(records):
                probe_record = rpc.encode_call(1 << 31 | number, nfs.PROGRAM, 3, nfs.NULL, rpc.AUTH_NONE_CREDENTIAL)
                datagrams.send(record)
                datagrams.send(probe_record)
                answer = None
                while (got := datagrams.recv(65536)) != rpc.encode_success(1 << 31 | number, b""):
                    answer = got
                check_answer(record, answer)
        caller.close()
        status, said = door.end()

    assert status == 0
    assert said.count("\n") == 1
    assert len(records) > 900
    assert grounds.snapshot() == grounds.before


@pytest.mark.live
def test_more_fragments_than_there_may_be_end_a_connection(tmp_path: Path) -> None:
    """A record of empty fragments for ever costs the server neither memory nor time."""
    with open_door(tmp_path) as door:
        caller = Caller(door.port)
        caller.socket.sendall(record_mark(0, last=False) * (FRAGMENTS_MAX + 1))

        assert caller.next_reply() is None
        caller.close()
