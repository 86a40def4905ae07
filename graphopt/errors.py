"""The errors that graphopt raises, each with the exit code that the command line gives it.

A message is one sentence: what is wrong, where, and what to do about it.
"""

from __future__ import annotations

import errno
from typing import ClassVar

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of the system that say that a file cannot be written, and nothing of any model."""


class GraphoptError(Exception):
    """Base of every error that graphopt raises on purpose.

    Args:
        message: One sentence that says what is wrong, where, and what to do.
        pass_name: The pass instance that was running, if one was.
        site: The text of the site key that was being rewritten, if one was.
    """

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, pass_name: str | None = None, site: str | None = None) -> None:
        super().__init__(message)
        self.pass_name = pass_name
        self.site = site


class BadInput(GraphoptError):
    """The caller gave something that cannot be used: a file, an option, a name."""

    exit_code = 2


class MissingExtra(BadInput):
    """A feature needs an optional dependency that is not installed."""


class PipelineError(BadInput):
    """A pipeline text, file or option is wrong."""


class PluginError(BadInput):
    """A plugin does not import, or two plugins claim one name."""


class PassError(GraphoptError):
    """A pass failed: it raised, broke an invariant, or its process died."""

    exit_code = 1


class InvalidResult(PassError):
    """A pass left a model that cannot be read, or that lost something of its signature.

    Args:
        message: One sentence.
        effect: ``invalid model``, ``signature`` or ``wrong type``.
    """

    def __init__(self, message: str, *, effect: str, pass_name: str | None = None) -> None:
        super().__init__(message, pass_name=pass_name)
        self.effect = effect


class SourceDiffers(GraphoptError):
    """The source, before any pass, differs from the outside reference that it was given."""

    exit_code = 1


class NotConverged(PassError):
    """A pass or a fixpoint kept on changing the model up to the cap."""


class ToolFailed(PassError):
    """A tool in a worker process crashed, hung, or ran out of memory.

    Args:
        message: One sentence.
        status: ``crashed`` or ``timed out``.
        output: What the process had printed, for the record.
        site: The text of the key of the site that was being rewritten, if one was.
    """

    def __init__(
        self,
        message: str,
        *,
        status: str,
        output: str = "",
        pass_name: str | None = None,
        site: str | None = None,
    ) -> None:
        super().__init__(message, pass_name=pass_name, site=site)
        self.status = status
        self.output = output
