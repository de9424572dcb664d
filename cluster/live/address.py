"""Whether a Ray cluster is where the user says: asked before Ray, which would try for minutes."""

import os
import socket
from pathlib import Path

import grpc

from lateack.nodes.errors import LateackError

PROBE_S = 3.0
CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
NOT_RAYS_ANSWERS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.DEADLINE_EXCEEDED}
CLIENT_SCHEME = "ray://"


class ClusterUnavailable(LateackError):
    """There is no Ray cluster to run on, and none can be started."""


def resolve(address: str) -> str:
    """Return host:port of a cluster's address; raises ClusterUnavailable if there is none."""
    if address.startswith(CLIENT_SCHEME):
        raise ClusterUnavailable(
            f"{address} is for Ray Client; give host:port of the cluster's head, or run there with auto."
        )
    import ray._private.services as services

    try:
        # Ray means another address than the one given where that is a loopback one.
        found = services.canonicalize_bootstrap_address(address)
    except ConnectionError:
        found = None
    except (OSError, ValueError) as error:
        raise ClusterUnavailable(f"{address} is no address of a Ray cluster; give host:port, or auto.") from error
    if not found:
        raise ClusterUnavailable(
            "no Ray cluster runs on this machine; start one with `ray start --head`, or leave --address out."
        )
    return str(found)


def probe(address: str) -> None:
    """Ask whoever listens at host:port whether it is a Ray cluster; `ray.init` itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ClusterUnavailable(
            f"{address} is no address of a Ray cluster; give host:port, or auto for this machine's."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S).close()
    except OSError as error:
        raise ClusterUnavailable(
            f"no Ray cluster answers at {address} ({error.strerror or error}); see that it is up, "
            "or leave --address out."
        ) from error
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return  # the question below would need the certificates
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(CHECK_ALIVE)(b"", timeout=PROBE_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED and not _has_token():
                raise ClusterUnavailable(
                    f"the Ray cluster at {address} asks for a token: set RAY_AUTH_MODE=token and "
                    "RAY_AUTH_TOKEN=<its token>."
                ) from error
            if error.code() in NOT_RAYS_ANSWERS:
                raise ClusterUnavailable(
                    f"what listens at {address} is not the head of a Ray cluster; `ray start --head` names the right "
                    "port (6379 by default)."
                ) from error


def _has_token() -> bool:
    """Say whether Ray will find a token: in the environment, or in the file where its command line puts one."""
    return (
        bool(os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"})
        or Path("~/.ray/auth_token").expanduser().exists()
    )
