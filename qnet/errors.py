"""The errors that qnet raises on purpose.

QnetError
├── InvalidRequest      what was asked makes no sense or is not allowed; asking again will not help
│   └── Unsupported     this host, kernel or engine cannot do it
├── NotFound            the pool, network, endpoint or address named does not exist
├── Conflict            someone else has it: an address, a subnet, a name
├── Exhausted           nothing left to give out: a full pool, a used-up supernet
├── Unavailable         a part that qnet needs cannot be reached in time; asking again may help
│   └── Ambiguous       the same, after the request may already have taken effect
└── Internal            a bug or damaged state

Messages are lower case, name the operation's object and the limit, and say what to do where that is known.
"""

from __future__ import annotations


class QnetError(Exception):
    """Base of all errors that qnet raises on purpose; `str(error)` is meant for an operator's eyes."""


class InvalidRequest(QnetError):
    """The request makes no sense or is not allowed."""


class Unsupported(InvalidRequest):
    """This host, kernel or engine cannot do what was asked."""


class NotFound(QnetError):
    """The object named does not exist."""


class Conflict(QnetError):
    """Someone else has what was asked for."""


class Exhausted(QnetError):
    """There is nothing left to give out."""


class Unavailable(QnetError):
    """A part that qnet needs cannot be reached within its deadline."""


class Ambiguous(Unavailable):
    """The request was cut off after it may have taken effect."""


class Internal(QnetError):
    """A bug, or state that no release of qnet wrote."""
