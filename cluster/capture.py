"""Captures: every frame that passed an end of a link, in files that Wireshark and tshark read.

One interface stands for one end: the card of a host, of the backend or of the server, or the loopback device of a host
that serves itself. `capture.pcapng` shows each frame once, where it left. For Wireshark follows a connection by its
addresses and ports alone: with both ends in one file it takes each second sighting for a retransmission, or, where that
comes sooner than the handshake took, for a segment out of order, and then calls its reassembly malformed. What each end
saw, arrivals and all, is in a file of its own, as a sniffer there would have written it. Frames with a harm say so
in comments (`capture_comments`).

Format: pcapng (draft-ietf-opsawg-pcapng), written by python-pcapng.
"""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
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


class Shown(NamedTuple):
    """A frame as a file shows it, and what is to be said of it."""

    frame: Captured
    comments: Sequence[str]


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


def write_captures(folder: Path, trace: Trace, frames: Sequence[Captured], title: str) -> None:
    """Write `capture.pcapng`, each frame once, and beside it one file for each end, if there are several.

    *trace*, from which the frames were split, says which of them carry a harm. *title* becomes each section's comment.
    Raises OSError when a file cannot be written.
    """
    comments = comments_of(trace, frames)
    whole = folder / CAPTURE_FILE
    write_capture(whole, once(frames, comments), title)
    ends = {frame.fact.end for frame in frames}
    for end in sorted(ends) if len(ends) > 1 else ():
        path = whole.with_name(f"{whole.stem}-{end}{whole.suffix}")
        write_capture(path, seen_at(end, frames, comments), f"{title}; what {end} saw")


def once(frames: Sequence[Captured], comments: Mapping[int, Sequence[str]]) -> list[Shown]:
    """Return each frame once, where it left, with what is said of it at either end.

    Where a frame came that had not left so, altered or doubled on its way or out of nowhere, it is shown as it came.
    """
    kept: list[list[str]] = [[] for _ in frames]
    shown: list[int] = []
    under_way: dict[bytes, int] = {}
    copies: Counter[bytes] = Counter()
    for place, (_, _, fact) in enumerate(frames):
        copies[fact.frame] += 1 if fact.outbound else -1
        if fact.outbound or copies[fact.frame] < 0:
            copies[fact.frame] = max(copies[fact.frame], 0)
            under_way[fact.frame] = place
            shown.append(place)
        kept[under_way[fact.frame]] += comments.get(place, ())
    return [Shown(frames[place], list(dict.fromkeys(kept[place]))) for place in shown]


def seen_at(end: str, frames: Sequence[Captured], comments: Mapping[int, Sequence[str]]) -> list[Shown]:
    """Return what one end saw, in both directions."""
    return [Shown(frame, comments.get(place, ())) for place, frame in enumerate(frames) if frame.fact.end == end]


def write_capture(path: Path, shown: Sequence[Shown], title: str) -> None:
    """Write frames into one pcapng file, whose section's comment is *title*; OSError when it cannot be written."""
    ends = sorted({frame.fact.end for frame, _ in shown})
    section = SectionHeader(
        options={
            "opt_comment": title,
            "shb_hardware": "emulated",
            "shb_os": "lateack",
            "shb_userappl": "lateack, whose runs begin at 2011-01-01 00:00 UTC",
        }
    )
    interfaces = {end: _interface(section, end) for end in ends}
    with path.open("wb") as file:
        with warnings.catch_warnings():  # the library warns of its own way to keep if_tsresol
            warnings.simplefilter("ignore", DeprecationWarning)
            writer = FileWriter(file, section)
        for frame, comments in shown:
            writer.write_block(_packet(section, interfaces[frame.fact.end], frame, comments))


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


def _packet(section: Any, interface: int, frame: Captured, comments: Sequence[str]) -> Any:
    at, bytes_seen = EPOCH + frame.at, frame.fact.frame
    packet = section.new_member(
        EnhancedPacket,
        interface_id=interface,
        timestamp_high=at >> 32,
        timestamp_low=at & 0xFFFFFFFF,
        packet_len=len(bytes_seen),
        packet_data=bytes_seen,
        options={"epb_flags": OUTBOUND if frame.fact.outbound else INBOUND},
    )
    for comment in comments:
        packet.options.add("opt_comment", comment)
    return packet
