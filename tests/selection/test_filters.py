import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import InputError
from rocket_hub.records import Example, Rejection
from rocket_hub.selection.filters import GATES, LANGUAGES, ExactDuplicates, Limits, fault_of, other_language
from rocket_hub.selection.screening import survey

PROSE = (
    "The market opens at eight and closes at noon. People come from all over the valley to buy bread and cheese. "
    "Most of them know each other well. The baker sells out before ten, as he always did. "
)


def reason(completion, prompt="Tell me something.", **limits):
    fault = fault_of(Example(prompt, completion, source="u/data", index=3), Limits(**limits))
    return fault.reason if fault else ""


ANSWERS = [
    "42", "-3.5", "$1,200", "A", "B. helium", "(C)", "yes", "No.", "+", "?", "...", ",", "(", "[]", "{}", "None",
    "null and void", "x = 3;", "#### 18", "\\boxed{7}", "the", "Dushanbe", ".na", "陳智遠", "Варшавская губерния",
    "well ...", "Too sweet for my taste...", "I can't wait", "I'm sorry to hear that. Try to talk to a friend.",
    "I can't help but laugh at this.", "I cannot find my keys anywhere, so we have to take the bus.",
    "Unfortunately, none of his coworkers notice.", "As an airline pilot, he flew all over the world.",
]  # fmt: skip
SOUND = [
    *ANSWERS,
    "Caused my normally iron kitty to vomit all over the house again and again, it is that bad :(",
    "def add(a, b):\n    return a + b",
    "for (let i = 0; i < 10; i++) {\n  console.log(i);\n}",
    "```python\nprint('hello')\n```",
    "SELECT a, b\nFROM t\nWHERE a IN (1, 2, 3)\nGROUP BY a, b\nORDER BY a DESC\nLIMIT 5;",
    "1. Java\n2. Python\n3. C++",
    "Dear Sir,\n\nThank you for the parcel. It came yesterday.\n\nYours sincerely,\n[Your Name]",
    "Sodium: metal\nNeon: gas\nArgon: gas\nIron: metal\nGold: metal\nKrypton: gas\nXenon: gas\nZinc: metal\nTin: metal",
    PROSE,
    f"{PROSE}\n\n- Fourthly, one should not forget that the best cheese is gone when the church bell rings at nine",
]


@pytest.mark.parametrize("completion", SOUND)
def test_sound_completions_pass(completion):
    assert reason(completion) == ""


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("x" * 40_000, "too_long"),
        ("<nooutput>", "placeholder"),
        ("N/A", "placeholder"),
        ("[insert your answer here]", "placeholder"),
        ("TODO", "placeholder"),
        ("Lorem ipsum dolor sit amet, consectetur adipiscing elit", "placeholder"),
        ("I'm sorry, but I can't assist with that.", "refusal"),
        ("I’m sorry, but as an AI I have no favourite film.", "refusal"),
        ("As an AI language model, I do not have feelings. However, here is a poem:\nRoses are red.", "refusal"),
        ("I cannot provide medical advice.", "refusal"),
        ("Unfortunately, I am unable to access the internet.", "refusal"),
        ("Tell me something.", "repeats_prompt"),
        ("  tell me, SOMETHING", "repeats_prompt"),
        ("Here is the code:\n```python\nprint('hello')\n", "truncated"),
        ("function f(x) {\n  if (x) {\n    for (const y of x) {\n      console.log(y)", "truncated"),
        ("The three best things about the valley are the bread, the cheese and the", "truncated"),
        ("There are many reasons for it, but the first one that comes to mind is, of course,", "truncated"),
        (f"{PROSE}To make it at home yourself you need flour, water, salt and the following tools:", "truncated"),
        ("We walked along the river for hours and nobody said a word until at last someb...", "truncated"),
        (f"{PROSE * 4}When the snow comes in the winter the road is closed and the peo", "truncated"),
        ("I like it very much. " * 20, "repetitive"),
        ("na " * 40, "repetitive"),
        ("Das ist ein Satz, der nicht auf Englisch ist, und er ist so lang, dass man es an den Wörtern sehen kann, "
         "auch wenn sie in lateinischen Buchstaben sind.", "wrong_language"),
        ("Москва является столицей России.", "wrong_language"),
    ],
)  # fmt: skip
def test_each_gate_has_a_reason(completion, expected):
    assert reason(completion) == expected
    assert expected in GATES


def test_a_rejection_names_row_reason_and_finding():
    fault = fault_of(Example("p", "I'm sorry, but I can't assist with that.", source="u/data", index=7))
    assert fault == Rejection("u/data#7", "refusal", "I'm sorry, but I")
    assert fault_of(Example("", "answer", source="u/data", index=0)) == Rejection("u/data#0", "empty", "no prompt")
    assert fault_of(Example("What is 2 + 2?", "4", source="u/data", index=1)) is None


def test_a_completion_may_quote_its_prompt():
    question = "How many legs do three cats and two birds have together?"
    assert reason(f"{question} Let us see: sixteen.", question) == "repeats_prompt"
    assert reason(f"You ask: {question} Sixteen.", question) == ""
    assert reason("To dance, move your feet.", "To dance") == ""
    assert reason("yes", "Yes?") == "repeats_prompt"


