"""Strategies by name: built-in ones, and those of a user by module and attribute."""

import contextlib
from pathlib import Path

import pytest

from lateack.cluster.plugins import (
    FAMILIES,
    StrategyNotFound,
    backend_strategy,
    guest_strategy,
    names,
    names_for,
    rdma_strategy,
    summary,
)
from lateack.nodes.strategies import GuestStrategy


def test_built_in_strategies_go_by_their_names() -> None:
    """A name gives the class that bears it, on its own side."""
    assert guest_strategy("on-reply").name == "on-reply"
    assert backend_strategy("grant-copy").name == "grant-copy"


def test_every_strategy_says_what_it_is() -> None:
    """Whatever can be named can be listed with a sentence."""
    for side in FAMILIES:
        for name in names(side):
            assert len(summary(side, name)) > 20


def test_a_module_of_the_current_folder_offers_a_strategy(tmp_path: Path) -> None:
    """`module:attribute` is looked for where the user is, and is the same class every time."""
    (tmp_path / "plugin_of_mine.py").write_text(
        "from lateack.nodes.strategies import GuestStrategy\n\nclass Mine(GuestStrategy):\n    name = 'mine'\n"
    )

    with contextlib.chdir(tmp_path):
        found = guest_strategy("plugin_of_mine:Mine")

    assert issubclass(found, GuestStrategy)
    assert guest_strategy("plugin_of_mine:Mine") is found


def test_a_name_that_nobody_has_is_told_with_the_nearest() -> None:
    """A wrong name is answered with a right one, or with the side on which it would be right."""
    with pytest.raises(StrategyNotFound, match="no guest strategy 'full-cpoy'; the nearest is 'full-copy'"):
        guest_strategy("full-cpoy")
    with pytest.raises(StrategyNotFound, match="'grant-copy' is a backend strategy; a guest can have on-reply"):
        guest_strategy("grant-copy")
    with pytest.raises(StrategyNotFound, match="'invalidate-first' is an rdma strategy; a guest can have on-reply"):
        guest_strategy("invalidate-first")


def test_a_host_with_an_rdma_adapter_has_a_family_of_its_own() -> None:
    """The kind of a scenario says which names its strategy can have; on-reply is one in both families."""
    assert names_for("rdma") == names("rdma") != names_for("metal") == names("guest")
    assert not issubclass(rdma_strategy("on-reply"), GuestStrategy)
    with pytest.raises(StrategyNotFound, match="a host with an RDMA adapter can have on-reply, send-completion"):
        rdma_strategy("frag-destructor")


BROKEN = {
    "plugin_missing:Mine": "there is no module 'plugin_missing' here or installed",
    "plugin_broken:Mine": "could not be imported: ZeroDivisionError",
    "plugin_syntax:Mine": "could not be imported: SyntaxError",
    "plugin_needs:Mine": "could not be imported: ModuleNotFoundError",
    "plugin_empty:Mine": "names nothing; the nearest to 'Mine' is",
    "plugin_empty:VALUE": "is no subclass of lateack.nodes.strategies",
    "plugin_empty:": "names nothing",
    ":": "could not be imported",
}


@pytest.mark.parametrize(("name", "sentence"), BROKEN.items())
def test_a_users_mistake_is_told_in_one_sentence(name: str, sentence: str, tmp_path: Path) -> None:
    """Whatever is wrong with a user's module, the run ends before it begins, with a reason."""
    (tmp_path / "plugin_broken.py").write_text("1 / 0\n")
    (tmp_path / "plugin_syntax.py").write_text("def\n")
    (tmp_path / "plugin_needs.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "plugin_empty.py").write_text("VALUE = 3\n")

    with contextlib.chdir(tmp_path), pytest.raises(StrategyNotFound, match=sentence):
        backend_strategy(name)
