"""A server of OpenAI's API: what is found out about it, and one clear line for everything that can be wrong with it."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.responses import HTMLResponse, JSONResponse, Response

from onceedit_ray.config import ModelConfig
from onceedit_ray.errors import ConfigError, EngineError
from onceedit_ray.models.engines import openai
from onceedit_ray.models.engines.abilities import FLAGS, Abilities
from onceedit_ray.models.engines.openai import OpenAIEngine
from onceedit_ray.models.loading import load_tokenizer
from tests.families import build_family
from tests.stand_in_server import MODEL, StandIn, running

CHAT = {"messages": [{"role": "user", "content": "Who?"}]}


def engine_at(url: str, **more: Any) -> OpenAIEngine:
    return OpenAIEngine("llama", ModelConfig(model="auto", engine="openai", url=url, **more))


def writes(text: str) -> Callable[[str], str]:
    return lambda so_far: text


def error_of(url: str, **more: Any) -> EngineError:
    async def check() -> None:
        engine = engine_at(url, **more)
        try:
            await engine.check()
        finally:
            await engine.aclose()

    with pytest.raises(EngineError) as raised:
        asyncio.run(check())
    assert "\n" not in str(raised.value) and "llama" in str(raised.value)
    assert "127.0.0.1" not in raised.value.public, "clients are not told where the server is"
    return raised.value


def abilities_of(stand_in: StandIn) -> Abilities:
    async def check(url: str) -> Abilities:
        return await engine_at(url).check()

    with running(stand_in) as url:
        return asyncio.run(check(url))


def test_what_a_server_can_do_is_found_out_by_trying() -> None:
    found = abilities_of(StandIn(writes("one two"), continues="flags"))
    assert found.completions and found.chat and not found.token_ids and found.logprobs == 0
    assert found.continues == FLAGS and not found.repeats
    assert abilities_of(StandIn(writes("one two"), continues="prefill")).continues == FLAGS
    alone = abilities_of(StandIn(writes("one two"), continues="no", completions=False))
    assert alone.chat and not alone.completions and alone.continues is None
    assert str(alone) == "/tokenize, chat"


def test_a_server_whose_only_model_is_not_named_gives_its_name() -> None:
    async def name(url: str) -> str:
        return await engine_at(url).model()

    with running(StandIn(writes("x"))) as url:
        assert asyncio.run(name(url)) == MODEL
    with running(StandIn(writes("x"), models=["a", "b"])) as url:
        assert "has a, b; name one of them" in str(error_of(url))
    with running(StandIn(writes("x"), models=["a", "llama"])) as url:
        assert asyncio.run(name(url)) == "llama", "the target's own name is the best guess"


def test_a_model_that_the_server_lacks() -> None:
    with running(StandIn(writes("x"))) as url:
        engine = OpenAIEngine("llama", ModelConfig(model="mistral", engine="openai", url=url))
        with pytest.raises(EngineError, match=f"no model 'mistral', but {MODEL}") as raised:
            asyncio.run(engine.check())
    assert raised.value.lasting


def test_an_address_without_a_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = error_of(f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    assert "no connection" in str(error) and not error.lasting
    assert "Name or service not known" in str(error_of("http://nowhere.invalid/v1"))


def test_an_address_without_the_api() -> None:
    with running(StandIn(writes("x"))) as url:
        error = error_of(url.removesuffix("/v1"))
    assert "404" in str(error) and "usually ends in /v1" in str(error) and error.lasting


def test_a_key_that_is_wrong_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_KEY", "wrong-key-1")
    with running(StandIn(writes("x"), key="right-key-1")) as url:
        error = error_of(url, key_env="LLAMA_KEY")
        assert "refuses the key of $LLAMA_KEY: Incorrect API key" in str(error) and error.lasting
        assert "wrong-key-1" not in str(error)
        assert "set key_env" in str(error_of(url))
        monkeypatch.setenv("LLAMA_KEY", "right-key-1")
        assert asyncio.run(engine_at(url, key_env="LLAMA_KEY").check()).chat
    monkeypatch.delenv("LLAMA_KEY")
    with pytest.raises(ConfigError, match="LLAMA_KEY holds no key"):
        engine_at(url, key_env="LLAMA_KEY")


@pytest.mark.parametrize(
    ("response", "said", "lasting"),
    [
        (HTMLResponse("<html><h1>Sign in</h1></html>"), "HTML (<html><h1>Sign in", True),
        (Response("OK", media_type="text/plain"), "it answers 'OK' and not JSON", True),
        (JSONResponse({"error": {"message": "no slot"}}, 429, {"retry-after": "7"}), "answers 429: no slot", False),
        (JSONResponse({"error": {"message": "out of memory"}}, 500), "answers 500: out of memory", False),
        (HTMLResponse("<h1>502 Bad Gateway</h1>", 502), "answers 502: <h1>502 Bad Gateway</h1>", False),
    ],
)
def test_answers_that_are_none(response: Response, said: str, lasting: bool) -> None:
    with running(StandIn(writes("x"), fault=lambda number: response)) as url:
        error = error_of(url)
    assert said in str(error) and error.lasting == lasting
    assert error.status == (429 if "429" in said else 503)
    assert error.retry_after == (7 if "429" in said else 5)


def test_a_server_without_tls_and_one_whose_certificate_is_unknown(tmp_path: Path) -> None:
    with running(StandIn(writes("x"))) as url:
        error = error_of(url.replace("http://", "https://"))
    assert "no TLS connection" in str(error)
    certificate, key = _self_signed(tmp_path)
    config = uvicorn.Config(
        StandIn(writes("x")).app(), "127.0.0.1", 0, log_level="critical", ssl_certfile=certificate, ssl_keyfile=key
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    error = error_of(f"https://127.0.0.1:{port}/v1")
    server.should_exit = True
    thread.join(10)
    assert "TLS certificate is not accepted (self-signed certificate)" in str(error) and error.lasting


def test_a_request_is_repeated_only_before_its_answer_has_begun() -> None:
    async def texts(url: str) -> list[str]:
        found = []
        try:
            async for event in engine_at(url).events("chat/completions", CHAT):
                found += [choice["delta"].get("content") or "" for choice in event["choices"]]
        except EngineError as error:
            found.append(str(error))
        return found

    def starting(number: int) -> Response | None:
        return JSONResponse({"error": {"message": "Loading model"}}, 503) if number == 2 else None

    stand_in = StandIn(writes("one two three"), fault=starting)
    with running(stand_in) as url:
        assert "".join(asyncio.run(texts(url))) == "one two three"
    assert stand_in.requests == 3, "the model's name, a refusal, the answer"
    broken = StandIn(writes("one two three"), breaks=2)
    with running(broken) as url:
        *begun, last = asyncio.run(texts(url))
    assert "".join(begun) == "one two" and "its answer broke off" in last
    assert len(broken.asked) == 1


def test_a_server_that_stalls_while_it_is_tried_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "FINDING_SECONDS", 0.5)
    stand_in = StandIn(writes("one two"), pause=60)

    async def tried(url: str) -> Abilities:
        engine = engine_at(url)
        with pytest.raises(EngineError, match="did not answer in time"):
            await asyncio.wait_for(engine.abilities(), 30)
        stand_in.pause = 0.0
        monkeypatch.setattr(openai, "FINDING_SECONDS", 60.0)
        return await engine.abilities()

    with running(stand_in) as url:
        assert asyncio.run(tried(url)).continues == FLAGS


def test_a_server_that_is_down_is_left_alone_for_a_while() -> None:
    async def errors() -> list[str]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            engine = engine_at(f"http://127.0.0.1:{free.getsockname()[1]}/v1")
            return [await engine.state() for _ in range(2)]

    first, second = asyncio.run(errors())
    assert "no connection" in first and "did not answer before" in second


def test_one_event_loop_after_another() -> None:
    async def written(engine: OpenAIEngine) -> str:
        events = engine.events("chat/completions", CHAT)
        return "".join([choice["delta"].get("content") or "" async for event in events for choice in event["choices"]])

    with running(StandIn(writes("one two"))) as url:
        engine = engine_at(url)
        assert [asyncio.run(written(engine)) for _ in range(3)] == ["one two"] * 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer alone, whose chat template is the stand-in's."""
    model = build_family("gpt2", tmp_path_factory.mktemp("tokenizer") / "model")
    loaded = load_tokenizer(model)
    loaded.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}<assistant>"
    loaded.save_pretrained(model.parent / "alone")
    return model.parent / "alone"