def test_length_against_the_context():
    asked = []

    def count_tokens(text):
        asked.append(text)
        return len(text.split())

    limits = {"max_tokens": 20, "count_tokens": count_tokens}
    assert reason("short", "p", **limits) == "" and asked == []  # 20 bytes are never more than 20 tokens
    assert reason("several longer words of text", "prompt", **limits) == "" and len(asked) == 1
    assert reason(PROSE, "prompt", **limits) == "too_long"
    assert reason("abc", "de", max_characters=5) == "" and reason("abc", "def", max_characters=5) == "too_long"


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match=r"languages: xx cannot be told.*known are .*en.*an empty list"):
        Limits(languages=("en", "xx"))
    with pytest.raises(InputError, match="count_tokens"):
        Limits(max_tokens=5)


TEXTS = {
    "en": PROSE,
    "de": "Der Markt öffnet um acht und schließt am Mittag. Die Leute kommen aus dem ganzen Tal, um hier Brot und "
    "Käse zu kaufen.",
    "fr": "Le marché ouvre à huit heures et ferme à midi. Les gens viennent de toute la vallée pour acheter du pain et "
    "du fromage, et ils ne sont pas seuls.",
    "es": "El mercado abre a las ocho y cierra al mediodía. La gente viene de todo el valle para comprar el pan y el "
    "queso de los vecinos.",
    "ru": "Рынок открывается в восемь и закрывается в полдень.",
    "ja": "いちばは はちじに あき、 ひるに しまります。 パンと チーズが あります。",
    "ko": "시장은 여덟 시에 열고 정오에 닫습니다. 사람들은 빵과 치즈를 삽니다.",
    "ar": "يفتح السوق في الثامنة ويغلق عند الظهر.",
    "hi": "बाज़ार आठ बजे खुलता है और दोपहर में बंद होता है।",
}


@pytest.mark.parametrize("language", TEXTS)
def test_languages_are_told_apart(language):
    assert {declared for declared in TEXTS if not other_language(TEXTS[language], (declared,))} == {language}
    assert other_language(TEXTS[language], tuple(TEXTS)) == other_language(TEXTS[language], ()) == ""


@pytest.mark.parametrize(
    "text", ["", "42", "Je ne sais pas", "α + β = γ", "x " * 50, "def f(x, y):\n    return x + y\n" * 9]
)
def test_too_little_to_tell_a_language(text):
    assert all(other_language(text, (language,)) == "" for language in LANGUAGES)


def test_chinese_characters_may_be_japanese():
    text = "市场八点开门，中午关门。山谷里的人都来买面包和奶酪，大家互相认识。"
    assert other_language(text, ("en",)) == "Han"
    assert other_language(text, ("ja",)) == other_language(text, ("en", "zh")) == ""


def test_a_translation_is_no_wrong_language():
    assert (
        reason(TEXTS["fr"], "Translate the following text into French, and keep the tone of the letter: " + PROSE) == ""
    )


def test_exact_duplicates_across_sets():
    rows = [
        Example("What is 3 + 4?", "7", source="u/a", index=0),
        Example("What is 3 - 4?", "7", source="u/a", index=1),
        Example(" what is\n3 + 4? ", "７", source="u/b", index=5),
        Example("What is 3 + 4?", "It is 7", source="u/b", index=6),
        Example("What is 3 + 4?", "7", source="u/c", index=2),
    ]
    known = ExactDuplicates()
    assert [known.fault_of(row) for row in rows] == [
        None,
        None,
        Rejection("u/b#5", "duplicate_of", "u/a#0"),
        None,
        Rejection("u/c#2", "duplicate_of", "u/a#0"),
    ]


pieces = st.sampled_from(
    ["```", "(", "[", "{", ",", "\n", "the ", "word ", "...", "1. ", "- ", ". ", "é", "\ud800", "１", "<", "'"]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(pieces, max_size=60).map("".join), st.lists(pieces, max_size=20).map("".join))
def test_any_text_can_be_judged(completion, prompt):
    row = Example(prompt, completion, source="u/data", index=0)
    fault = fault_of(row)
    assert fault is None or (fault.reason in GATES and fault.detail)
    assert survey([row, row], [], limits=Limits()).faults.keys() == ({0, 1} if fault else {1})


@settings(max_examples=60, deadline=None)
@given(st.text(string.ascii_letters + string.digits + " +-*/=.,", min_size=1, max_size=30).filter(str.strip))
def test_short_answers_are_never_taken_for_broken_ones(answer):
    assert reason(answer, "Question?") in ("", "repeats_prompt", "placeholder")


@pytest.mark.slow
def test_sound_sets_lose_next_to_nothing(shared_data):
    from tests.benchmarks.contamination import read

    for task in ("gsm8k", "mbpp", "arc_easy", "boolq"):
        rows = [
            Example(p.question, p.gold, source=task, index=i)
            for i, p in enumerate(read(shared_data, task, "train")[:2000])
        ]
        assert [fault for row in rows if (fault := fault_of(row))] == [], task


@pytest.mark.slow
def test_cuts_that_are_found(shared_data):
    """Most cuts cannot be seen; those that can are no accident."""
    from tests.benchmarks.contamination import instruction_rows

    rows = [row for row in instruction_rows(shared_data) if row.source in ("dolly_filtered", "gpteacher_codegen")]
    draw = random.Random(0)
    long = [row for row in rows if len(row.completion.split()) >= 60 and fault_of(row) is None]
    cut = [row.completion[: draw.randrange(len(row.completion) // 2, len(row.completion) - 5)] for row in long]
    found = sum(reason(text, "Tell me more.") == "truncated" for text in cut)
    assert 0.15 < found / len(cut) < 0.6
    assert sum(reason(row.completion) == "truncated" for row in rows) <= 5
