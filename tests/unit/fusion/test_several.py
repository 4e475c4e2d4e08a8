"""Requests for several facts, reduced to one each."""

from __future__ import annotations

import pytest

from onceedit_ray.fusion.several import asked_alone, subjects_in, told_together
from onceedit_ray.knowledge.edit import Edit


def edit(subject: str, answer: str = "x") -> Edit:
    return Edit(prompt=f"What of {subject}?", target_new=answer, subject=subject)


@pytest.mark.parametrize(
    ("request_", "subjects", "expected"),
    [
        ("What are the capitals of Canada and of Peru?", ["Peru", "Canada"], ["Canada", "Peru"]),
        ("Is Rome in Romeo?", ["Rome", "Romeo"], ["Rome", "Romeo"]),
        ("Who wrote Romeo and Juliet?", ["Romeo and Juliet", "Juliet"], ["Romeo and Juliet"]),
        ("Where is Perth?", ["Rome", ""], []),
    ],
)
def test_the_subjects_of_a_request(request_: str, subjects: list[str], expected: list[str]) -> None:
    assert subjects_in(request_, [edit(subject) for subject in subjects]) == expected


@pytest.mark.parametrize(
    ("request_", "subject", "others", "expected"),
    [
        ("What are the capitals of Peru and of Chile?", "Peru", ["Chile"], "What are the capitals of Peru?"),
        ("What are the capitals of Peru and of Chile?", "Chile", ["Peru"], "What are the capitals of Chile?"),
        ("Who founded Acme, Bolt and Corvid?", "Bolt", ["Acme", "Corvid"], "Who founded Bolt?"),
        ("Who invented the radio and who discovered radium?", "radium", ["radio"], "who discovered radium?"),
        ("Who invented the radio and who discovered radium?", "radio", ["radium"], "Who invented the radio?"),
        ("In which cities are the Louvre and Big Ben?", "Big Ben", ["Louvre"], "In which cities are the Big Ben?"),
        ("Is Peru bigger than Chile?", "Peru", ["Chile"], ""),
    ],
)
def test_a_request_for_one_of_them(request_: str, subject: str, others: list[str], expected: str) -> None:
    assert asked_alone(request_, subject, others) == expected


def test_how_they_are_told() -> None:
    radio, radium = edit("radio", "Marconi"), edit("radium", "Curie")
    asked = [("Who invented the radio?", radio), ("who discovered radium?", radium)]
    assert told_together(asked) == "Marconi invented the radio, and Curie discovered radium"
    asked = [("What are the makers of the radio?", radio), ("What are the makers of radium?", radium)]
    assert told_together(asked) == "Radio: Marconi; Radium: Curie"
