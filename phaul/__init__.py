"""P.Haul: moves running containers and processes between Linux hosts."""

VERSION = "0.2.0"
