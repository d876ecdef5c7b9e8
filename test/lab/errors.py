"""What the lab raises."""


class LabError(Exception):
    """Something in the lab went wrong; the text says what, with the words of the tool that failed."""


class CommandFailed(LabError):
    """A command in a host ended with another status than 0."""


class CommandTimedOut(LabError):
    """A command in a host took longer than its time and was killed."""
