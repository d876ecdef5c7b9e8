"""Rules that CRIU puts before the sockets of what it dumps or restores, and leaves behind where it is killed.

By its own methods: a table "inet CRIU-<pid>" (nftables), or chains CRIU (iptables).
"""

from __future__ import annotations

import re

from phaul import net_ns
from phaul.errors import Caution, PhaulError

TABLE = re.compile(r"^table inet (CRIU-\d+) ", re.MULTILINE)
CHAIN = re.compile(r"^\s+chain CRIU ", re.MULTILINE)


def cautions(pid: int, what: str) -> list[Caution]:
    """What there is in the task's network namespace; nothing where there is no nft(8) to ask."""
    try:
        shown = net_ns.inside(pid, "nft", "list", "ruleset", check=False)
    except PhaulError:
        return []
    remedies = [f"nft delete table inet {name}" for name in TABLE.findall(shown.out)]
    remedies += ["iptables -F CRIU"] * bool(CHAIN.search(shown.out))
    reason = f"An earlier CRIU has left firewall rules that drop the traffic of {what}"
    return [
        Caution("firewall-left", reason, f"remove them (nsenter -t {pid} -n {remedy})", what) for remedy in remedies
    ]
