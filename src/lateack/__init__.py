"""A cluster emulator for one question: when is a page finished with?

    result = lateack.run("late-ack", world="virtual", guest="on-reply")
    assert result.harms == ["stale-on-wire"]

The names below are fetched when they are first asked for: `import lateack` costs nothing, and only a run in the world
on Ray imports Ray.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lateack.cluster.experiment import Result, run
    from lateack.nodes.errors import LateackError
    from lateack.nodes.strategies import BackendStrategy, GuestStrategy, RdmaStrategy

__version__ = "0.1.0"

__all__ = ["run", "Result", "LateackError", "GuestStrategy", "BackendStrategy", "RdmaStrategy", "__version__"]

if not TYPE_CHECKING:  # a type checker that saw this would take any misspelt name for one of ours
    _HOMES = {
        "run": "lateack.cluster.experiment",
        "Result": "lateack.cluster.experiment",
        "LateackError": "lateack.nodes.errors",
        "GuestStrategy": "lateack.nodes.strategies",
        "BackendStrategy": "lateack.nodes.strategies",
        "RdmaStrategy": "lateack.nodes.strategies",
    }

    def __getattr__(name: str) -> object:
        """Fetch a public name from the module where it lives, once."""
        if name not in _HOMES:
            raise AttributeError(f"module 'lateack' has no attribute {name!r}")
        import importlib

        found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return found

    def __dir__() -> list[str]:
        """List the public names, whether or not they have been asked for."""
        return sorted({*globals(), *__all__})
