"""Run folders: named after the run, never used twice."""

from pathlib import Path

import pytest

from lateack.cluster.folders import FolderError, new_run_folder
from lateack.cluster.schema import Scenario


def test_a_folder_is_named_after_its_run_and_never_reused(tmp_path: Path) -> None:
    """A second run of the same name has a number of its own, and the first one's files stay."""
    scenario = Scenario(story="late-ack", seed=3)

    folders = [new_run_folder(tmp_path / "runs", scenario) for _ in range(3)]

    name = "late-ack-on-reply-dev-zerocopy-3"
    assert [folder.name for folder in folders] == [name, f"{name}.2", f"{name}.3"]
    assert all(folder.is_dir() for folder in folders)


def test_a_users_strategy_gives_a_plain_name(tmp_path: Path) -> None:
    """Whatever a strategy is called, the folder lies in the place that was asked for."""
    scenario = Scenario(story="late-ack").replaced(guest="../my.module:Scheme")

    folder = new_run_folder(tmp_path, scenario)

    assert folder.parent == tmp_path
    assert folder.name == "late-ack-.._my.module_Scheme-dev-zerocopy-1"


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A missing parent or a file in the way is one sentence that says what to do."""
    (tmp_path / "file").write_text("in the way")

    for out in (tmp_path / "no" / "parent", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FolderError, match=r"cannot make a run folder in .*; name another with --out\."):
            new_run_folder(out, Scenario(story="late-ack"))
