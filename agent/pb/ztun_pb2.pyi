from agent.pb import authorization_pb2 as _authorization_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolledPod(_message.Message):
    __slots__ = ("namespace", "name")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class EnrolledReport(_message.Message):
    __slots__ = ("node", "pods")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PODS_FIELD_NUMBER: _ClassVar[int]
    node: str
    pods: _containers.RepeatedCompositeFieldContainer[EnrolledPod]
    def __init__(self, node: _Optional[str] = ..., pods: _Optional[_Iterable[_Union[EnrolledPod, _Mapping]]] = ...) -> None: ...

class EnrolledReply(_message.Message):
    __slots__ = ("unknown",)
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    unknown: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, unknown: _Optional[_Iterable[str]] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("pod", "reason", "remedy")
    POD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    pod: str
    reason: str
    remedy: str
    def __init__(self, pod: _Optional[str] = ..., reason: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class Findings(_message.Message):
    __slots__ = ("findings",)
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class ConnectionLimits(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[ConnectionLimit]
    def __init__(self, limits: _Optional[_Iterable[_Union[ConnectionLimit, _Mapping]]] = ...) -> None: ...

class ConnectionLimit(_message.Message):
    __slots__ = ("name", "clients", "connections", "new_per_second", "bytes_per_second")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    NEW_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    name: str
    clients: _containers.RepeatedCompositeFieldContainer[_authorization_pb2.Match]
    connections: int
    new_per_second: int
    bytes_per_second: int
    def __init__(self, name: _Optional[str] = ..., clients: _Optional[_Iterable[_Union[_authorization_pb2.Match, _Mapping]]] = ..., connections: _Optional[int] = ..., new_per_second: _Optional[int] = ..., bytes_per_second: _Optional[int] = ...) -> None: ...
