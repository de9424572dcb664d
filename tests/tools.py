"""Programs of others that tests compare us with: found, installed from Debian where allowed, or a reason to skip.

Nothing is installed unless we are root, apt-get is there and LATEACK_NO_INSTALL is not set; each package is tried once
in a run of the tests.
"""

import functools
import os
import shutil
import subprocess
from pathlib import Path

import pytest

FORBIDDEN_BY = "LATEACK_NO_INSTALL"
INSTALL_S = 90  # below the time limit of a test, so that a slow mirror makes a skip and not a failure

PACKAGES = {
    "nfs-ls": "libnfs-utils",
    "nfs-cp": "libnfs-utils",
    "nfs-cat": "libnfs-utils",
    "tshark": "tshark",
    "gcc": "gcc",
}
XEN_HEADERS = Path("/usr/include/xen")  # with io/netif.h, io/ring.h and grant_table.h


def needs(program: str) -> str:
    """Return the path of a program; where it is missing and cannot be installed, skip the test and say why."""
    return shutil.which(program) or _after_installing(program, PACKAGES[program])


def needs_xen_headers() -> Path:
    """Return the folder of Xen's public headers (Debian's libxen-dev), or skip the test and say why."""
    if not XEN_HEADERS.is_dir():
        reason = _install("libxen-dev")
        if not XEN_HEADERS.is_dir():
            pytest.skip(f"Xen's headers are not in {XEN_HEADERS}: {reason}")
    return XEN_HEADERS


def _after_installing(program: str, package: str) -> str:
    reason = _install(package)
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} (Debian package {package}) is missing: {reason}")
    return found


@functools.cache
def _install(package: str) -> str:
    """Install a Debian package without asking, and say in some words how that went."""
    if os.environ.get(FORBIDDEN_BY):
        return f"{FORBIDDEN_BY} forbids to install it"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "only root on a Debian system can install it"
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", package]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=quiet, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"apt-get did not finish within {INSTALL_S} s"
    return "it was installed" if done.returncode == 0 else f"apt-get said: {_last_line(done.stderr)}"


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "nothing"
