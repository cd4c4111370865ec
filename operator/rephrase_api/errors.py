"""The errors a user can meet, and the one table that turns them into exit codes and reasons.

Every message says what happened, where (object, field path, file and row) and what to do about it.
Nothing is decided by an error's text: callers look at the class.
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit status of every `rephrase` process; the operator's Job failure policy reads the same numbers."""

    OK = 0
    FAILED = 1
    """`run`: more failures than allowed; `verify`: faults found."""
    INVALID = 64
    """Spec, prompt, model or usage is wrong; no retry can help."""
    REFUSED = 69
    """Source or output refused or unavailable; a later try may succeed."""
    ENGINE = 70
    """The engine could not be rebuilt."""
    DRAINED = 75
    """Drained or interrupted; running it again continues."""


class RephraseError(Exception):
    """Base of all expected errors.

    Args:
        what: what is wrong, in the user's words, including the value found.
        where: object, field path or file and row; empty where the message says it.
        remedy: what is allowed and what to do.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    reason: ClassVar[str] = "Failed"

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        text = f"{where}: {what}" if where else what
        if remedy:
            text = f"{text.rstrip('.')}. {remedy}"
        super().__init__(text)


class InvalidSpec(RephraseError):
    """The manifest, a prompt, a column or an argument is wrong."""

    exit_code = ExitCode.INVALID
    reason = "InvalidSpec"


class InvalidModel(RephraseError):
    """The model does not exist, cannot be read or cannot do what the spec asks."""

    exit_code = ExitCode.INVALID
    reason = "InvalidModel"


class SpecMismatch(RephraseError):
    """The output belongs to a run with another semantic spec."""

    exit_code = ExitCode.INVALID
    reason = "SpecMismatch"


class AccessRefused(RephraseError):
    """Source or output refused us, or is not reachable; the ledger stays resumable."""

    exit_code = ExitCode.REFUSED
    reason = "AccessRefused"


class StorageFull(RephraseError):
    """The output has no space left; the ledger stays resumable."""

    exit_code = ExitCode.REFUSED
    reason = "StorageFull"


class EngineFailed(RephraseError):
    """The engine cannot be built or rebuilt."""

    exit_code = ExitCode.ENGINE
    reason = "EngineFailed"


class FailureLimit(RephraseError):
    """More documents failed than `spec.retries.maxFailedDocuments` allows."""

    exit_code = ExitCode.FAILED
    reason = "FailureLimit"


class LedgerDamaged(RephraseError):
    """An object of the ledger or of the dataset is missing, foreign or does not fit the account."""

    exit_code = ExitCode.FAILED
    reason = "LedgerDamaged"


class Drained(RephraseError):
    """Stopped on request before the end; running it again continues."""

    exit_code = ExitCode.DRAINED
    reason = "Drained"


class Problems(InvalidSpec):
    """Several problems of one manifest, all of them, one a line."""

    def __init__(self, problems: list[str], *, where: str) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([count, *problems]), where=where)


REASONS = frozenset(
    {
        *(error.reason for error in (InvalidSpec, InvalidModel, SpecMismatch, AccessRefused)),
        *(error.reason for error in (StorageFull, EngineFailed, FailureLimit, LedgerDamaged)),
        *(Drained.reason, "StoreUnavailable"),
    }
)
"""What a process may leave as its last words, `<reason>: <sentence>`."""


def first_cause(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report of a group: what a person must act on first, a drain after all others."""
    flat: list[BaseException] = []
    stack: list[BaseException] = [errors]
    while stack:
        error = stack.pop()
        if isinstance(error, BaseExceptionGroup):
            stack.extend(error.exceptions)
        else:
            flat.append(error)
    return min(
        flat, key=lambda error: (isinstance(error, Drained), not isinstance(error, RephraseError))
    )
