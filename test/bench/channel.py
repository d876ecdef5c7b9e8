"""How long memory takes through P.Haul's own authenticated, encrypted channel and nothing else: the yardstick."""

from __future__ import annotations

import subprocess

from lab import LabError

from .bed import Bed

PORT = 12399
TIMEOUT_S = 60
# Both ends are P.Haul's own code, in the hosts, by the keys that pairing pinned.
BEGINNING = """\
import sys, time
sys.path.insert(0, "/opt/phaul")
from phaul import tls
from phaul.keys import Identity, Peers
"""
RECEIVE = f"""{BEGINNING}
import threading
from phaul.listener import Listener

done = threading.Event()

def receive(link):
    for piece in link.recv_chunks():
        pass
    link.send(b".")
    link.linger()
    done.set()

listener = Listener(receive, Identity.load_or_make(), Peers(), address=("0.0.0.0", {PORT}))
print(flush=True)
done.wait({TIMEOUT_S})
listener.close()
"""
SEND = f"""{BEGINNING}
import os
mib = int(sys.argv[2])
memory = os.urandom(min(mib, 64) << 20)
memory = memoryview(memory * (mib // (len(memory) >> 20)))
link = tls.connect(sys.argv[1], {PORT}, Identity.load_or_make(), Peers())
begun = time.monotonic()
link.send_chunks(memory[start : start + (1 << 20)] for start in range(0, len(memory), 1 << 20))
link.recv_exact(1)
print(time.monotonic() - begun)
link.close()
"""


def copy(bed: Bed, mib: int) -> float:
    """Seconds for so much random memory. Raises LabError."""
    receiver = bed.target.popen("python3", "-c", RECEIVE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        if not receiver.stdout.readline():
            raise LabError(receiver.communicate()[1].decode(errors="replace"))
        done = bed.source.run("python3", "-c", SEND, bed.target.ip, str(mib), timeout=TIMEOUT_S)
        receiver.communicate(timeout=TIMEOUT_S)
    finally:
        receiver.kill()
        receiver.communicate()
    return float(done.out)
