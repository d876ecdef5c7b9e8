"""All targets, by name."""

from __future__ import annotations

from . import haul_targets, host_targets, wire_targets
from .table import Target

TABLE: dict[str, Target] = {
    target.name: target for target in (*wire_targets.TARGETS, *haul_targets.TARGETS, *host_targets.TARGETS)
}
