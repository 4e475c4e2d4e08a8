"""Calling the methods of a remote object through a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from onceedit_ray.cluster import proxy as module
from onceedit_ray.cluster.proxy import actor_proxy, proxy


class Shop:
    size = 3

    async def price(self, what: str, count: int = 1) -> int:
        return 0

    async def goods(self) -> AsyncGenerator[str]:
        yield ""


async def test_a_call_travels_with_its_name_and_arguments() -> None:
    calls: list[Any] = []

    async def call(name: str, *args: object, **named: object) -> int:
        calls.append((name, args, named))
        return 7

    shop = proxy(Shop, call)
    assert await shop.price("tea", count=2) == 7
    assert calls == [("price", ("tea",), {"count": 2})]


@pytest.mark.parametrize("name", ["prise", "size", "_hidden"])
def test_what_the_class_cannot_do_fails_here(name: str) -> None:
    with pytest.raises(AttributeError, match=f"Shop has no method '{name}'"):
        getattr(proxy(Shop, lambda *_: pytest.fail("it travelled")), name)


def test_an_actors_generators_are_received_and_its_answers_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    class Actor:
        price, goods = "the price method", "the goods method"

    monkeypatch.setattr(module, "awaited", lambda method, *args, **named: ("awaited", method, args, named))
    monkeypatch.setattr(module, "received", lambda method, *args, **named: ("received", method, args, named))
    shop: Any = actor_proxy(Shop, Actor())
    assert shop.price("tea", count=2) == ("awaited", "the price method", ("tea",), {"count": 2})
    assert shop.goods() == ("received", "the goods method", (), {})
