"""Foreign pages in all weather: whatever the stack does to its packets, each request is answered once, and in time."""

from hypothesis import given, strategies as st

from lateack.nodes.node import MS
from lateack.nodes.stack.skb import SkBuff, alloc_skb, kfree_skb, skb_length, skb_linear
from lateack.nodes.stack.skb_copy import pskb_copy, pskb_expand_head, skb_clone
from lateack.nodes.stack.skb_cut import pskb_pull_tail, pskb_trim, skb_split
from lateack.nodes.strategies.foreign import PageForeign
from lateack.nodes.strategies.lazy_copy import LazyCopy
from tests.nodes.strategies.held import HEAD, Held

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "clone", "copy", "expand", "pull", "trim", "split", "free", "burst", "wait"]),
        st.integers(0, 7),
        st.integers(1, 900),
    ),
    max_size=40,
)


@given(kind=st.sampled_from([PageForeign, LazyCopy]), steps=STEPS)
def test_every_page_comes_home_once(kind: type[PageForeign], steps: list[tuple[str, int, int]]) -> None:
    """A page that any packet shows is mapped or copied, never gone; when the last packet is free, all is as it was."""
    held = Held(kind)
    kernel, strategy = held.pair.kernel, held.strategy
    skbs = [held.skb]

    for step, which, amount in steps:
        if step == "send" and len(skbs) < 12:
            held.pair.front.send(HEAD, [bytes([which]) * amount, bytes([which + 1]) * 1000])
            skbs += held.pair.take()
        elif step == "wait":
            kernel.now += amount * MS
            if kernel.alarm is not None and kernel.alarm <= kernel.now:
                strategy.woken(kernel.now)
        elif step == "burst":
            held.settle()
        elif skbs:
            act(step, skbs, which % len(skbs), amount, held)
        shown = {frag.page for skb in skbs for frag in skb.shinfo.frags}
        assert all(page.refs > 0 and page.memory.domid in (0, 1) for page in shown)
        mapped = sum(page.memory.domid == 1 for page in shown)
        assert strategy.in_flight() - len(held.pair.vif.released) == mapped

    for skb in skbs:
        kfree_skb(skb)
    assert held.whole()


def act(step: str, skbs: list[SkBuff], which: int, amount: int, held: Held) -> None:
    """Do one thing to one packet, as the host's stack might."""
    skb = skbs[which]
    if step == "clone":
        skbs.append(skb_clone(skb))
    elif step == "copy":
        skbs.append(pskb_copy(skb))
    elif step == "expand":
        pskb_expand_head(skb)
    elif step == "pull":
        paged = skb_length(skb) - len(skb_linear(skb))
        room = 512 - 96 - len(skb_linear(skb))
        pskb_pull_tail(skb, min(amount, paged, room))
    elif step == "trim":
        pskb_trim(skb, max(len(HEAD), skb_length(skb) - amount))
    elif step == "split" and skb.shinfo.dataref == 1:
        rest = alloc_skb(held.pair.kernel.slab)
        skb_split(skb, rest, len(skb_linear(skb)) + amount)
        skbs.append(rest)
    elif step == "free":
        kfree_skb(skbs.pop(which))
