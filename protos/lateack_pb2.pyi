from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Hello(_message.Message):
    __slots__ = ("name", "run_epoch", "token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    run_epoch: int
    token: str
    def __init__(self, name: _Optional[str] = ..., run_epoch: _Optional[int] = ..., token: _Optional[str] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("hlc_wall_ns", "hlc_logical", "source", "epoch", "target", "sent_at_ns", "frames", "notes")
    HLC_WALL_NS_FIELD_NUMBER: _ClassVar[int]
    HLC_LOGICAL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SENT_AT_NS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    hlc_wall_ns: int
    hlc_logical: int
    source: str
    epoch: int
    target: str
    sent_at_ns: int
    frames: _containers.RepeatedScalarFieldContainer[bytes]
    notes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, hlc_wall_ns: _Optional[int] = ..., hlc_logical: _Optional[int] = ..., source: _Optional[str] = ..., epoch: _Optional[int] = ..., target: _Optional[str] = ..., sent_at_ns: _Optional[int] = ..., frames: _Optional[_Iterable[bytes]] = ..., notes: _Optional[_Iterable[bytes]] = ...) -> None: ...
