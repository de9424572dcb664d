"""What `lateack serve` offers: parts of the emulator for software of others, until Ctrl-C."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Open a real door: let software of others use a part of the emulator, until Ctrl-C.")


class DrcMode(StrEnum):
    """How the server knows a call that it has seen before."""

    none = "none"
    no_checksum = "no-checksum"
    checksum = "checksum"
    ganesha_like = "ganesha-like"


@app.command("nfs")
def nfs(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory whose files are served.")],
    port: Annotated[int, typer.Option("--port", metavar="P", help="TCP and UDP; 0 is any that is free.")] = 2049,
    host: Annotated[str, typer.Option("--host", metavar="A", help="The IPv4 address to listen on.")] = "127.0.0.1",
    read_only: Annotated[bool, typer.Option("--read-only", help="Let nobody change anything.")] = False,
    drc: Annotated[DrcMode, typer.Option("--drc", help="The duplicate request cache.")] = DrcMode.checksum,
    as_json: Annotated[bool, typer.Option("--json", help="Say as JSON where the door is.")] = False,
) -> int:
    """Serve a directory over NFSv3 and MOUNT, on one port and without a portmapper."""
    from lateack.cluster.doors.serving import NfsOptions, serve_nfs

    return serve_nfs(NfsOptions(directory, host, port, read_only, drc.value, as_json))


@app.command("netback")
def netback(
    socket: Annotated[Path, typer.Option("--socket", metavar="PATH", help="The Unix socket to make.")],
    backend: Annotated[str, typer.Option("--backend", metavar="S", help="The backend's strategy.")] = "dev-zerocopy",
    guests_max: Annotated[int, typer.Option("--guests-max", metavar="N", help="Frontends at a time.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Say everything as JSON.")] = False,
) -> int:
    """Serve a backend to frontends that bring their own memory, over a Unix socket."""
    from lateack.cluster.doors import netback_door

    return netback_door.serve(socket, backend, guests_max, as_json)
