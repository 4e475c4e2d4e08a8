"""Calling the methods of a remote object through a proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from onceedit_ray.cluster.proxy import proxy


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
