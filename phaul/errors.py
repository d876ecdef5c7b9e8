"""Every failure that P.Haul foresees.

    PhaulError                  status  the rest of the tree sets code and status
    ├── UsageError               2      the command line does not make sense
    ├── Refused                  3      it cannot work; nothing was changed on either host
    │   └── Blocked                     one or more `Blocker`s found before anything was touched
    ├── Unreachable              4      no P.Haul service answers at the target
    │   └── LinkLost                    a connection ended or fell silent
    ├── NotTrusted               5      the hosts are not paired, or a key is not the pinned one
    ├── ProtocolError            6      the peer speaks another version, or not P.Haul
    ├── HaulFailed               7      failed on the way; the source runs on, the target is clean
    ├── InDoubt                  8      connection lost after COMMIT: only --resolve may decide
    ├── Cancelled                9      interrupted before COMMIT; the source runs on
    └── Untidy                  10      moved and running, but something could not be tidied up

Exit status 0 is a container that runs at the target, 1 an unforeseen exception (with its traceback).
Codes are stable words for programs; sentences are for people and may change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self


@dataclass(frozen=True)
class Finding:
    """What a check found: a stable `code`, what it is about, the reason, and what to do about it, both for people."""

    code: str
    reason: str
    remedy: str = ""
    subject: str = ""
    blocks: ClassVar[bool] = True

    @classmethod
    def of(cls, code: str, sentence: str, subject: str = "") -> Self:
        """From "reason: remedy."."""
        reason, _, remedy = sentence.rstrip(".").rpartition(": ")
        return cls(code, reason or remedy, remedy if reason else "", subject)

    @property
    def sentence(self) -> str:
        """Reason and remedy in one."""
        return f"{': '.join(part.rstrip('.') for part in (self.reason, self.remedy) if part)}."


@dataclass(frozen=True)
class Blocker(Finding):
    """One reason why a haul cannot work."""


@dataclass(frozen=True)
class Caution(Finding):
    """What may go wrong, or otherwise than expected, in a haul that can work."""

    blocks: ClassVar[bool] = False


class PhaulError(Exception):
    """A foreseen failure: one sentence, a stable code, an exit status; `detail` holds more lines."""

    code = "failed"
    status = 7

    def __init__(self, sentence: str, *, code: str = "", detail: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.detail = detail
        if code:
            self.code = code


class UsageError(PhaulError):
    code = "usage"
    status = 2


class Refused(PhaulError):
    code = "refused"
    status = 3


class Blocked(Refused):
    """The check found blockers: `code` is the first one's."""

    def __init__(self, blockers: tuple[Finding, ...]) -> None:
        self.blockers = blockers
        super().__init__("\n".join(b.sentence for b in blockers), code=blockers[0].code)


class Unreachable(PhaulError):
    code = "unreachable"
    status = 4


class LinkLost(Unreachable):
    code = "link-lost"


class NotTrusted(PhaulError):
    code = "not-paired"
    status = 5


class ProtocolError(PhaulError):
    code = "protocol"
    status = 6


class HaulFailed(PhaulError):
    code = "failed"
    status = 7


class InDoubt(PhaulError):
    code = "in-doubt"
    status = 8


class Cancelled(PhaulError):
    code = "cancelled"
    status = 9


class Untidy(PhaulError):
    code = "untidy"
    status = 10


BY_STATUS: dict[int, type[PhaulError]] = {
    kind.status: kind
    for kind in (UsageError, Refused, Unreachable, NotTrusted, ProtocolError, HaulFailed, InDoubt, Cancelled, Untidy)
}


def from_peer(sentence: str, code: str, status: int, detail: str) -> PhaulError:
    """The failure that a peer reported; a status that we do not know is a HaulFailed."""
    return BY_STATUS.get(status, HaulFailed)(sentence, code=code or "failed", detail=detail)
