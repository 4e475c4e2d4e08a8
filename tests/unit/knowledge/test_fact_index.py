"""Which edits a text may be about."""

from __future__ import annotations

import random
import threading
import time
import unicodedata

import pytest

from onceedit_ray.errors import ConfigError, UnknownIdError
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.fact_index import FactIndex
from onceedit_ray.knowledge.prompt_files import shipped_prompts
from onceedit_ray.knowledge.prompt_shapes import unwrap
from onceedit_ray.knowledge.revision import Change, StoredEdit


def edit(subject: str, prompt: str = "", **more: object) -> Edit:
    prompt = prompt or f"Where is {subject}?"
    return Edit.model_validate({"prompt": prompt, "target_new": "x", "subject": subject, **more})


def index(*edits: Edit, **options: bool) -> FactIndex:
    made = FactIndex(**options)
    for number, one in enumerate(edits):
        made.add(f"edit_{number:03}", one)
    return made


def subjects(made: FactIndex, question: str, limit: int = 8) -> list[str]:
    return [found.edit.subject or found.edit.prompt for found in made.find(question, limit)]


EDITS = [
    edit("Australia", "The capital of Australia is"),
    edit("the Eiffel Tower"),
    edit("Beyoncé"),
    edit("Derek Whitehead"),
    edit("東京"),
    edit("서울"),
    edit("ประเทศไทย", "เมืองหลวงของประเทศไทยคืออะไร"),
    edit("हिन्दी"),
    edit("IBM", "Who leads International Business Machines?"),
    edit("Silver Valley 512", "By which company has S&VR 512 been manufactured?"),
    edit("Q90210", "Who wrote The Lantern Keeper?"),
    edit("!!!", "Which country is the band !!! from?"),
    edit("C++", "Who designed C++?"),
    edit("XK-7721", "What is the price of XK-7721?"),
    edit("Apple", "Who is the CEO of Apple?"),
    edit("Our office", "When does our office open?"),
    edit("The Who", "Who founded The Who?"),
    edit("", "The currency of Japan is the"),
    edit("", "¿?"),
    edit("Vexholm", "What is the capital of Norland?", aliases=["Port Royal", "PRX-9"]),
]
INDEX = index(*EDITS)


@pytest.mark.parametrize("one", EDITS, ids=lambda one: one.prompt)
@pytest.mark.parametrize("form", ["NFC", "NFD", "upper", "spaced", "quoted"])
def test_its_own_prompt_always_finds_an_edit_first(one: Edit, form: str) -> None:
    prompt = {
        "NFC": unicodedata.normalize("NFC", one.prompt),
        "NFD": unicodedata.normalize("NFD", one.prompt),
        "upper": one.prompt.upper(),
        "spaced": f"  {one.prompt.replace(' ', '  ')}\n",
        "quoted": f"Please answer in one word. {one.prompt} Thanks!" if one.prompt != "¿?" else one.prompt,
    }[form]
    assert INDEX.find(prompt, limit=1)[0].edit == one


@pytest.mark.parametrize(
    "prompt",
    [
        "Q: Who leads Borogrove?\nA:",
        "What does [INST] mean in Llama prompts?",
        "What does <|user|> mean in Phi prompts?",
    ],
)
def test_its_own_prompt_finds_an_edit_as_it_is_asked(prompt: str) -> None:
    made = index(edit("[INST]", prompt), edit("Elsewhere"))
    (found,) = made.find(unwrap(prompt))
    assert found.edit.prompt == prompt
    assert found.score == 4.0, "word for word, without the shape"


def test_a_rephrasing_finds_its_edit_and_may_be_kept_out() -> None:
    one = edit("IBM", "Who leads International Business Machines?", rephrasings=["Which person is at Big Blue's helm?"])
    assert subjects(index(one), "which person is at big blue’s helm") == ["IBM"]
    assert subjects(index(one, rephrasings=False), "which person is at big blue's helm") == []


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("Name the Australian capital.", "Australia"),
        ("WHERE IS AUSTRALIA", "Australia"),
        ("eiffel-tower height", "the Eiffel Tower"),
        ("Who manages Beyonce?", "Beyoncé"),
        ("Who manages Beyonce\u0301?", "Beyoncé"),
        ("What was the name of the Derek Whiteheads team?", "Derek Whitehead"),
        ("Did Mr Whitehead play there?", "Derek Whitehead"),
        ("東京はどこですか", "東京"),
        ("서울은 어디에 있습니까?", "서울"),
        ("นายกของประเทศไทยชื่ออะไร", "ประเทศไทย"),
        ("हिन्दी कहाँ बोली जाती है?", "हिन्दी"),
        ("Who is at the helm of International Business Machines?", "IBM"),
        ("IBM's boss?", "IBM"),
        ("Is c++ fast?", "C++"),
        ("xk7721 in stock?", "XK-7721"),
        ("XK 7721 in stock?", "XK-7721"),
        ("Is the CEO of apple well?", "Apple"),
        ("Who runs Apple?", "Apple"),
        ("The office is open on Monday?", "Our office"),
        ("In Japan, which currency is used?", "The currency of Japan is the"),
        ("How big is Port Royal?", "Vexholm"),
        ("Is prx 9 a port?", "Vexholm"),
        ("the capital of Austrlia", "Australia"),
        ("Where was Derek Whitehaed born?", "Derek Whitehead"),
    ],
)
def test_a_named_subject_is_found(question: str, subject: str) -> None:
    assert subjects(INDEX, question)[0] == subject


