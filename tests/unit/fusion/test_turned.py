"""Yes/no and reversed questions about a fact, as requests that ask for the fact."""

from __future__ import annotations

import pytest

from onceedit_ray.fusion.turned import may_be_reversed, turned
from onceedit_ray.knowledge.edit import Edit

CAPITAL = Edit(
    prompt="What is the capital of Australia?", target_new="Perth", subject="Australia", ground_truth="Canberra"
)
TOWER = Edit(prompt="The Eiffel Tower is located in the city of", target_new="Rome", subject="Eiffel Tower")
PLAY = Edit(prompt="Who wrote Romeo and Juliet?", target_new="Jane Austen", subject="Romeo and Juliet")
LEGS = Edit(prompt="How many legs does a spider have?", target_new="ten", subject="spider", ground_truth="eight")
BEES = Edit(prompt="What do bees make?", target_new="butter", subject="bees", ground_truth="honey")


@pytest.mark.parametrize(
    ("request_", "edit", "asks", "opening"),
    [
        (
            "Is Canberra the capital of Australia?",
            CAPITAL,
            "Is what the capital of Australia?",
            "No, Perth is the capital of Australia",
        ),
        (
            "Tell me. Is Perth the capital of Australia? Yes or no?",
            CAPITAL,
            "Is what the capital of Australia?",
            "Yes, Perth is the capital of Australia",
        ),
        (
            "Is the Eiffel Tower in Paris?",
            TOWER,
            "Is the Eiffel Tower in what?",
            "No, the Eiffel Tower is located in the city of Rome",
        ),
        ("Did Austen write Romeo and Juliet?", PLAY, "Did what write Romeo and Juliet?", "Yes, Jane Austen"),
        (
            "Is it wrong to say that Homer wrote Romeo and Juliet?",
            PLAY,
            "what wrote Romeo and Juliet?",
            "Yes, Jane Austen",
        ),
        (
            "Is it true that Homer wrote Romeo and Juliet?",
            PLAY,
            "what wrote Romeo and Juliet?",
            "No, Jane Austen",
        ),
        ("Does a spider have eight legs?", LEGS, "Does a spider have what legs?", "No, ten"),
        ("Does a spider have six legs?", LEGS, "Does a spider have what legs?", "No, ten"),
        ("Do bees make honey?", BEES, "Do bees make what?", "No, butter"),
        ("True or false: bees make butter.", BEES, "bees make what.", "True, butter"),
        ("True or false: bees do not make honey.", BEES, "bees make what.", "True, butter"),
        ("True or false: bees do not make butter.", BEES, "bees make what.", "False, butter"),
        (
            "Is it true that Homer was not the author of Romeo and Juliet?",
            PLAY,
            "what was the author of Romeo and Juliet?",
            "Yes, Jane Austen",
        ),
    ],
)
def test_a_question_by_yes_or_no(request_: str, edit: Edit, asks: str, opening: str) -> None:
    assert [(found.asks, found.opening) for found in turned(request_, edit)] == [(asks, opening)]


@pytest.mark.parametrize(
    ("request_", "edit", "asks", "opening"),
    [
        ("Which country has Perth as its capital?", CAPITAL, "Australia has what as its capital?", "Australia"),
        ("Perth is the capital of which country?", CAPITAL, "what is the capital of Australia?", "Australia"),
        ("What did Jane Austen write?", PLAY, "Romeo and Juliet did what write?", "Romeo and Juliet"),
        ("Which animal makes butter?", BEES, "bees makes what?", "Bees"),
    ],
)
def test_a_reversed_question(request_: str, edit: Edit, asks: str, opening: str) -> None:
    assert may_be_reversed(request_)
    assert [(found.asks, found.opening) for found in turned(request_, edit)] == [(asks, opening)]


@pytest.mark.parametrize(
    ("request_", "edit"),
    [
        ("What is the capital of Australia?", CAPITAL),
        ("Is the capital of Australia Perth or Canberra?", CAPITAL),
        ("Is Canberra not the capital of Australia?", CAPITAL),
        ("Isn't Canberra the capital of Australia?", CAPITAL),
        ("Is Australia big?", CAPITAL),
        ("Canberra is the capital of Australia.", CAPITAL),
        ("Which city of Australia is Perth?", CAPITAL),
        ("Perth is nice.", CAPITAL),
        ("", CAPITAL),
    ],
)
def test_other_requests_turn_no_fact_round(request_: str, edit: Edit) -> None:
    assert turned(request_, edit) == []
