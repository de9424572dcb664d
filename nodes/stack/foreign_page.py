"""A page of a guest's that the host shows as one of its own, with the mark by which its owner knows it again.

It stands apart from the strategies that use it since it derives from `Page`, and both are compiled together.
"""

from lateack.nodes.memory.pages import Page, PageOwner
from lateack.nodes.stack.lifetime import NOWHERE


class ForeignPage(Page):
    """A struct page of netback's (PG_foreign): the number of its pending request, or the local page that it shows."""

    __slots__ = ("copy", "index")

    def __init__(self, index: int, owner: PageOwner) -> None:
        super().__init__(NOWHERE, 0, owner, 0)
        self.index = index
        self.copy: Page | None = None