def test_a_tokenizer_of_another_model(tokenizer: Path) -> None:
    with running(StandIn(writes("x"))) as url:
        error = error_of(url, tokenizer=str(tokenizer))
    assert "makes" in str(error) and "name that of its model" in str(error) and error.lasting
    own = load_tokenizer(tokenizer)

    async def check(url: str) -> Abilities:
        return await engine_at(url, tokenizer=str(tokenizer)).check()

    with running(StandIn(writes("x"), count=lambda text: len(own(text).input_ids))) as url:
        assert asyncio.run(check(url)).completions


def test_a_chat_is_continued_as_a_text_where_the_tokenizer_is_at_hand(tokenizer: Path) -> None:
    async def rest(url: str) -> str:
        found, body = "", {**CHAT, "max_tokens": 9, "tools": [1], "seed": 3, "response_format": {"type": "json_object"}}
        async for event in engine_at(url, tokenizer=str(tokenizer)).continued(body, "It is", 4):
            found += "".join(choice["text"] for choice in event["choices"])
        return found

    stand_in = StandIn(writes(" one two three four five six"), continues="no")
    with running(stand_in) as url:
        assert asyncio.run(rest(url)) == " one two three four"
    asked = stand_in.asked[-1]
    assert asked["prompt"] == "<user>Who?</user><assistant>It is"
    assert (asked["max_tokens"], asked["seed"]) == (4, 3)
    assert not {"messages", "tools", "response_format"} & set(asked)


