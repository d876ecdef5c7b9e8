"""Debian trees made by mmdebstrap: the root of the lab's hosts, and of the image that runs real programs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from . import cache

# testing alone has a CRIU (>= 4.2) that can dump TCP sockets on kernels >= 6.16; older suites are for whole machines.
SUITE = os.environ.get("PHAUL_LAB_SUITE", "testing")
USUAL_MIRROR = "http://deb.debian.org/debian"
HOST_PACKAGES = (
    *("criu", "python3-pycriu", "docker.io", "docker-cli", "runc", "containerd"),
    *("iproute2", "iptables", "nftables", "mount", "procps", "busybox-static"),
    *("python3", "python3-docker", "python3-psutil", "python3-protobuf", "python3-cryptography", "python3-rich"),
    *("python3-xxhash", "python3-zstandard"),
    *("rsync", "openssh-server", "openssh-client", "openssl", "ca-certificates"),
)
# The mirror's Release file of testing may be older than its own time limit.
OPTIONS = ('--aptopt=Acquire::Check-Valid-Until "false"', "--quiet")
# apt's lists and package files would only make the trees bigger.
CLEAN = '--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*.bin'


def host_root(extra: Sequence[str] = ()) -> Path:
    """The directory that is every host's lower layer; another one for hosts that have more packages."""
    packages = (*HOST_PACKAGES, *extra)
    name = f"root-{cache.key(SUITE, *packages, *OPTIONS, CLEAN)}"
    return cache.made(name, lambda target: bootstrap(target, packages, variant="minbase"))


def bootstrap(target: Path, packages: Sequence[str], *, variant: str, extra: Sequence[str] = ()) -> None:
    """Make a tree with the packages: a directory, or a tar file where the target's name ends so."""
    kind = "tar" if ".tar" in target.suffixes else "directory"
    include = f"--include={','.join(packages)}"
    cache.build(
        [
            "mmdebstrap",
            f"--variant={variant}",
            f"--format={kind}",
            *OPTIONS,
            *extra,
            CLEAN,
            include,
            SUITE,
            target,
            mirror(),
        ]
    )


def mirror() -> str:
    """The Debian mirror that this machine's apt uses."""
    sources = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for source in sources:
        if source.suffix in {".list", ".sources"} and source.is_file():
            for found in re.finditer(
                r"^(?:deb\s.*?|URIs:\s*)(\w+://\S+/debian)/?(?:\s|$)", source.read_text(), re.MULTILINE
            ):
                return str(found[1])
    return USUAL_MIRROR
