"""A Ray cluster for as long as a session lasts: one of our own on the loopback address, or one that others started.

Ray is imported late, here and elsewhere, since what Ray reads from the environment
it reads while it is being imported.
"""

import contextlib
import io
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from lateack.cluster.live.address import ClusterUnavailable, probe, resolve
from lateack.cluster.live.processes import descendants, is_alive, see_dead

LOG = logging.getLogger("lateack.ray")

CPUS = 4  # workers that Ray starts at once, while we wait for it anyway; machines ask for none
OBJECT_STORE_BYTES = 80 * 1024 * 1024  # Ray refuses less than 75 MiB, and touches none of it before it is used
TEMPORARY_NAME_MAX = 24  # Ray puts Unix sockets 70 characters deeper, and 107 is the most that one can have
DEATH_S = 0.5

# Loopback only. Without the second, Ray listens on every interface; then no token would not be an option either.
OWN_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
}
JOINED_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0"}


class RayCluster:
    """The cluster of a session; `up` and `down` once each."""

    def __init__(self, address: str | None) -> None:
        """Prepare to start a cluster, or to join the one at `address` ("auto", or host:port)."""
        self.address = address
        self.local = address is None
        self._temporary: Path | None = None
        self._undo = contextlib.ExitStack()
        self._started = False
        self._daemons: list[int] = []

    def up(self) -> None:
        """Start or join; raises ClusterUnavailable within seconds where that cannot be."""
        environment = OWN_ENVIRONMENT | {"PYTHONPATH": _import_path()} if self.local else JOINED_ENVIRONMENT
        try:
            self._undo.enter_context(_environment(environment))
            self._undo.enter_context(_stdout_kept_clean())
            with _signals_later():
                ray = _import_ray(self.local)
                if ray.is_initialized():
                    self._share(ray)
                elif self.address is None:
                    self._start(ray)
                else:
                    self._join(ray, self.address)
        except BaseException:
            self.down()
            raise

    def is_alive(self) -> bool:
        """Say whether our own cluster still runs; a signal to our process group, as of `timeout`, ends it before us."""
        return all(is_alive(daemon) for daemon in self._daemons)

    def down(self) -> None:
        """Leave the cluster; our own ends, with all its processes and files."""
        everyone = [*self._daemons, *self._family()]
        self._daemons = []
        try:
            if self._started:
                self._started = False
                cast(Any, sys.modules["ray"]).shutdown()
        finally:
            see_dead(everyone, DEATH_S)
            self._undo.close()
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)

    def _family(self, *, deep: bool = True) -> list[int]:
        """Return pidfds of our own cluster's daemons, and if `deep` of whatever they started."""
        return descendants(os.getpid(), str(self._temporary), deep=deep) if self._temporary is not None else []

    def _share(self, ray: Any) -> None:
        if self.local:
            raise ClusterUnavailable(
                "this process is connected to a Ray cluster already; say address='auto' to use it, or leave it first."
            )

    def _start(self, ray: Any) -> None:
        _remove_abandoned()
        self._temporary = Path(tempfile.mkdtemp(prefix=_temporary_prefix(os.getpid()), dir=_temporary_folder()))
        self._started = True
        try:
            ray.init(
                address="local",  # without it, Ray joins whatever cluster runs here already
                num_cpus=CPUS,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _temp_dir=str(self._temporary),
            )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ClusterUnavailable(
                f"Ray cannot start here ({_first_line(error)}); --world virtual runs the same story without it."
            ) from error
        self._daemons = self._family(deep=False)

    def _join(self, ray: Any, address: str) -> None:
        found = resolve(address)
        probe(found)
        self._started = True
        try:
            ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ClusterUnavailable(f"cannot join the Ray cluster at {address}: {_first_line(error)}.") from error


def _import_ray(local: bool) -> Any:
    import ray
    import ray._private.ray_constants as constants

    # The same switch as in the environment, for a process that has imported ray before.
    constants.ENABLE_RAY_CLUSTER = not local
    return ray


def _import_path() -> str:
    """Return the folders from which this process imports, so that its workers find what it finds."""
    return os.pathsep.join(dict.fromkeys(str(Path(entry or ".").absolute()) for entry in sys.path))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# --- good manners -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until Ray has started, and then do what they did before.

    A start that is broken off leaves Ray's library in a state in which it crashes; and Ray puts two handlers of its own
    on SIGTERM. Whoever presses Ctrl-C twice does not wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def remember(number: int, frame: object) -> None:
        if arrived:
            raise KeyboardInterrupt
        arrived.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if arrived:
            signal.raise_signal(signal.Signals(arrived[0]))


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _StdoutForUs(io.TextIOBase):
    """Standard output for everybody but Ray's own threads, whose news of the cluster goes to a log.

    That an actor has died is told by us, in one sentence; Ray's paragraph on it is there for whoever listens.
    """

    def __init__(self, stdout: Any) -> None:
        self._stdout = stdout

    def write(self, text: str) -> int:
        if threading.current_thread().name.startswith("ray_"):
            LOG.debug("%s", text.rstrip())
            return len(text)
        return int(self._stdout.write(text))

    def flush(self) -> None:
        if not threading.current_thread().name.startswith("ray_"):
            self._stdout.flush()

    def close(self) -> None:
        """Leave the real one open: whoever collects this object as garbage closes it first."""

    def __getattribute__(self, name: str) -> Any:
        own = ("write", "flush", "close", "_stdout", "writelines", "__class__")
        return object.__getattribute__(self, name) if name in own else getattr(self._stdout, name)


@contextlib.contextmanager
def _stdout_kept_clean() -> Iterator[None]:
    """Keep what Ray prints off standard output: it has no switch for news such as that of an actor's death."""
    before, ours = sys.stdout, _StdoutForUs(sys.stdout)
    sys.stdout = cast(Any, ours)
    try:
        yield
    finally:
        if sys.stdout is cast(Any, ours):
            sys.stdout = before


def _temporary_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= TEMPORARY_NAME_MAX else "/tmp"


def _temporary_prefix(pid: int) -> str:
    return f"lateack-{pid}-"


def _remove_abandoned() -> None:
    """Remove the temporary folders of sessions of ours that were killed before they could."""
    for folder in Path(_temporary_folder()).glob("lateack-*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdecimal() and not Path("/proc", pid).exists() and folder.owner() == Path("/proc/self").owner():
            shutil.rmtree(folder, ignore_errors=True)
