"""`/docs` is a page that a browser without a network shows."""

from __future__ import annotations

import asyncio
import re

import httpx2
import pytest

from tests.small_ingress import Scripted, client_of, ingress_of


def get(path: str) -> httpx2.Response:
    async def ask() -> httpx2.Response:
        async with client_of(ingress_of(Scripted("no"))) as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def page() -> str:
    answer = get("/docs")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    return answer.text


def test_it_loads_nothing_from_elsewhere(page: str) -> None:
    assert re.findall(r"(?:src|href)=\"([^\"]*)\"", page) == ["openapi.json"]
    assert "<script" not in page and "http" not in page


def test_it_names_every_route_and_the_fields_of_its_body(page: str) -> None:
    paths = get("/openapi.json").json()["paths"]
    routes = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert len(routes) > 8 and [route for route in routes if f"<code>{route}</code>" not in page] == []
    completions = page.partition("POST /v1/completions")[2].partition("<h2>")[0]
    assert "<code>prompt</code></td><td>required; string or array" in completions
    assert "<code>target_new</code>" in page.partition("POST /v1/edits")[2].partition("<h2>")[0]
