"""Hybrid logical clocks: stamps that follow cause and effect, and stay close to the time on the wall.

Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks", OPODIS 2014, figure 5. A stamp is a pair
(wall, logical), compared in that order. `wall` is the greatest physical time that the process has read or heard of, in
ns; `logical` counts what happened within one such reading. If one event can have caused another, its stamp is smaller;
two machines whose clocks are a little apart therefore cannot make a reply come before its question.
"""


class HybridClock:
    """The clock of one process; read `wall` and `logical` after each call."""

    __slots__ = ("logical", "wall")

    def __init__(self) -> None:
        self.wall = 0
        self.logical = 0

    def tick(self, now: int) -> None:
        """Something happens here, or a message leaves, at physical time `now` (ns)."""
        if now > self.wall:
            self.wall = now
            self.logical = 0
        else:
            self.logical += 1

    def observe(self, now: int, wall: int, logical: int) -> None:
        """A message stamped (`wall`, `logical`) arrives at physical time `now` (ns)."""
        if now > self.wall and now > wall:
            self.wall = now
            self.logical = 0
        elif wall > self.wall:
            self.wall = wall
            self.logical = logical + 1
        elif wall == self.wall and logical > self.logical:
            self.logical = logical + 1
        else:
            self.logical += 1
