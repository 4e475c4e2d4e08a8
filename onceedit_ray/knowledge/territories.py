"""The names of countries and regions in other languages, from Unicode's CLDR (`babel`)."""

from __future__ import annotations

import functools

from babel import Locale

from onceedit_ray.knowledge.edit import Edit

LANGUAGES = ("ar", "de", "es", "fr", "hi", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "uk", "zh", "zh_Hant")
"""The locales whose names are known."""


def names_elsewhere(name: str) -> tuple[str, ...]:
    """The names of a territory in `LANGUAGES`, as far as they differ; none if `name` is no territory's English name."""
    code = _codes().get(name.strip().casefold().removeprefix("the "))
    if code is None:
        return ()
    names = (_territories(language).get(code, "") for language in LANGUAGES)
    return tuple(dict.fromkeys(each for each in names if each and each.casefold() != name.strip().casefold()))


def names_of(edit: Edit) -> tuple[str, ...]:
    """Every name of an edit's subject: as given, its aliases, and those in `LANGUAGES` if it is a territory."""
    return (edit.subject, *edit.aliases, *names_elsewhere(edit.subject))


@functools.cache
def _territories(language: str) -> dict[str, str]:
    return dict(Locale.parse(language).territories)


@functools.cache
def _codes() -> dict[str, str]:
    return {name.casefold(): code for code, name in _territories("en").items() if code.isalpha()}
