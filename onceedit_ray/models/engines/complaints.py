"""What went wrong between this system and a target's server, in one line: the address, the key, the certificate, the
model's name, or the server itself. Every line has a form for the operator and one for clients, without the address.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Sequence

import aiohttp

from onceedit_ray.errors import EngineError
from onceedit_ray.models.engines.events import parsed

URL_ADVICE = "check the url, which usually ends in /v1"
SHOWN = 200
"""Number of characters of a server's own words that are shown."""


class Complaints:
    """The errors of one target's server.

    Args:
        name: the target. url: of its server. key_env: the environment variable of the key, "" if there is none.
    """

    def __init__(self, name: str, url: str, key_env: str) -> None:
        self._name = name
        self._url = url
        self._key_env = key_env

    def unreachable(self, error: Exception) -> EngineError:
        """For a connection that was not made, or has broken."""
        causes = (cause for cause in _causes(error) if not isinstance(cause, aiohttp.ClientError))
        found = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
        if isinstance(found, ssl.SSLCertVerificationError):
            reason = f"its TLS certificate is not accepted ({_line(found.verify_message)}); set SSL_CERT_FILE to its CA"
            return self._down(reason, lasting=True)
        if found is not None or "SSL" in str(error):
            return self._down(f"no TLS connection ({_line(error)}); check whether its url begins with http://")
        if isinstance(error, TimeoutError):
            return self._down("it did not answer in time")
        if isinstance(error, aiohttp.ClientConnectorError):
            error = error.os_error  # the error itself repeats the address
        return self._down(f"no connection ({_line(error)}); check the address, and that the server runs")

    def resting(self, seconds: float) -> EngineError:
        """While calls are stopped (`breaker`)."""
        return self._down("it did not answer before", max(1, round(seconds)))

    def broken_off(self) -> EngineError:
        """For an answer that ends in the middle."""
        return self._down("its answer broke off")

    def strange(self, kind: str, text: str) -> EngineError:
        """For an answer that is not of OpenAI's API."""
        shown = f"HTML ({_line(text)})" if "html" in kind or text.lstrip()[:1] == "<" else f"'{_line(text)}'"
        return self._down(f"it answers {shown} and not JSON; {URL_ADVICE}", lasting=True)

    def unnamed(self, listed: Sequence[str], wanted: str = "") -> EngineError:
        """For a model that the server does not have, or that must be named, since the server has several."""
        has = ", ".join(listed[:8]) or "no model"
        reason = f"it has no model '{wanted}', but {has}" if wanted else f"it has {has}"
        return self._down(f"{reason}; name one of them with 'model:'", lasting=True)

    def other_tokenizer(self, tokenizer: str, here: int, there: int) -> EngineError:
        """For a tokenizer that counts other tokens than the server."""
        reason = f"tokenizer {tokenizer} makes {here} tokens of a text, the server {there}: name that of its model"
        return self._down(reason, lasting=True)

    def no_tokens(self, found: str) -> EngineError:
        """For a server of which token ids and log probabilities are expected."""
        reason = f"engine openai_tokens needs token ids as prompts and log probabilities; found: {found}; use openai"
        return self._down(reason, lasting=True)

    def no_prompt_logprobs(self) -> EngineError:
        """For a server that does not repeat a prompt with the log probabilities of its tokens."""
        reason = "returns no log probabilities of a prompt; leave echo out"
        message = f"{self._name}: the server at {self._url} {reason}"
        return EngineError(message, f"the server of '{self._name}' {reason}", 400, 0)

    def refused(self, status: int, text: str, retry_after: str = "") -> EngineError:
        """For a status of 400 or above; `text` is the answer's body."""
        said = _said(text)
        if status in (401, 403):
            named = f"the key of ${self._key_env}" if self._key_env else "a request without a key; set key_env"
            return self._down(f"it refuses {named}: {said}", found=status, lasting=True)
        if status == 429:
            wait = int(retry_after) if retry_after.isdecimal() else 1
            public = f"the server of '{self._name}' has too many requests; try again"
            return EngineError(f"{self._name}: the server at {self._url} answers 429: {said}", public, 429, wait, 429)
        body = parsed(text.encode())
        if status >= 500 or body is None:
            missing = status in (404, 405)
            hint = f"; {URL_ADVICE}" if missing else ""
            return self._down(f"it answers {status}: {said}{hint}", found=status, lasting=missing)
        message = f"{self._name}: the server at {self._url} answers {status}: {said}"
        return EngineError(message, said, status, 0, status, status in (404, 405), body)

    def _down(self, reason: str, retry_after: int = 5, found: int = 0, lasting: bool = False) -> EngineError:
        message = f"{self._name}: the server at {self._url} cannot be used: {reason}"
        public = f"the server of '{self._name}' cannot answer now; try again"
        return EngineError(message, public, 503, retry_after, found, lasting)


def _said(text: str) -> str:
    """The message in an error's body."""
    try:
        body = json.loads(text)
        error = body.get("error", body) if isinstance(body, dict) else body
        if isinstance(error, dict):
            error = error.get("message") or error.get("detail") or error
        return _line(error)
    except ValueError:
        return _line(text) or "nothing"


def _line(text: object) -> str:
    line = " ".join(str(text).split()) or type(text).__name__
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


def _causes(error: BaseException | None) -> list[BaseException]:
    found = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
