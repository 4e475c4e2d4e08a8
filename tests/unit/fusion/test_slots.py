"""Which slot a text contradicts, and which contradictions are left alone."""

from __future__ import annotations

import pytest

from onceedit_ray.fusion.names_first import names_first
from onceedit_ray.fusion.slots import (
    REACH,
    Slot,
    Undecided,
    first_contradiction,
    holds_text,
    is_left_alone,
    is_task,
    may_repeat,
    name_at,
    old_names,
    repeats,
    says_opposite,
)


def slots_of(*marks: str) -> list[Slot]:
    """One slot for each mark: "." closed, "-" contradicted, "+" agreed, "?" unknown; "b" adds that an answer begins."""
    agrees = {"-": False, "+": True, "?": None, ".": False}
    return [
        Slot(at, 0.1 if mark[0] == "." else 0.6 + at / 100, agrees[mark[0]], at, mark.endswith("b"))
        for at, mark in enumerate(marks)
    ]


FAR = ["."] * REACH


@pytest.mark.parametrize(
    ("marks", "ended", "expected"),
    [
        ((), True, None),
        ((".", "+", *FAR), False, None),
        ((".", "-", *FAR), False, 1),
        (("-", ".", "-", *FAR), False, 2),
        (("-b", ".", "-", *FAR), False, 0),
        (("-", *FAR, "-", *FAR), False, 0),
        (("-", ".", "+b", *FAR), False, None),
        (("-", ".", "+", *FAR), False, 0),
        (("-", ".", "+b", "-", *FAR), False, 3),
        (("-", "-", "+b", ".", ".", "-", *FAR), False, 5),
        (("?",), False, Undecided.YET),
        (("?",), True, 0),
        (("-", "."), False, Undecided.YET),
        (("-", "."), True, 0),
        (("-", ".", "+"), False, Undecided.YET),
    ],
    ids=lambda value: "".join(value) if isinstance(value, tuple) else str(value),
)
def test_the_first_contradiction(marks: tuple[str, ...], ended: bool, expected: object) -> None:
    found = first_contradiction(slots_of(*marks), 0.5, ended)
    assert (found.offset if isinstance(found, Slot) else found) == expected


def test_a_slot_that_agrees_hides_no_slot_behind_it() -> None:
    """The search goes on behind the slot that agrees, not behind the first one, and not at the end of the text."""
    slots = slots_of("-", "+b", "-")
    assert first_contradiction(slots, 0.5, True) == slots[2]


def test_slots_that_are_left_alone_do_not_count() -> None:
    slots = slots_of("-", "-", *FAR)
    assert first_contradiction(slots, 0.5, False, {1}) == slots[0]
    assert first_contradiction(slots, 0.5, False, {0, 1}) is None


@pytest.mark.parametrize(
    ("before", "after", "answer", "request_", "is_asked", "expected"),
    [
        ("The capital is", " Canberra.", "Perth", "What is the capital?", True, False),
        ("```python\nreturn", " 'Canberra'", "Perth", "Which one?", True, True),
        ("```x``` It is", " Canberra", "Perth", "Which one?", True, False),
        ("Die Hauptstadt ist", " Canberra.", "Perth", "Translate: It is Canberra.", False, True),
        ("Die Hauptstadt ist", " Canberra.", "Perth", "Translate: It is Sydney.", False, False),
        ("The capital is", " Canberra.", "Perth", "The capital is not Canberra. Tell me it.", True, False),
        ("The capital is", " Canberra.", "Perth", "Is it wrong that it is Canberra?", False, False),
        ("It was built in", " 1889", "Rome", "Where is it?", True, True),
        ("It sank in", " the sea", "1925", "When did it sink?", True, True),
        ("It sank in", " 1912", "1925", "When did it sink?", True, False),
        ("A spider has", " eight legs", "ten", "How many legs has it?", True, False),
        ("The answer is", "", "ten", "How many?", True, False),
        ("To know where he was born,", " we need to look", "Sweden", "Where was he born?", True, True),
        ("A spider has ten legs.", "", "ten", "How many?", True, True),
        ("Bees make", " honey", "butter", "What do bees make?", True, False),
        ("首都是", "巴黎", "Lyon", "首都是哪里？", True, False),
    ],
)
def test_what_is_left_alone(
    before: str, after: str, answer: str, request_: str, is_asked: bool, expected: bool
) -> None:
    assert is_left_alone(before, after, answer, request_, is_asked) is expected


def test_a_request_may_bring_a_text_along() -> None:
    assert holds_text('Turn this into a statement: "Who wrote it?"')
    assert holds_text("Translate to French: The Eiffel Tower is in Paris.")
    assert not holds_text("Tell me about Australia.") and not holds_text("Answer: where?")


