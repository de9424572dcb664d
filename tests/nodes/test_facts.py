"""Facts: typed, immutable, each told in a sentence, each able to cross a process."""

import copy
import inspect
import typing

import msgspec
import pytest

from lateack.nodes import facts
from lateack.nodes.facts import AnyFact, Fact

KINDS: tuple[type[Fact], ...] = typing.get_args(AnyFact)
SAMPLES = {int: 2**40, str: "text", bool: True, bytes: b"\x00\xff", tuple[int, ...]: (1, 2**64 - 1)}
PAGES = tuple[tuple[int, int, int, int], ...]


def example(kind: type[Fact]) -> Fact:
    """Return a fact with something in every field."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: ((1, 2, 3, 4),) if hint == PAGES else SAMPLES[hint] for name, hint in hints.items()})


def test_every_fact_is_in_the_union() -> None:
    """The union is what decoders go by: a fact left out could be recorded and never read again."""
    defined = {kind for kind in vars(facts).values() if inspect.isclass(kind) and issubclass(kind, Fact)}

    assert defined - {Fact} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_fact_survives_the_wire(kind: type[Fact]) -> None:
    """Encoded and decoded among all others it is itself again."""
    fact = example(kind)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(fact), type=AnyFact) == fact


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_fact_is_a_value(kind: type[Fact]) -> None:
    """It holds no reference to live state: it can be a key, its copy equals it, and it cannot change."""
    fact = example(kind)

    assert hash(copy.deepcopy(fact)) == hash(fact)
    with pytest.raises(AttributeError):
        setattr(fact, fact.__struct_fields__[0], None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_fact_says_what_it_is(kind: type[Fact]) -> None:
    """One plain sentence, and nothing that the garbage collector must look at."""
    assert kind.__doc__ is not None
    assert kind.__doc__.strip().split("\n")[0].endswith(".") or "\n" in kind.__doc__
    assert not kind.__struct_config__.gc
