"""Captures: every frame that passed an end of a link, as the file `capture.pcapng` that Wireshark and tshark read.

One interface stands for one end: the card of a host, of the backend or of the server, or the loopback device of a host
that serves itself. A frame that arrives is in the file twice, where it left and where it came, with the network's delay
between them; one that was lost only where it left. Frames that carry a harm say so in a comment (`capture_comments`).

Format: pcapng (draft-ietf-opsawg-pcapng), written by python-pcapng.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pcapng import FileWriter
from pcapng.blocks import EnhancedPacket, InterfaceDescription, SectionHeader

from lateack.cluster.capture_comments import Captured, comments_of
from lateack.cluster.trace import Trace
from lateack.nodes.errors import LateackError
from lateack.nodes.facts import FrameCaptured

CAPTURE_FILE = "capture.pcapng"

EPOCH = 1_293_840_000 * 10**9
"""When every run begins in its capture (ns since 1970), 2011-01-01 00:00 UTC: equal runs make equal files.

Fractions of a second, and seconds and minutes, too, are those of the trace."""

LINKTYPE_ETHERNET = 1
NANOSECONDS = b"\x09"  # if_tsresol: units of 10^-9 s
INBOUND, OUTBOUND = 1, 2  # epb_flags, bits 0 and 1
LOOPBACK = ".lo"


class CaptureError(LateackError):
    """A capture was asked for where there is no place for it, or it cannot be written."""


class Split(NamedTuple):
    """A trace without captured frames, as it would be had nobody captured, and the frames."""

    trace: Trace
    frames: list[Captured]


def split(trace: Trace) -> Split:
    """Take the captured frames out of a trace; each remembers how much of the trace lay before it."""
    rest = Trace()
    frames: list[Captured] = []
    keep = rest.entries.append
    for entry in trace.entries:
        at, _, _, fact = entry
        if isinstance(fact, FrameCaptured):
            frames.append(Captured(len(rest.entries), at, fact))
        else:
            keep(entry)
    return Split(rest, frames)


def write_capture(path: Path, trace: Trace, frames: Sequence[Captured], title: str) -> None:
    """Write *frames* into a pcapng file; *trace*, from which they were split, says which of them carry a harm.

    *title* becomes the section's comment. Raises OSError when the file cannot be written.
    """
    ends = sorted({frame.fact.end for frame in frames})
    section = SectionHeader(
        options={
            "opt_comment": title,
            "shb_hardware": "emulated",
            "shb_os": "lateack",
            "shb_userappl": "lateack, whose runs begin at 2011-01-01 00:00 UTC",
        }
    )
    interfaces = {end: _interface(section, end) for end in ends}
    comments = comments_of(trace, frames)
    with path.open("wb") as file:
        with warnings.catch_warnings():  # the library warns of its own way to keep if_tsresol
            warnings.simplefilter("ignore", DeprecationWarning)
            writer = FileWriter(file, section)
        for place, frame in enumerate(frames):
            writer.write_block(_packet(section, interfaces[frame.fact.end], frame, comments.get(place)))


def _interface(section: Any, end: str) -> int:
    """Add the interface of one link end to the section, and return its number."""
    host = end.removesuffix(LOOPBACK)
    told = f"the loopback device of {host}" if host != end else f"the card of {end}, at its end of the link"
    block = section.new_member(
        InterfaceDescription,
        link_type=LINKTYPE_ETHERNET,
        options={"if_name": end, "if_description": told, "if_tsresol": NANOSECONDS},
    )
    return int(block.interface_id)


def _packet(section: Any, interface: int, frame: Captured, comment: str | None) -> Any:
    at, bytes_seen = EPOCH + frame.at, frame.fact.frame
    options: dict[str, object] = {"epb_flags": OUTBOUND if frame.fact.outbound else INBOUND}
    if comment is not None:
        options["opt_comment"] = comment
    return section.new_member(
        EnhancedPacket,
        interface_id=interface,
        timestamp_high=at >> 32,
        timestamp_low=at & 0xFFFFFFFF,
        packet_len=len(bytes_seen),
        packet_data=bytes_seen,
        options=options,
    )