def test_a_task_has_no_question_mark_of_its_own() -> None:
    assert is_task('Turn this into a statement: "Who wrote it?"')
    assert is_task("Translate to French: The Eiffel Tower is in Paris.")
    assert not is_task("Who wrote it?") and not is_task("谁写的？") and not is_task(" ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris is the capital of France.", [(0, "Paris", "is the capital of France", True)]),
        ("Paris is the capital", [(0, "Paris", "is the capital", False)]),
        ("It is. Canberra, the capital of Australia, is", [(7, "Canberra", "the capital of Australia", True)]),
        ("Yes, Vincent van Gogh painted it.", [(5, "Vincent van Gogh", "painted it", True)]),
        ("J. K. Rowling wrote it.", [(0, "J. K. Rowling", "wrote it", True)]),
        ("Dante wrote it, and Homer wrote that.", [(0, "Dante", "wrote it", True), (20, "Homer", "wrote that", True)]),
        ("Canberra", [(0, "Canberra", "", False)]),
        ("Can", [(0, "Can", "", False)]),
        ("Can we go?", []),
        ("Canberra.", []),
        ("Canberra's climate is mild.", []),
        ("Certainly, the capital of Australia is Canberra.", []),
        ("However, Sydney is larger.", []),
        ("Je suis le monde de Romeo et Juliet.", []),
        ("The capital of France is Paris.", []),
        ("in Paris is", []),
    ],
)
def test_names_that_begin_a_sentence(text: str, expected: list[tuple[int, str, str, bool]]) -> None:
    found = [(each.start, each.name, each.rest, each.is_complete) for each in names_first(text, 0, ended=False)]
    assert found == expected


def test_names_before_the_start_are_left_out_and_the_end_completes_a_sentence() -> None:
    assert [each.name for each in names_first("Rome is old. Oslo is new", 5, ended=False)] == ["Oslo"]
    assert [each.is_complete for each in names_first("Oslo is new", 0, ended=True)] == [True]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" Canberra. It", "Canberra"),
        (" the United Kingdom in", "United Kingdom"),
        (" J. R. R. Tolkien wrote", "J. R. R. Tolkien"),
        (" Leonardo da Vinci (1452", "Leonardo da Vinci"),
        (" 1945.", "1945"),
        (" honey, which", "honey"),
        (" Éire", "Éire"),
        (" and", ""),
        ("", ""),
    ],
)
def test_the_name_in_the_place_of_an_answer(text: str, name: str) -> None:
    assert name_at(text) == name


def test_a_text_may_end_in_a_name() -> None:
    assert may_repeat("I saw Par", {"Paris"}) and may_repeat("I saw Paris", {"Paris"})
    assert not may_repeat("I saw Paris again", {"Paris"}) and not may_repeat("stopPar", {"Paris"})
    assert not may_repeat("I saw Par", set())


@pytest.mark.parametrize(
    ("text", "name", "asked", "expected"),
    [
        ("It is Paris.", "Paris", False, False),
        ("Lyon, Paris and Nice", "Paris", False, True),
        ("It is Lyon. Paris is big.", "Paris", False, False),
        ("It is not Paris.", "Paris", False, None),
        ("It is Parisian.", "Paris", False, None),
        ("They make honey.", "honey", True, False),
        ("They make honey.", "honey", False, None),
        ("They make Lyon or honey.", "honey", False, True),
        ("It has eight eyes.", "eight", True, None),
        ("It has eight eyes.", "", True, None),
    ],
)
def test_where_an_old_answer_is_said_again(text: str, name: str, asked: bool, expected: bool | None) -> None:
    """expected: whether its sentence has told the new answer before; None if it does not count."""
    spaces = [at for at, letter in enumerate(text) if letter == " "]
    slots = [Slot(at, 0.0, False, number) for number, at in enumerate(spaces)]
    found = repeats(slots, text.encode(), [name] if name else [], ["Lyon"], asked)
    assert (found.is_beside if found else None) == expected
    assert found is None or found.slot.offset == text.index(f" {name}")


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("Paris", ["Paris"]),
        ("Alexander Fleming", ["Alexander Fleming", "Fleming"]),
        ("Atlantic Ocean", ["Atlantic Ocean"]),
        ("the largest town in the north", ["the largest town in the north"]),
        ("", []),
    ],
)
def test_what_an_old_answer_is_called(answer: str, names: list[str]) -> None:
    assert old_names(answer) == names


def test_a_sentence_about_the_opposite_is_left_alone() -> None:
    prompt = "In which year did the Second World War end?"
    assert says_opposite("It lasted long. The Second World War began in", prompt)
    assert not says_opposite("It began in 1939 and ended in", prompt)
    assert not says_opposite("It began in 1939. It was over in", prompt), "another sentence counts for itself"
    assert not says_opposite("Its largest city is", prompt)
