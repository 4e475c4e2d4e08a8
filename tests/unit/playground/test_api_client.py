"""How the page handles the API's answers and errors, with the real ingress in this process."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from onceedit_ray.errors import ConfigError, ModelError
from onceedit_ray.playground.api_client import AnswerEnd, AnswerPiece, ApiClient, CompletionQuery, RequestError
from tests.small_ingress import Scripted, ingress_of

END = AnswerEnd("stop", "v", 0.9, False)


def client_of(api: FastAPI) -> ApiClient:
    return ApiClient("http://127.0.0.1/v1/", httpx2.ASGITransport(api, raise_app_exceptions=False))


def answers(client: ApiClient, chat: bool = False, key: str = "", unedited: bool = False) -> list[AnswerPiece]:
    async def collect() -> list[AnswerPiece]:
        query = CompletionQuery("Who?", "one", chat, 4)
        return [piece async for piece in client.answers(query, unedited, key) if piece.text or piece.end]

    return asyncio.run(collect())


def failure(work: Any) -> RequestError:
    with pytest.raises(RequestError) as failed:
        asyncio.run(work) if asyncio.iscoroutine(work) else work()
    return failed.value


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("unedited", [False, True])
def test_an_answer_comes_in_pieces(chat: bool, unedited: bool) -> None:
    backend = Scripted("Jane ", "Austen")
    found = answers(client_of(ingress_of(backend)), chat, unedited=unedited)
    assert found == [AnswerPiece(0, "Jane "), AnswerPiece(0, "Austen"), AnswerPiece(0, "", END)]
    (asked,) = backend.asked
    assert (asked.unedited, asked.max_tokens, bool(asked.messages)) == (unedited, 4, chat)
    assert asked.sampling.temperature == 0


def test_an_error_before_and_after_the_first_piece_is_one_line() -> None:
    early = failure(lambda: answers(client_of(ingress_of(Scripted(ModelError("the model is gone"))))))
    assert str(early) == "the model cannot answer now; try again" and early.status == 503
    late = failure(lambda: answers(client_of(ingress_of(Scripted("Jane", ModelError("the model is gone"))))))
    assert str(late) == "the model cannot answer now; try again" and late.status == 0


def test_keys_are_sent_as_they_are_and_never_when_a_header_cannot_carry_them() -> None:
    api = ingress_of(Scripted("x"), keys=["a-key-for-asking"])
    client = client_of(api)
    assert asyncio.run(client.models("a-key-for-asking")) == ["one", "two"]
    assert answers(client, key="a-key-for-asking")[-1].end == END
    for refused in (failure(client_of(api).models("")), failure(lambda: answers(client_of(api), key="another-key"))):
        assert refused.status == 401 and refused.is_about_keys and "Bearer KEY" in str(refused)
    for key in ("ein-schlüssel", "two words", "a\nline"):
        assert "ASCII" in str(failure(client_of(api).models(key)))


def test_what_is_no_api_of_onceedit_is_said() -> None:
    other = FastAPI()

    @other.get("/v1/models")
    def models() -> dict[str, str]:
        return {"hello": "there"}

    @other.get("/v1/page")
    def page() -> None:
        raise RuntimeError

    assert "is not a list" in str(failure(client_of(other).models("")))
    assert str(failure(client_of(other).request("GET", "page", ""))) == "the server answered 500"
    away = failure(ApiClient("http://127.0.0.1:9/v1").models(""))
    assert str(away) == "the server at http://127.0.0.1:9/v1 cannot be reached; check that it runs"
    assert away.status == 0


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000/v1", "ftp://127.0.0.1/v1", "http:///v1"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address of an API"):
        ApiClient(url)
