"""The errors a user can correct.

Each message is a single line that says what was found, what was expected and what to do. The command line prints only
this line and exits with code 2. Any other exception is a bug and keeps its traceback.
"""


class OnceEditError(Exception):
    """An error that the user can correct; `str(error)` is one line for a terminal."""


class ConfigError(OnceEditError):
    """A run file or an option is wrong: unknown key, unknown name, value out of range."""


class UnknownTargetError(ConfigError):
    """No target has this name, or it has been removed."""


class DataError(OnceEditError):
    """A file of edits or prompts is wrong; the message names file, line (or record) and field."""


class ConflictError(DataError):
    """Two edits give different answers to the same prompt."""


class ModelError(OnceEditError):
    """A model cannot be found, verified, converted, loaded, or used in the requested way."""


class PromptError(ModelError):
    """A prompt cannot be given to a model: it is empty, or its chat template or its vocabulary refuses it."""


class UnwritableError(ModelError):
    """A vocabulary has no token for a text; `at` is the first byte that cannot be written."""

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(message, at)
        self.at = at

    def __str__(self) -> str:
        return str(self.args[0])


class EngineError(ModelError):
    """A server that has a target's model does not answer as it should.

    public: the message for clients, without the server's address. status: the HTTP status for clients. retry_after:
    seconds after which a client may try again, 0 for an error of the request itself. found: the server's own status, 0
    if it gave none. lasting: whether a setting is wrong, so that waiting does not help. body: the server's own answer,
    where it refuses what a client asked.
    """

    def __init__(
        self,
        message: str,
        public: str = "",
        status: int = 503,
        retry_after: int = 5,
        found: int = 0,
        lasting: bool = False,
        body: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message, public, status, retry_after, found, lasting, body)
        self.public = public or message
        self.status = status
        self.retry_after = retry_after
        self.found = found
        self.lasting = lasting
        self.body = body

    def __str__(self) -> str:
        return str(self.args[0])


class SessionLostError(ModelError):
    """A decoding session does not exist: it was closed, or its model restarted."""


class CrowdedError(ModelError):
    """Too many sessions wait for a model's memory; no further one may wait."""


class ProcessLostError(ModelError):
    """A worker process died for a reason outside its task; the caller may retry the task."""


class StoreError(OnceEditError):
    """The knowledge store cannot be read or written; existing versions are unchanged."""


class UnknownIdError(OnceEditError):
    """No edit, batch or version has this id."""


class QueueFullError(OnceEditError):
    """The queue of waiting edits is full. retry_after: seconds after which it has room, at the pace of late."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class NotPossibleError(OnceEditError):
    """The request is not possible in the present state."""


class RefusedError(OnceEditError):
    """An edit may not go live: the judgement says why."""


class AlignmentError(OnceEditError):
    """Two vocabularies cannot be aligned."""


class ContextLengthError(OnceEditError):
    """A prompt does not fit the model's context window."""
