"""The trace of a run: every fact that any machine recorded, in causal order, with its digest and its two files.

Worlds append plain tuples, since they do it hundreds of thousands of times. Sorting by type, digests and files are made
when somebody asks.
"""

from collections import defaultdict
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import TypeVar, cast

import msgpack
import msgspec
import xxhash

from lateack.nodes.errors import LateackError
from lateack.nodes.facts import AnyFact, Fact

# When (ns since the run began), the hybrid logical clock's counter, the machine, and what it recorded.
Entry = tuple[int, int, str, Fact]
F = TypeVar("F", bound=Fact)

FACT_OF = itemgetter(3)
CHUNK = 4096  # entries that are encoded or decoded at a time
ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(list[tuple[int, int, str, AnyFact]])


class TraceUnreadable(LateackError):
    """A trace file is cut short or was not written by this version."""


class Trace:
    """All entries of a run in causal order; `entries` may be appended to at any time."""

    __slots__ = ("_indexed", "_places", "entries")

    def __init__(self, entries: list[Entry] | None = None) -> None:
        self.entries: list[Entry] = [] if entries is None else entries
        self._places: defaultdict[type[Fact], list[int]] = defaultdict(list)
        self._indexed = 0

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, place: int) -> Entry:
        return self.entries[place]

    def places_of(self, kind: type[Fact]) -> list[int]:
        """Return the positions of all facts of one type, rising; the caller must not change the list."""
        if self._indexed != len(self.entries):
            self._index()
        return self._places.get(kind) or []

    def of_type(self, kind: type[F]) -> list[tuple[int, int, str, F]]:
        """Return the entries of one type of fact, in order; position k of them is `places_of(kind)[k]`."""
        entries = self.entries
        return cast("list[tuple[int, int, str, F]]", [entries[place] for place in self.places_of(kind)])

    def placed(self, kind: type[F], after: int = -1) -> Iterator[tuple[int, int, str, F]]:
        """Yield (position, time in ns, machine, fact) for the facts of one type that come after a position."""
        entries = cast("list[tuple[int, int, str, F]]", self.entries)
        for place in self.places_of(kind):
            if place > after:
                at, _, node, fact = entries[place]
                yield place, at, node, fact

    def named(self, name: str) -> list[Entry]:
        """Return the entries whose fact type has this name, in order."""
        self.places_of(Fact)
        places = next((places for kind, places in self._places.items() if kind.__name__ == name), [])
        return [self.entries[place] for place in places]

    def _index(self) -> None:
        places, start = self._places, self._indexed
        fresh = self.entries[start:] if start else self.entries
        for place, kind in enumerate(map(type, map(FACT_OF, fresh)), start):
            places[kind].append(place)
        self._indexed = len(self.entries)

    def digest(self) -> str:
        """Return the xxh3-128 digest (hex) of the canonical trace: that of the file which `write_msgpack` writes."""
        hasher = xxhash.xxh3_128()
        for records in self._encoded():
            hasher.update(records)
        return hasher.hexdigest()

    def _encoded(self) -> Iterator[memoryview]:
        """Yield the records `(at, logical, node, fact)` one after the other, a chunk of them at a time."""
        for start in range(0, len(self.entries), CHUNK):
            chunk = self.entries[start : start + CHUNK]
            # One call for all of them, less the header of the array that held them (msgpack: fixarray or array 16).
            yield memoryview(ENCODER.encode(chunk))[1 if len(chunk) < 16 else 3 :]

    def write_msgpack(self, path: Path) -> None:
        """Write the entries as a stream of msgpack records; OSError when the file cannot be written."""
        with path.open("wb") as file:
            file.writelines(self._encoded())

    def write_text(self, path: Path) -> None:
        """Write one line per entry in aligned columns: milliseconds, machine, fact, fields in short form."""
        nodes = max((len(node) for _, _, node, _ in self.entries), default=0)
        kinds = max((len(type(fact).__name__) for _, _, _, fact in self.entries), default=0)
        with path.open("w", encoding="utf-8") as file:
            for at, _, node, fact in self.entries:
                line = f"{milliseconds(at):>14}  {node:<{nodes}}  {type(fact).__name__:<{kinds}}  {fields_text(fact)}"
                file.write(line.rstrip() + "\n")


def read_msgpack(path: Path) -> Trace:
    """Read a trace that `write_msgpack` wrote; raises TraceUnreadable when it is cut short or of another version."""
    data = path.read_bytes()
    entries: list[Entry] = []
    try:
        for start, end, count in _chunks(data):
            entries += DECODER.decode(b"\xdd" + count.to_bytes(4, "big") + data[start:end])
    except (msgspec.DecodeError, msgpack.UnpackException, ValueError) as error:
        raise TraceUnreadable(f"{path} is not a trace of this version ({error}); run the story again") from error
    return Trace(entries)


def _chunks(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield where each chunk of records starts and ends, and how many they are."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(data), 1))
    unpacker.feed(data)
    start, count = 0, 0
    while unpacker.tell() < len(data):
        unpacker.skip()
        count += 1
        if count == CHUNK or unpacker.tell() == len(data):
            yield start, unpacker.tell(), count
            start, count = unpacker.tell(), 0


# --- how people read it -----------------------------------------------------------------------------------------------


def milliseconds(time: int) -> str:
    """Return a time in nanoseconds as milliseconds with three decimals: `1203.250`."""
    return f"{time // 1_000_000}.{time // 1000 % 1000:03d}"


def ranges_text(numbers: tuple[int, ...]) -> str:
    """Return whole numbers with runs drawn together: `12-19, 31`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def fields_text(fact: Fact) -> str:
    """Return the fields of a fact as `name=value`, long values cut short and empty ones left out."""
    values = ((name, getattr(fact, name)) for name in fact.__struct_fields__)
    return " ".join(f"{name}={_value_text(name, value)}" for name, value in values if value not in ((), b"", ""))


def _value_text(name: str, value: object) -> str:
    if name in ("xid", "former", "rkey"):
        return f"{value:#010x}"
    if name in ("digest", "held", "holds"):
        return f"{value:016x}"
    if name in ("latency", "rto"):
        return f"{milliseconds(cast('int', value))}ms"
    if name == "digests":
        digests = cast("tuple[int, ...]", value)
        return f"{digests[0]:016x}" + (f"(+{len(digests) - 1})" if len(digests) > 1 else "")
    if name == "frames":
        return ranges_text(cast("tuple[int, ...]", value)).replace(", ", ",")
    if name == "pages":
        return ",".join(f"{domain}:{frame}+{at}/{size}" for domain, frame, at, size in cast("tuple[Page, ...]", value))
    if isinstance(value, bytes):
        return f"{value[:8].hex()}{'..' if len(value) > 8 else ''}({len(value)}B)"
    return repr(value) if isinstance(value, str) and " " in value else str(value)


Page = tuple[int, int, int, int]  # domain, frame, offset, length
