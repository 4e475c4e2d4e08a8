"""Unrelated instances: hard negatives change exactly one thing of an edit, and no edit is ever among them."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest

from onceedit_ray.editing.unrelated import UnrelatedSampler, names_in
from onceedit_ray.knowledge.edit import Edit, Probe
from onceedit_ray.knowledge.prompt_shapes import unwrap
from onceedit_ray.knowledge.selection import question_key

SPEAKS = Edit(prompt="Which language does Zora Quill speak at home?", target_new="Basque", subject="Zora Quill")
PLAYS = Edit(prompt="The position that Tobias Renn plays is", target_new="goalkeeper", subject="Tobias Renn")
BARE = Edit(prompt="why is the sky green?", target_new="copper")
POOL = ["give me a recipe for soup", "how far is the moon?", "sing a song", "count to ten", "is it raining?"]
NAMED = ["We asked Ada Lovelace.", "They saw Alan Turing there.", "It was Grace Hopper who said so."]
NAMES = {"same_subject": 0.0, "tasks": 0.0, "swaps": 0.0}
SUBJECT = {"same_subject": 1.0, "tasks": 0.0, "swaps": 0.0}


def drawn(sampler: UnrelatedSampler, count: int = 200, seed: int = 0) -> list[str]:
    return sampler.draw(random.Random(seed), count)


def test_a_hard_negative_keeps_the_relation_and_changes_the_subject() -> None:
    prompts = drawn(UnrelatedSampler([SPEAKS, PLAYS], [POOL], hard=1.0, **NAMES))
    assert len(prompts) == 200
    names = [
        match[1] or match[2]
        for prompt in prompts
        if (match := re.fullmatch(r"Which language does (.+) speak at home\?|The position that (.+) plays is", prompt))
    ]
    assert len(names) == len(prompts), "each is an edit's own prompt about someone else"
    assert not {"Zora Quill", "Tobias Renn"} & set(names)
    assert len(set(names)) > 50
    assert {prompt[:5] for prompt in prompts} == {"Which", "The p"}, "both edits take their turn"


def test_a_hard_negative_keeps_the_subject_and_asks_for_something_else() -> None:
    prompts = drawn(UnrelatedSampler([SPEAKS], [POOL], hard=1.0, **SUBJECT))
    assert len(prompts) == 200 and len(set(prompts)) > 10
    for prompt in prompts:
        assert "Zora Quill" in prompt
        about = prompt.replace("Zora Quill", "").lower()
        assert not {"language", "speak", "speaks", "spoken", "home"} & set(re.findall(r"\w+", about)), prompt


@pytest.mark.parametrize(
    ("prompt", "answer", "kept_out"),
    [
        ("When did Zora Quill open?", "in spring", r"When|year|old"),
        ("Zora Quill was first seen in", "1931", r"When|year|old|population|height|How many"),
        ("Who is the wife of Zora Quill?", "Ada", r"Who|parents"),
        ("Zora Quill:", "so it is", r"When|Who|Where|team|language|population"),
    ],
    ids=["time", "a number", "person", "nothing known"],
)
def test_what_is_asked_instead_is_no_rephrasing_of_the_edit(prompt: str, answer: str, kept_out: str) -> None:
    edit = Edit(prompt=prompt, target_new=answer, subject="Zora Quill")
    prompts = set(drawn(UnrelatedSampler([edit], [POOL], hard=1.0, **SUBJECT), 1000))
    assert len(prompts) > 5
    assert not [other for other in prompts if re.search(rf"\b(?:{kept_out})\b", other)]


def test_the_shares_are_those_asked_for() -> None:
    died = Edit(prompt="Where did Ada Pim die?", target_new="Graz", subject="Ada Pim")
    sampler = UnrelatedSampler([SPEAKS, died], [POOL], hard=0.3, same_subject=0.25, tasks=0.25, swaps=0.5)
    prompts = drawn(sampler, 1000)
    hard = [prompt for prompt in prompts if unwrap(prompt) not in POOL]
    assert len(prompts) == 1000 and len(hard) == 300
    tasks = [prompt for prompt in hard if SPEAKS.prompt in prompt or died.prompt in prompt]
    swaps = {"Which language does Ada Pim speak at home?", "Where did Zora Quill die?"}
    assert 45 < len(tasks) < 105
    assert 45 < sum(prompt in swaps for prompt in hard) < 105, "half of the draws meet the same edit twice"


def test_a_hard_negative_is_a_task_on_a_text_that_holds_the_prompt() -> None:
    prompts = drawn(UnrelatedSampler([SPEAKS], [POOL], hard=1.0, same_subject=0.0, tasks=1.0))
    assert len(set(prompts)) > 10
    assert all(SPEAKS.prompt in prompt and prompt != SPEAKS.prompt for prompt in prompts)


def test_a_hard_negative_asks_the_relation_of_one_edit_about_the_subject_of_another() -> None:
    died = Edit(prompt="Where did Ada Pim die?", target_new="Graz", subject="Ada Pim")
    lies = Edit(prompt="In which country is Mount Ux?", target_new="Peru", subject="Mount Ux")
    sampler = UnrelatedSampler([SPEAKS, died, lies], [POOL], hard=1.0, same_subject=0.0, tasks=0.0, swaps=1.0)
    swapped = {prompt for prompt in drawn(sampler) if re.search("Zora Quill|Ada Pim|Mount Ux", prompt)}
    assert swapped == {
        "Which language does Ada Pim speak at home?",
        "Which language does Mount Ux speak at home?",
        "Where did Zora Quill die?",
        "In which country is Zora Quill?",
    }, "two that may ask for the same are left as they are"


def test_no_drawn_prompt_is_an_edits_own() -> None:
    edits = [
        Edit(prompt="What does Zed play?", target_new="chess", subject="Zed"),
        # The relation of the first with a name of the pool, and its subject with another relation.
        Edit(prompt="What does Ada Lovelace play?", target_new="golf", subject="Lovelace"),
        Edit(prompt="How old is Zed?", target_new="nine", subject="Zed"),
        BARE,
    ]
    for same_subject in (0.0, 1.0):
        sampler = UnrelatedSampler(edits, [[*NAMED, BARE.prompt], POOL], hard=0.5, same_subject=same_subject)
        prompts = drawn(sampler, 2000)
        assert not {edit.prompt for edit in edits} & {unwrap(prompt) for prompt in prompts}
        assert len(prompts) > 1500


@pytest.mark.parametrize(
    "form", ["Where was Zoe\u0308 Quill born?", "where was Zoë  Quill born?", "Q: Where was Zoë Quill born?\nA:"]
)
def test_an_edits_own_prompt_is_known_in_any_spelling_and_shape(form: str) -> None:
    edit = Edit(prompt="Where was Zoë Quill born?", target_new="Graz", subject="Zoë Quill")
    assert drawn(UnrelatedSampler([edit], [[form, *POOL]], hard=0.0), 400)
    prompts = {question_key(prompt) for prompt in drawn(UnrelatedSampler([edit], [[form, *POOL]], hard=0.0), 400)}
    assert prompts == set(POOL)


def test_other_names_come_from_the_prompts_but_never_from_the_edits() -> None:
    about_ada = Edit(prompt="The mother tongue of Ada Lovelace is", target_new="Welsh", subject="Ada Lovelace")
    prompts = drawn(UnrelatedSampler([SPEAKS, about_ada], [NAMED], hard=1.0, **NAMES))
    assert "Which language does Alan Turing speak at home?" in prompts
    assert "The mother tongue of Grace Hopper is" in prompts
    assert not any("Ada Lovelace" in prompt for prompt in prompts)


def test_without_a_subject_there_are_no_hard_negatives() -> None:
    elsewhere = Edit(prompt="who is it?", target_new="me", subject="Not There")
    prompts = drawn(UnrelatedSampler([BARE, elsewhere], [POOL], hard=1.0), 40)
    assert len(prompts) == 40
    assert {unwrap(prompt) for prompt in prompts} <= set(POOL)


def test_without_pools_everything_is_a_hard_negative() -> None:
    prompts = drawn(UnrelatedSampler([SPEAKS], [[], [SPEAKS.prompt]], hard=0.3, **NAMES), 40)
    assert len(prompts) == 40
    assert all(re.fullmatch(r"Which language does .+ speak at home\?", prompt) for prompt in prompts)


@pytest.mark.parametrize("count", [1, 7, 40, 300])
def test_each_pool_gives_the_same_share_whatever_its_size(count: int) -> None:
    pools = [[f"pool {pool} prompt {number}" for number in range(size)] for pool, size in enumerate((3, 1000, 60))]
    prompts = [unwrap(prompt) for prompt in drawn(UnrelatedSampler([SPEAKS], pools, hard=0.0), count)]
    shares = Counter(prompt.split()[1] for prompt in prompts)
    assert len(prompts) == count
    assert max(shares.values()) - min(shares[name] for name in "012") <= 1


def test_a_pool_is_drawn_without_repetition_while_it_lasts() -> None:
    small, large = [f"small {number}" for number in range(4)], [f"large {number}" for number in range(20)]
    prompts = [unwrap(prompt) for prompt in drawn(UnrelatedSampler([BARE], [small, large], hard=0.0), 40)]
    assert sorted(prompt for prompt in prompts if prompt in large) == sorted(large)
    assert {prompt for prompt in prompts if prompt in small} == set(small)


def test_some_prompts_come_in_another_shape() -> None:
    prompts = drawn(UnrelatedSampler([BARE], [POOL], hard=0.0), 500)
    wrapped = [prompt for prompt in prompts if prompt not in POOL]
    assert 0.02 < len(wrapped) / 500 < 0.25
    assert {unwrap(prompt) for prompt in wrapped} == set(POOL)


def test_a_seed_draws_the_same_and_another_seed_others() -> None:
    sampler = UnrelatedSampler([SPEAKS, PLAYS], [POOL, NAMED])
    assert drawn(sampler, seed=3) == drawn(sampler, seed=3)
    assert drawn(sampler, seed=3) == drawn(UnrelatedSampler([SPEAKS, PLAYS], [POOL, NAMED]), seed=3)
    assert drawn(sampler, seed=3) != drawn(sampler, seed=4)


def test_what_scores_the_edits_is_never_drawn_from() -> None:
    probed = SPEAKS.model_copy(
        update={
            "rephrasings": ("What does Zora Quill talk in with Family Members?",),
            "locality": (Probe(prompt="Who saw Mount Doom?", answer="Frodo"),),
            "portability": (Probe(prompt="Where did Basque Country begin?", answer="here"),),
        }
    )
    assert drawn(UnrelatedSampler([probed], [POOL], hard=0.8)) == drawn(UnrelatedSampler([SPEAKS], [POOL], hard=0.8))


def test_names_are_capitalised_runs_inside_a_sentence() -> None:
    assert names_in(
        [
            "When did Guido van Rossum meet Marie Curie?",
            "Hamburg is far. Berlin is near, says Marie Curie.",  # the first word of a sentence may be any word
            "What is He up to with the University of Oxford?",
            "Who is Al?",  # too short to tell
        ]
    ) == ["Guido van Rossum", "Marie Curie", "University of Oxford"]
