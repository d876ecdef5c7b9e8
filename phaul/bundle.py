"""p.haul bundle: the logs of the last haul of a subject, from both hosts, in a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from phaul import journal, log_bundle, places, resolve
from phaul.errors import PhaulError, Refused, UsageError
from phaul.journal import Journal
from phaul.messages_pb2 import Logs, Request

ASK_SECONDS = 60


def bundle(options: argparse.Namespace) -> int:
    """Raises Refused (no-haul), UsageError (bundle-file); a target that does not answer is told of, and left out."""
    record = _last(options.container)
    here = log_bundle.packed(places.log_dir(record.haul))
    try:
        with resolve.calling(record, patience=0) as caller:
            there, why = caller.call(Request(logs=Logs(haul=record.haul)), timeout=ASK_SECONDS).logs.packed, ""
    except PhaulError as error:
        there, why = b"", error.sentence
    try:
        log_bundle.write(Path(options.file), here, there)
    except OSError as error:
        raise UsageError(f"{options.file} cannot be written: {error.strerror}.", code="bundle-file") from None
    peer = record.head["peer"]
    said = f" and of {peer}" if there else f"; {peer} has given none. {why}".rstrip()
    print(f"{options.file}: the logs of haul {record.haul} of this host{said}")
    return 0


def _last(name: str) -> Journal:
    """The newest haul of that subject from here. Raises Refused (no-haul)."""
    found = []
    for path in journal.all_of(journal.SOURCE):
        record = journal.read(path)
        if record.head and resolve.means(record, name):
            found.append(record)
    if not found:
        raise Refused(f"No haul of {name!r} from this host is on record (p.haul history shows them).", code="no-haul")
    return max(found, key=lambda record: float(record.head["begun"]))
