"""The package is described in pyproject.toml; this adds its compiled form, only where LATEACK_COMPILE=1 asks for it.

mypyc compiles the machines, and what carries and judges them in virtual time, from the same sources: the same story
gives the same digest. `make fast` builds it in a copy: a compiled module beside its source would shadow it.
"""

import os
from pathlib import Path

from setuptools import setup

PACKAGE = Path("src/lateack")
INTERPRETED = (
    "nodes/fact.py",  # mypyc would drop the keywords of its classes; so for the next five
    "nodes/facts.py",
    "nodes/facts_host.py",
    "nodes/facts_storage.py",
    "nodes/messages.py",
    "nodes/node.py",
    "nodes/records.py",  # gives its options to the classes of compiled modules
    "nodes/strategies/backend.py",  # users derive from it, which they cannot do from a compiled class
    "nodes/strategies/guest.py",
    "nodes/strategies/destructors.py",  # for what derives from them has attributes of its class, too
    "nodes/strategies/early.py",
    "nodes/strategies/foreign.py",
    "nodes/strategies/guest_destructors.py",
    "nodes/strategies/guest_zerocopy.py",
    "nodes/strategies/lazy_copy.py",
    "nodes/strategies/rdma.py",
    "nodes/strategies/staging.py",
)
BEYOND_NODES = ("cluster/oracles.py", "cluster/trace.py", "cluster/virtual.py", "cluster/wire_oracle.py")


def compiled_modules(package: Path = PACKAGE) -> list[str]:
    """Return the files that are compiled, relative to the package: all of nodes/ but `INTERPRETED`, and a few more."""
    paths = [path for path in (package / "nodes").rglob("*.py") if path.name != "__init__.py"]
    nodes = {path.relative_to(package).as_posix() for path in paths}
    return sorted((nodes - set(INTERPRETED)) | set(BEYOND_NODES))


if __name__ == "__main__":
    extensions = []
    if os.environ.get("LATEACK_COMPILE") == "1":
        from mypyc.build import mypycify

        sources = [str(PACKAGE / name) for name in compiled_modules()]
        extensions = mypycify(["--config-file=pyproject.toml", *sources], opt_level="2", group_name="lateack")
    setup(ext_modules=extensions)
