from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Begin(_message.Message):
    __slots__ = ["haul", "haul_type", "subject", "wanted"]
    HAUL_FIELD_NUMBER: _ClassVar[int]
    HAUL_TYPE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    haul: str
    haul_type: str
    subject: str
    wanted: bytes
    def __init__(self, haul: _Optional[str] = ..., haul_type: _Optional[str] = ..., subject: _Optional[str] = ..., wanted: _Optional[bytes] = ...) -> None: ...

class Begun(_message.Message):
    __slots__ = ["token"]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    def __init__(self, token: _Optional[bytes] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ["facts", "haul_type", "wanted"]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    HAUL_TYPE_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    facts: HostFacts
    haul_type: str
    wanted: bytes
    def __init__(self, haul_type: _Optional[str] = ..., wanted: _Optional[bytes] = ..., facts: _Optional[_Union[HostFacts, _Mapping]] = ...) -> None: ...

class Checked(_message.Message):
    __slots__ = ["facts", "findings", "lacks", "shown"]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    LACKS_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    facts: HostFacts
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    lacks: _containers.RepeatedScalarFieldContainer[str]
    shown: _containers.RepeatedCompositeFieldContainer[Fact]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., facts: _Optional[_Union[HostFacts, _Mapping]] = ..., lacks: _Optional[_Iterable[str]] = ..., shown: _Optional[_Iterable[_Union[Fact, _Mapping]]] = ...) -> None: ...

class Complete(_message.Message):
    __slots__ = ["haul", "patience_ms", "release_follows"]
    HAUL_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_MS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    haul: str
    patience_ms: int
    release_follows: bool
    def __init__(self, haul: _Optional[str] = ..., patience_ms: _Optional[int] = ..., release_follows: bool = ...) -> None: ...

