"""The faults of a scenario: causal rules, their frames, facts and triggers, as keys with bounds and descriptions."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator
from pydantic_core import PydanticCustomError

Count = Annotated[StrictInt, Field(ge=1)]
Name = StrictStr


class Section(BaseModel):
    """What every part of a scenario has in common: no key that we do not know, no change once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FrameSelector(Section):
    """Which frames are meant; what is not named matches everything."""

    source: Name | None = Field(default=None, alias="from", description="the machine that sent it")
    target: Name | None = Field(default=None, alias="to", description="the machine it goes to")
    protocol: Literal["tcp", "udp"] | None = Field(default=None, description="what carries it")
    rpc: Name | None = Field(default=None, description="the message that it begins, such as WRITE or SCSI-WRITE")
    kind: Literal["call", "reply", "ack"] | None = Field(default=None, description="what it is")
    port: Annotated[StrictInt, Field(ge=1, le=65_535)] | None = Field(
        default=None, description="the TCP or UDP port of either end; a client's first connection is from 700"
    )


class FactSelector(Section):
    """Which facts are meant: the type's name, who recorded it, and the values of its fields."""

    fact: Name = Field(description="name of a fact of lateack.nodes.facts")
    node: Name | None = Field(default=None, description="the machine that recorded it")
    where: dict[str, Any] = Field(default={}, description="values that its fields must have")


class Condition(Section):
    """Something that happens: a frame passes, or a fact occurs."""

    frame: FrameSelector | None = None
    fact: Name | None = None
    node: Name | None = None
    where: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_of(self) -> "Condition":
        if (self.frame is None) == (self.fact is None):
            raise PydanticCustomError("condition", "needs either 'frame' or 'fact'")
        if self.frame is not None and (self.node is not None or self.where):
            raise PydanticCustomError("condition", "has 'node' or 'where', which belong to a 'fact', beside a 'frame'")
        return self


class Trigger(Section):
    """The nth time that any of some conditions happens; YAML may give one condition or a list of them instead."""

    any: Annotated[tuple[Condition, ...], Field(min_length=1)]
    nth: Count = 1

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, given: object) -> object:
        if isinstance(given, list):
            return {"any": given}
        if isinstance(given, dict) and "any" not in given:
            condition = {key: value for key, value in given.items() if key != "nth"}
            return {"any": [condition]} | {key: value for key, value in given.items() if key == "nth"}
        return given


class Fault(Section):
    """One causal rule: hold or drop frames, gate a place of a machine, or do something to it, between two events."""

    hold: FrameSelector | None = Field(default=None, description="frames that the network keeps back, in order")
    drop: FrameSelector | None = Field(default=None, description="frames that the network loses")
    reset: FrameSelector | None = Field(
        default=None, description="frames that a firewall refuses: their sender is told that its connection is gone"
    )
    gate: Name | None = Field(
        default=None,
        description="nothing passes: backend.ring, before netback takes; .queue, before the driver; .nic, before the "
        "card reads; .tap .socket .mirror .reader .rx, before whoever was given a packet reads it",
    )
    rewrite: Name | None = Field(default=None, description="a guest whose application rewrites what is being written")
    forge: Name | None = Field(default=None, description="a guest that changes headers of packets it has submitted")
    detach: Name | None = Field(default=None, description="a guest whose frontend closes and connects anew")
    crash: Name | None = Field(
        default=None,
        description="'backend': its netback dies, and is back at the end; 'server': it dies, and is back by itself",
    )
    since: Trigger | None = Field(default=None, description="when it begins; without, at once")
    until: Trigger | None = Field(default=None, description="when it ends; without, never")
    nth: tuple[Count, ...] = Field(default=(), description="which of the matching frames; none named means all")

    @model_validator(mode="after")
    def _one_action(self) -> "Fault":
        actions = (self.hold, self.drop, self.reset, self.gate, self.rewrite, self.forge, self.detach, self.crash)
        if sum(action is not None for action in actions) != 1:
            raise PydanticCustomError(
                "fault",
                "needs exactly one of 'hold', 'drop', 'reset', 'gate', 'rewrite', 'forge', 'detach' and 'crash'",
            )
        if self.nth and not (self.hold or self.drop or self.reset):
            raise PydanticCustomError(
                "fault", "has 'nth', which picks frames to 'hold', 'drop' or 'reset' (a trigger has its own)"
            )
        return self
