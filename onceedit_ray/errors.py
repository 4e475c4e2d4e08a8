"""The errors a user can correct.

Every one of them is a single line that says what was found, what was expected and what to do.
The command line prints the line alone and exits with code 2; anything else is a bug and keeps its traceback.
"""


class OnceEditError(Exception):
    """Something the user can put right; `str(error)` is one line fit for a terminal."""


class ConfigError(OnceEditError):
    """A run file or an option is wrong: unknown key, unknown name, value out of range."""


class DataError(OnceEditError):
    """A file of edits or prompts is wrong; the message names file, line (or record) and field."""


class ConflictError(DataError):
    """Two edits give one prompt two answers."""


class ModelError(OnceEditError):
    """A model cannot be found, verified, converted, loaded or used as asked."""


class PromptError(ModelError):
    """A prompt cannot be given to a model: it is empty, or its chat template or its vocabulary refuses it."""


class UnwritableError(ModelError):
    """A vocabulary has no token for a text; `at` is the first byte that cannot be written."""

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(message, at)
        self.at = at

    def __str__(self) -> str:
        return str(self.args[0])


class SessionLostError(ModelError):
    """A decoding session is not there: it was closed, or its model restarted."""


class ProcessLostError(ModelError):
    """A process died that was working for somebody, through no fault of the work: it may be done again."""


class StoreError(OnceEditError):
    """The knowledge store cannot be read or written; versions made before are untouched."""


class UnknownIdError(OnceEditError):
    """There is no edit, batch or version of that id."""


class QueueFullError(OnceEditError):
    """More edits wait to be made than may wait at once."""


class NotPossibleError(OnceEditError):
    """What is asked for does not fit the state that things are in."""


class AlignmentError(OnceEditError):
    """Two vocabularies cannot be brought into one space."""


class ContextLengthError(OnceEditError):
    """A prompt does not fit the model's context window."""
