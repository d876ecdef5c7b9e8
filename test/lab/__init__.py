"""Two real Docker hosts on one machine, for tests and for trying things by hand."""

from .errors import CommandFailed, CommandTimedOut, LabError
from .host import Done, Host
from .instance import Lab, TwoHosts

__all__ = ["CommandFailed", "CommandTimedOut", "Done", "Host", "Lab", "LabError", "TwoHosts"]
