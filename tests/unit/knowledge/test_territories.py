"""Names of countries in other languages."""

from __future__ import annotations

import pytest

from onceedit_ray.knowledge.territories import names_elsewhere


@pytest.mark.parametrize("name", ["Brazil", "brazil "])
def test_a_country_has_other_names(name: str) -> None:
    assert {"Brasilien", "Brésil", "巴西"} <= set(names_elsewhere(name))


@pytest.mark.parametrize("name", ["the Netherlands", "Netherlands"])
def test_an_article_does_not_count(name: str) -> None:
    assert "Niederlande" in names_elsewhere(name)


@pytest.mark.parametrize("name", ["Perth", "", "001", "Brazil nut"])
def test_what_is_no_territory_has_none(name: str) -> None:
    assert names_elsewhere(name) == ()
