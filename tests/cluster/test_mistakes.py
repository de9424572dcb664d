"""Mistakes in a scenario, each told in one sentence with file, line, key and the nearest valid one."""

from pathlib import Path

import pytest

from lateack.cluster.scenario import ScenarioError, load, load_file

FILE_MISTAKES = {
    "server: {drc: none}\nworkload:\n  bufers: 2\n": (
        "mine.yaml line 3: unknown key 'workload.bufers'; the nearest is 'workload.buffers'."
    ),
    "workload:\n  bytes: 1\n  buffers: two\n": (
        "mine.yaml line 3: workload.buffers must be a whole number of at least 1, not 'two'."
    ),
    "wrkload: {}\n": "mine.yaml line 1: unknown key 'wrkload'; the nearest is 'workload'.",
    "seed: yes\n": "mine.yaml line 1: seed must be a whole number from 0 to 9223372036854775807, not true.",
    "rpc:\n  soft: 1\n": "mine.yaml line 2: rpc.soft must be true or false, not 1.",
    "links:\n  to_server:\n    loss: .nan\n": (
        "mine.yaml line 3: links.to_server.loss must be a number from 0 to 1, not nan."
    ),
    "rpc: 5\n": "mine.yaml line 1: rpc must be a mapping of timeo_ms, retrans, soft, reconnect, not 5.",
    "workload: {transport: tpc}\n": (
        "mine.yaml line 1: workload.transport must be tcp or udp, not 'tpc'; the nearest is 'tcp'."
    ),
    "server: {handle_bytes: 37}\n": (
        "mine.yaml line 1: server.handle_bytes must be a whole number that is a multiple of 4, from 28 to 64, not 37."
    ),
    "faults:\n  late:\n    hold: {form: server}\n": (
        "mine.yaml line 3: unknown key 'faults.late.hold.form'; the nearest is 'faults.late.hold.from'."
    ),
    "faults:\n  late:\n    since: {fact: Parked}\n": (
        "mine.yaml line 2: faults.late needs exactly one of 'hold', 'drop', 'reset', 'gate', 'rewrite', 'forge', "
        "'detach' and 'crash'."
    ),
    "faults:\n  late:\n    gate: backend.nic\n    until:\n    - fact: Parked\n    - {node: backend}\n": (
        "mine.yaml line 6: faults.late.until.1 needs either 'frame' or 'fact'."
    ),
    "faults:\n  late:\n    gate: backend.nic\n    nth: [1]\n": (
        "mine.yaml line 2: faults.late has 'nth', which picks frames to 'hold', 'drop' or 'reset' (a trigger has its "
        "own)."
    ),
    "requires:\n- node: guest1\n": "mine.yaml line 2: requires.0.fact is missing.",
    "expect:\n- harms:\n  - stale\n": (
        "mine.yaml line 3: expect.0.harms.0 must be corrupt-at-rest, disclosure, fault, leak, stale-on-wire or stall, "
        "not 'stale'; the nearest is 'stall'."
    ),
    "server:\n  drc: none\nserver: {}\n": "mine.yaml line 3: the key 'server' stands here a second time.",
    "on: true\n": "mine.yaml line 1: a key must be text; put 'on' in quotes.",
    "server: {drc: [\n": "mine.yaml line 2: not YAML: expected the node content, but found '<stream end>'.",
    "- a list\n": "mine.yaml is not a scenario: it must be a mapping of keys such as 'story' and 'workload'.",
    "": "mine.yaml is not a scenario: it must be a mapping of keys such as 'story' and 'workload'.",
    "workload: {input: nowhere}\n": (
        "mine.yaml line 1: cannot read the input {folder}/nowhere: No such file or directory."
    ),
    "workload: {input: .}\n": "mine.yaml line 1: the input {folder} is not a regular file.",
}


@pytest.mark.parametrize(("text", "sentence"), FILE_MISTAKES.items(), ids=range(len(FILE_MISTAKES)))
def test_a_mistake_in_a_file_is_found_again(text: str, sentence: str, tmp_path: Path) -> None:
    """The sentence names the file, the line, the key, and what would have been right."""
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")

    with pytest.raises(ScenarioError) as caught:
        load_file(file)

    assert str(caught.value) == f"{tmp_path}/{sentence.replace('{folder}', str(tmp_path))}"


OVERRIDE_MISTAKES = {
    "workload.bufers=2": "unknown key 'workload.bufers'; the nearest is 'workload.buffers'.",
    "workload.buffers=two": "workload.buffers must be a whole number of at least 1, not 'two'.",
    "workload.buffers=": "workload.buffers must be a whole number of at least 1, not nothing.",
    "workload.buffers.more=1": "unknown key 'workload.buffers.more'; workload.buffers has no keys of its own.",
    "faults.egres.gate=backend.ring": (
        "unknown key 'faults.egres'; the nearest is 'faults.egress', and a new one is given whole, faults.egres={...}."
    ),
    "datagrams.0.to=host": "unknown key 'datagrams.0'; it is given whole, datagrams=[...].",
    "datagrams=3": "datagrams must be a list, not 3.",
    "datagrams=[{to: host, head_bytes: 64}]": ("datagrams.0.head_bytes must be a whole number from 0 to 63, not 64."),
    "faults.egress.gate=backend.rnig": (
        "faults.egress.gate names no place: 'backend.rnig'; the nearest is 'backend.ring'."
    ),
    "faults.egress.until.7.fact=Parked": "faults.egress.until is a list of 3: name a position from 0.",
    "server.drc": "write it as KEY=VALUE, such as server.drc=none.",
    "server.drc=[": "'[' is not YAML: put it in quotes.",
}


@pytest.mark.parametrize(("text", "sentence"), OVERRIDE_MISTAKES.items())
def test_a_mistake_in_an_override_names_the_override(text: str, sentence: str) -> None:
    """A value that came from `--set` is not looked for in the file."""
    with pytest.raises(ScenarioError) as caught:
        load("late-ack", [text])

    assert str(caught.value) == f"--set {text}: {sentence}"


def test_an_override_does_not_take_the_blame_for_its_neighbour(tmp_path: Path) -> None:
    """With an override on one key, a mistake in another is still found in the file."""
    file = tmp_path / "mine.yaml"
    file.write_text("workload:\n  buffers: 0\n", encoding="utf-8")

    with pytest.raises(ScenarioError, match=r"mine\.yaml line 2: workload\.buffers"):
        load_file(file, ["workload.bytes=5"])


def test_an_unknown_story_is_told_with_the_nearest() -> None:
    """A story's name that does not exist is answered with one that does."""
    with pytest.raises(ScenarioError, match="there is no story 'late-akc'; the nearest is 'late-ack'"):
        load("late-akc")


def test_a_file_that_cannot_be_read_is_told_with_the_reason(tmp_path: Path) -> None:
    """A scenario that is not there, is a folder, or is not text gives one sentence each."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")

    for path, reason in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "Is a directory"),
        (binary, "not UTF-8"),
    ):
        with pytest.raises(ScenarioError, match=reason):
            load_file(path)
