"""Every phase of a haul, broken in every way, in every mode: what becomes of the container."""
