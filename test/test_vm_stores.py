"""The image stores of Docker on whole machines."""

from __future__ import annotations

import pytest
import test_haul_stores
from lab.vm import VmLab
from test_haul_stores import CONTAINERD, OVERLAY2, Choose, stores

__all__ = ["stores"]

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

PAIRS = [(CONTAINERD, CONTAINERD), (OVERLAY2, CONTAINERD), (CONTAINERD, OVERLAY2)]


@pytest.mark.parametrize(("here", "there"), PAIRS)
def test_a_counter_moves_between_stores(paired: VmLab, stores: Choose, here: str, there: str) -> None:
    test_haul_stores.test_a_counter_moves_between_stores(paired, stores, here, there, known=True)