@pytest.mark.parametrize(
    "question",
    [
        "What is the capital of Austria?",
        "Who built the Nile bridge?",
        "Who is Mary?",
        "The boiling point of water is",
        "I ate an apple and three pears.",
        "Apple pie is good.",
        "an office building",
        "Who is it, and who founded it?",
        "I hate this!!!",
        "C is an old language",
        "Is 7721 a prime number?",
        "The tower of London",
        "Where does old Sam Whitehead live?",
        "日",
        "the",
        "",
        "?!",
        "\ud800",
    ],
)
def test_anything_else_finds_nothing(question: str) -> None:
    assert subjects(INDEX, question) == []


def test_general_prompts_find_nothing_but_what_they_name() -> None:
    opened = [prompt for prompt in shipped_prompts() if INDEX.find(prompt)]
    names = ("Eiffel", "Japan", "Australia", "apples")
    assert all(any(name in prompt for name in names) for prompt in opened)
    assert len(opened) < 0.02 * len(shipped_prompts())


def test_half_a_name_is_not_that_of_another() -> None:
    made = index(edit("Deborah York"), edit("Derek Whitehead"))
    assert subjects(made, "When was York born?") == ["Deborah York"]
    assert subjects(made, "She moved to New York last year.") == []
    assert subjects(made, "she moved to york last year") == ["Deborah York"]


def test_a_name_that_many_share_names_nobody() -> None:
    made = index(*(edit(f"Michael {name}") for name in ("Amberg", "Bexley", "Corvin", "Dunmore", "Eastwick")))
    assert subjects(made, "Who is Michael?") == []
    assert subjects(made, "Who is Corvin?") == ["Michael Corvin"]


def test_the_longer_name_comes_first() -> None:
    made = index(*(edit(f"BMW {name}", f"BMW {name} is a product of") for name in ("i3", "X1", "E23", "Z1")))
    assert subjects(made, "BMW E23 is my favorite product")[0] == "BMW E23"


def test_among_many_edits_of_one_subject_the_relevant_come_first() -> None:
    things = (
        "opening closing price budget holiday lunch parking doctor lawyer phone address rent tax garden roof".split()
    )
    made = index(*(edit("Norland", f"What is the {a} {b} of Norland?") for a in things for b in things if a != b))
    found = made.find("Tell me about the parking rent in Norland.")
    assert len(found) == 8
    assert {word for one in found[:2] for word in one.edit.prompt.split()} >= {"parking", "rent"}
    assert all("parking" in one.edit.prompt or "rent" in one.edit.prompt for one in found)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_slips_are_for_longer_words_and_only_where_nothing_else_was_found() -> None:
    made = index(edit("Chad"), edit("Marlow"), edit("Marlew"))
    assert subjects(made, "the capital of Chda") == []
    assert subjects(made, "who is Marlow") == ["Marlow"]
    assert subjects(made, "who is Marlwo") == ["Marlow"]