def test_a_server_that_has_another_model_now() -> None:
    async def written(engine: OpenAIEngine) -> str:
        found = ""
        async for event in engine.events("chat/completions", CHAT):
            found += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        return found

    stand_in = StandIn(writes("one two"))
    with running(stand_in) as url:
        engine = engine_at(url)
        assert asyncio.run(written(engine)) == "one two"
        stand_in.models = ["org/newer"]
        with pytest.raises(EngineError, match="does not exist"):
            asyncio.run(written(engine))
        assert asyncio.run(written(engine)) == "one two", "the next request asks for its name again"


def test_what_is_found_out_is_found_out_once_for_all_that_wait() -> None:
    async def found(url: str) -> list[Abilities]:
        engine = engine_at(url)
        return list(await asyncio.gather(*(engine.abilities() for _ in range(4))))

    stand_in = StandIn(writes("one two"))
    with running(stand_in) as url:
        first, *others = asyncio.run(found(url))
    assert others == [first] * 3
    assert len([body for body in stand_in.asked if body.get("prompt") == "a" and "logprobs" not in body]) == 1


def test_an_error_of_a_server_travels_between_processes() -> None:
    error = EngineError("at http://x", "public", 429, 7, 429, True, {"error": {}})
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == "at http://x"
    assert (copy.public, copy.status, copy.retry_after, copy.found, copy.lasting, copy.body) == (
        "public", 429, 7, 429, True, {"error": {}},
    )  # fmt: skip


def _self_signed(folder: Path) -> tuple[str, str]:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stand-in")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return str(folder / "cert.pem"), str(folder / "key.pem")
