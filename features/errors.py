"""Every error that a user of Headstart can meet.

    HeadstartError            printed as one line; the command exits with 1
    ├── InputError            a file, option or setting is wrong: mend it; never retried
    ├── Mismatch              two parts do not belong together (trunk, namespace, topics): the text says which differs
    └── DependencyDown        the broker or Redis does not answer: retried with a bound, then the process exits

`features.events.Refused` is not among them: a refused event is data, goes to `rejected`, and stops nothing.
"""

from __future__ import annotations


class HeadstartError(Exception):
    """The text is one readable line: what was expected, what came, and what to do."""


class InputError(HeadstartError):
    """A file, option or setting of the user's cannot be used. Operator action: mend it."""


class Mismatch(HeadstartError):
    """Parts that do not belong together. Operator action: use the trunk, namespace or topics that the text names."""


class DependencyDown(HeadstartError):
    """The broker or Redis cannot be reached. Operator action: start it, or mend the address; offsets stay where they were."""