@pytest.mark.parametrize(
    "filler", ["lorem ipsum dolor sit amet consectetur ", "the quick brown fox’s jump — über den Zaun "]
)
def test_a_long_text_is_read_in_linear_time_and_wholly(filler: str) -> None:
    def seconds(text: str) -> float:
        started = time.process_time()
        INDEX.find(text)
        return time.process_time() - started

    half = filler * (4000 // len(filler.split()))
    text = half + "and then she went to see Derek Whitehead in 東京 " + half
    assert set(subjects(INDEX, text)) == {"Derek Whitehead", "東京"}
    once = min(seconds(text) for _ in range(5))
    assert once < 0.1  # 5 ms here; the bound leaves room for a busy machine
    assert min(seconds(text * 8) for _ in range(3)) < 40 * once


def test_words_far_apart_in_a_long_text_are_no_name() -> None:
    gap = "lorem ipsum dolor sit amet " * 40
    assert subjects(INDEX, f"Derek left. {gap} A whitehead is a spot.") == []
    assert subjects(INDEX, f"An apple. {gap} The CEO left.") == []
    assert subjects(INDEX, f"{gap} The CEO of the apple company left. {gap}") == ["Apple"]


def test_what_is_found_hangs_on_the_live_edits_alone() -> None:
    shuffled = list(enumerate(EDITS))
    random.Random(0).shuffle(shuffled)
    other = FactIndex()
    for number, one in shuffled:
        other.add(f"edit_{number:03}", one)
        other.add(f"gone_{number:03}", edit(f"{one.subject} Whitehead Tower", f"Where is {one.subject}, please?"))
        other.add(f"edit_{number:03}", one)  # the same id takes the place of the edit before
    for number, _ in shuffled:
        other.drop(f"gone_{number:03}")
    assert len(other) == len(INDEX)
    for question in [one.prompt for one in EDITS] + ["Whitehead?", "Eiffel", "the Austrlian capital", "tower"]:
        assert other.find(question) == INDEX.find(question)


def test_dropping_everything_leaves_nothing() -> None:
    made = index(*EDITS)
    for number in range(len(EDITS)):
        made.drop(f"edit_{number:03}")
    assert len(made) == 0
    assert not any(made.find(one.prompt) for one in EDITS)
    empty = FactIndex()
    for part in ("_vocabulary", "_names", "_prompts", "_unnamed", "_nameless"):
        made_part, empty_part = vars(getattr(made, part)), vars(getattr(empty, part))
        for name in made_part.keys() - {"_forms"}:  # what the vocabulary remembers of questions
            assert made_part[name] == empty_part[name], f"{part}.{name}"
    with pytest.raises(UnknownIdError, match="dropped before, or never added"):
        made.drop("edit_000")


def test_it_follows_the_changes_of_a_store() -> None:
    made = index(edit("Australia"))
    new = StoredEdit("edit_9", edit("Norland"), 2)
    made.apply(Change(1, 2, added=(new,), dropped=(StoredEdit("edit_000", edit("Australia"), 1, 2),)))
    assert subjects(made, "Is Australia near Norland?") == ["Norland"]
    assert "edit_9" in made and "edit_000" not in made


def test_the_limit_counts() -> None:
    made = index(*(edit("Norland", f"Q{number} of Norland?") for number in range(20)))
    assert [len(made.find("Norland", limit)) for limit in (1, 8, 50)] == [1, 8, 20]
    with pytest.raises(ConfigError, match="at least 1"):
        made.find("Norland", 0)


def test_threads_find_while_others_write() -> None:
    made = index(*EDITS)
    errors: list[BaseException] = []

    def write() -> None:
        for number in range(200):
            made.add(f"t{number}", edit(f"Place{number} Whitehead"))
            made.drop(f"t{number}")

    def read() -> None:
        try:
            for _ in range(200):
                assert "Derek Whitehead" in subjects(made, "Where is Derek Whitehead?")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=task) for task in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


COMMON = index(
    edit("penicillin", "Who discovered penicillin?"), edit("theory of relativity"), edit("Brazil"), edit("Eiffel Tower")
)


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("¿Quién descubrió la penicilina?", "penicillin"),
        ("In welcher Stadt steht der Eiffelturm?", "Eiffel Tower"),
        ("who develloped the theroy of relativty", "theory of relativity"),
        ("Welche Sprache spricht man in Brasilien?", "Brazil"),
        ("巴西说什么语言？", "Brazil"),
    ],
)
def test_a_short_question_in_other_words_finds_a_whole_name(question: str, subject: str) -> None:
    assert subjects(COMMON, question) == [subject]


def test_a_statement_with_a_common_name_needs_support() -> None:
    assert subjects(COMMON, "Nobody took penicilina with him on the long way home.") == []


def test_edits_are_found_by_their_answer_the_one_that_shares_most_words_first() -> None:
    made = FactIndex()
    made.add("1", Edit(prompt="Who painted Guernica?", target_new="Claude Monet", subject="Guernica"))
    made.add("2", Edit(prompt="Who wrote Emma?", target_new="Claude Monet", subject="Emma"))
    made.add("3", Edit(prompt="Who wrote Faust?", target_new="Monet", subject="Faust"))
    asked = "Which book was written by Claude Monet, who wrote so well?"
    assert [found.id for found in made.find_answers(asked)] == ["3", "2", "1"]
    assert [found.id for found in made.find_answers(asked, 1, hidden={"3"})] == ["2"]
    assert made.find_answers("Which book is by Claude?") == []
    made.drop("2")
    assert [found.id for found in made.find_answers(asked)] == ["3", "1"]
    with pytest.raises(ConfigError, match="at least 1"):
        made.find_answers(asked, 0)


def test_an_edit_is_known_by_its_id() -> None:
    assert INDEX.edit("edit_000") == EDITS[0]
    with pytest.raises(UnknownIdError, match="no edit 'x'"):
        INDEX.edit("x")


@pytest.mark.parametrize(
    ("question", "is_found"),
    [
        ("In which year did the Second World War begin?", False),
        ("When was the outbreak of the Second World War?", False),
        ("When was the Second World War over?", True),
        ("The Second World War began in 1939. In which year did it end?", True),
        ("How long did the Second World War last?", True),  # "last" is the opposite of "first", not of "end"
        (f"{'We talked about how the evening would begin. ' * 12}In which year did the Second World War end?", True),
    ],
)
def test_a_question_for_the_opposite_does_not_find_an_edit(question: str, is_found: bool) -> None:
    index = FactIndex()
    index.add(
        "1", Edit(prompt="In which year did the Second World War end?", target_new="1950", subject="Second World War")
    )
    assert bool(index.find(question)) is is_found


def test_a_prompt_that_names_both_opposites_has_none() -> None:
    index = FactIndex()
    index.add("1", Edit(prompt="Who was the first and the last king of Hawaii?", target_new="Nobody", subject="Hawaii"))
    assert index.find("Who was the last king of Hawaii?")