class Discard(_message.Message):
    __slots__ = ["haul"]
    HAUL_FIELD_NUMBER: _ClassVar[int]
    haul: str
    def __init__(self, haul: _Optional[str] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ["note"]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    note: str
    def __init__(self, note: _Optional[str] = ...) -> None: ...

class Expectation(_message.Message):
    __slots__ = ["files", "mounts", "tasks"]
    FILES_FIELD_NUMBER: _ClassVar[int]
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[OpenFile]
    mounts: _containers.RepeatedScalarFieldContainer[str]
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    def __init__(self, tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., files: _Optional[_Iterable[_Union[OpenFile, _Mapping]]] = ..., mounts: _Optional[_Iterable[str]] = ...) -> None: ...

class Fact(_message.Message):
    __slots__ = ["name", "value"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ["blockers", "code", "detail", "sentence", "status"]
    BLOCKERS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SENTENCE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    blockers: _containers.RepeatedCompositeFieldContainer[Finding]
    code: str
    detail: str
    sentence: str
    status: int
    def __init__(self, code: _Optional[str] = ..., status: _Optional[int] = ..., sentence: _Optional[str] = ..., detail: _Optional[str] = ..., blockers: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ["blocks", "code", "reason", "remedy", "subject"]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    blocks: bool
    code: str
    reason: str
    remedy: str
    subject: str
    def __init__(self, code: _Optional[str] = ..., reason: _Optional[str] = ..., remedy: _Optional[str] = ..., subject: _Optional[str] = ..., blocks: bool = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ["subject"]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    subject: str
    def __init__(self, subject: _Optional[str] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ["channel", "codec", "protocol", "purpose", "token", "version"]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    channel: str
    codec: str
    protocol: int
    purpose: str
    token: bytes
    version: str
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., purpose: _Optional[str] = ..., token: _Optional[bytes] = ..., channel: _Optional[str] = ..., codec: _Optional[str] = ...) -> None: ...

class HelloReply(_message.Message):
    __slots__ = ["failure", "protocol", "version"]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    failure: Failure
    protocol: int
    version: str
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class HostFacts(_message.Message):
    __slots__ = ["capabilities", "cgroup_v2", "clock", "cpu", "criu", "host_id", "hostname", "kernel", "machine", "rsync", "security"]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    CGROUP_V2_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    CRIU_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    HOST_ID_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    MACHINE_FIELD_NUMBER: _ClassVar[int]
    RSYNC_FIELD_NUMBER: _ClassVar[int]
    SECURITY_FIELD_NUMBER: _ClassVar[int]
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    cgroup_v2: bool
    clock: float
    cpu: str
    criu: str
    host_id: str
    hostname: str
    kernel: str
    machine: str
    rsync: str
    security: str
    def __init__(self, hostname: _Optional[str] = ..., machine: _Optional[str] = ..., kernel: _Optional[str] = ..., criu: _Optional[str] = ..., rsync: _Optional[str] = ..., cgroup_v2: bool = ..., capabilities: _Optional[_Iterable[str]] = ..., cpu: _Optional[str] = ..., host_id: _Optional[str] = ..., clock: _Optional[float] = ..., security: _Optional[str] = ...) -> None: ...

class ImageFile(_message.Message):
    __slots__ = ["name", "size"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class LogEntry(_message.Message):
    __slots__ = ["line", "partial", "source", "time_nano"]
    LINE_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TIME_NANO_FIELD_NUMBER: _ClassVar[int]
    line: bytes
    partial: bool
    source: str
    time_nano: int
    def __init__(self, source: _Optional[str] = ..., time_nano: _Optional[int] = ..., line: _Optional[bytes] = ..., partial: bool = ...) -> None: ...

class Logs(_message.Message):
    __slots__ = ["haul"]
    HAUL_FIELD_NUMBER: _ClassVar[int]
    haul: str
    def __init__(self, haul: _Optional[str] = ...) -> None: ...

class LogsAre(_message.Message):
    __slots__ = ["packed"]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    packed: bytes
    def __init__(self, packed: _Optional[bytes] = ...) -> None: ...

class OpenFile(_message.Message):
    __slots__ = ["fd", "path", "pid", "size"]
    FD_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    fd: int
    path: str
    pid: int
    size: int
    def __init__(self, pid: _Optional[int] = ..., fd: _Optional[int] = ..., path: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Poise(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Prepare(_message.Message):
    __slots__ = ["lazy"]
    LAZY_FIELD_NUMBER: _ClassVar[int]
    lazy: bool
    def __init__(self, lazy: bool = ...) -> None: ...

class Prepared(_message.Message):
    __slots__ = ["prepared", "trees"]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    TREES_FIELD_NUMBER: _ClassVar[int]
    prepared: bytes
    trees: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, trees: _Optional[_Iterable[str]] = ..., prepared: _Optional[bytes] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class Reply(_message.Message):
    __slots__ = ["begun", "checked", "done", "failure", "held", "logs", "prepared", "state_is"]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    CHECKED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    STATE_IS_FIELD_NUMBER: _ClassVar[int]
    begun: Begun
    checked: Checked
    done: Done
    failure: Failure
    held: Held
    logs: LogsAre
    prepared: Prepared
    state_is: StateIs
    def __init__(self, failure: _Optional[_Union[Failure, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., checked: _Optional[_Union[Checked, _Mapping]] = ..., begun: _Optional[_Union[Begun, _Mapping]] = ..., prepared: _Optional[_Union[Prepared, _Mapping]] = ..., held: _Optional[_Union[Held, _Mapping]] = ..., state_is: _Optional[_Union[StateIs, _Mapping]] = ..., logs: _Optional[_Union[LogsAre, _Mapping]] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ["begin", "check", "complete", "discard", "logs", "ping", "poise", "prepare", "release", "restore", "state", "verify"]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    DISCARD_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    POISE_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERIFY_FIELD_NUMBER: _ClassVar[int]
    begin: Begin
    check: Check
    complete: Complete
    discard: Discard
    logs: Logs
    ping: Ping
    poise: Poise
    prepare: Prepare
    release: Release
    restore: Restore
    state: State
    verify: Verify
    def __init__(self, ping: _Optional[_Union[Ping, _Mapping]] = ..., check: _Optional[_Union[Check, _Mapping]] = ..., begin: _Optional[_Union[Begin, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., restore: _Optional[_Union[Restore, _Mapping]] = ..., verify: _Optional[_Union[Verify, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., discard: _Optional[_Union[Discard, _Mapping]] = ..., complete: _Optional[_Union[Complete, _Mapping]] = ..., state: _Optional[_Union[State, _Mapping]] = ..., poise: _Optional[_Union[Poise, _Mapping]] = ..., logs: _Optional[_Union[Logs, _Mapping]] = ...) -> None: ...

class Restore(_message.Message):
    __slots__ = ["options", "release_follows"]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    options: bytes
    release_follows: bool
    def __init__(self, options: _Optional[bytes] = ..., release_follows: bool = ...) -> None: ...

class State(_message.Message):
    __slots__ = ["haul"]
    HAUL_FIELD_NUMBER: _ClassVar[int]
    haul: str
    def __init__(self, haul: _Optional[str] = ...) -> None: ...

class StateIs(_message.Message):
    __slots__ = ["lost", "missing", "state", "subject"]
    LOST_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    lost: bool
    missing: int
    state: str
    subject: str
    def __init__(self, state: _Optional[str] = ..., subject: _Optional[str] = ..., missing: _Optional[int] = ..., lost: bool = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ["comm", "pid", "threads"]
    COMM_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    comm: str
    pid: int
    threads: int
    def __init__(self, pid: _Optional[int] = ..., threads: _Optional[int] = ..., comm: _Optional[str] = ...) -> None: ...

class Verify(_message.Message):
    __slots__ = ["expectation"]
    EXPECTATION_FIELD_NUMBER: _ClassVar[int]
    expectation: Expectation
    def __init__(self, expectation: _Optional[_Union[Expectation, _Mapping]] = ...) -> None: ...
