"""The timers of one machine: a heap of deadlines, each with a name."""

from heapq import heapify, heappop, heappush

NEVER = 1 << 62  # ns: later than any run
STALE_MAX = 64  # replaced deadlines that may stay in the heap, beside as many as there are live ones


class Timers:
    """Deadlines by name; setting one again replaces it, and what was replaced is passed over when it comes up."""

    __slots__ = ("_heap", "_serial", "_serials")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._serials: dict[str, int] = {}
        self._serial = 0

    def __len__(self) -> int:
        """Return how many timers are set."""
        return len(self._serials)

    def set(self, name: str, at: int) -> None:
        """Let `name` come due at `at` (ns), and no longer when it was to."""
        self._serial += 1
        self._serials[name] = self._serial
        heappush(self._heap, (at, self._serial, name))
        if len(self._heap) > STALE_MAX + 2 * len(self._serials):
            self._heap = [entry for entry in self._heap if self._serials.get(entry[2]) == entry[1]]
            heapify(self._heap)

    def cancel(self, name: str) -> None:
        """Forget `name`, if it is set."""
        self._serials.pop(name, None)

    def next_deadline(self) -> int:
        """Return when the next timer comes due (ns); NEVER when none is set."""
        heap, serials = self._heap, self._serials
        while heap and serials.get(heap[0][2]) != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else NEVER

    def take_next(self) -> str:
        """Remove the timer that comes due next and return its name; in the order of setting where times are equal."""
        assert self.next_deadline() < NEVER, "no timer is set"
        name = heappop(self._heap)[2]
        del self._serials[name]
        return name
