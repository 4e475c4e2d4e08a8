"""Errors of pydantic, in the wording of this package."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from onceedit_ray.validation import place, problems


class Wheel(BaseModel):
    model_config = ConfigDict(extra="forbid")

    spokes: int = Field(ge=1)


class Car(BaseModel):
    model_config = ConfigDict(extra="forbid")

    wheels: list[Wheel] = []
    by_name: dict[str, Wheel] = {}
    plates: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _enough(self) -> Car:
        if len(self.wheels) == 1:
            raise ValueError("One wheel is too few")
        return self


def found(values: dict[str, Any], **options: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        Car.model_validate(values)
    return problems(raised.value, **options)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"wheels": [{"spokes": 0}]}, "'wheels[0].spokes': input should be greater than or equal to 1, found 0"),
        ({"by_name": {"left": {}}}, "missing key 'by_name.left.spokes'"),
        ({"by_name": {"left": {"spoke": 3, "spokes": 1}}}, "unknown key 'by_name.left.spoke': did you mean 'spokes'?"),
        ({"colour": 1}, "unknown key 'colour': known are wheels, by_name, plates"),
        ({"wheels": [{"spokes": 1}]}, "One wheel is too few"),
        ({"plates": 5}, "'plates': input should be a valid list, found 5"),
        ({"by_name": 5}, "'by_name': input should be an object, found 5"),
        ({"wheels": [5]}, "'wheels[0]': input should be an object, found 5"),
    ],
)
def test_a_problem_is_named_with_its_place(values: dict[str, Any], line: str) -> None:
    assert found(values, model=Car) == line


def test_several_are_joined_up_to_a_limit() -> None:
    values = {"wheels": [{"spokes": 0}], "colour": 1}
    assert found(values).count("; ") == 1
    assert found(values, most=1) == found(values).partition("; ")[0]
    assert found({"colour": 1}) == "unknown key 'colour': remove it"


def test_the_whole_has_no_place() -> None:
    assert place(()) == ""
    assert place(("a", 0, "b")) == "a[0].b"
