"""The lab's second backend: whole Debian machines under qemu, with their own kernel, systemd and cgroup v2."""

from . import snapshot
from .lab import VmLab
from .machine import missing
from .vmhost import VmHost

__all__ = ["VmHost", "VmLab", "missing", "snapshot"]
