"""Domain text: reading it, cutting it, and finding what belongs to a question."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocket_hub.errors import InputError
from rocket_hub.generation.retrieval import Retriever, cut, documents_of, fused, read_documents, text_of
from rocket_hub.generation.self_specialization import Answers, Question
from rocket_hub.options import SelfSpecializationOptions
from rocket_hub.records import Example
from rocket_hub.tasks import ARC_EASY, GSM8K
from tests.helping import push_rows

PAGES = ["The red cup costs 7 coins.", "The blue cup costs 31 coins.", "Cats sleep all day.", "A dog eats meat at 7."]


class Animals:
    """An encoder that knows animals from goods."""

    def encode(self, texts):
        found = [
            [1.0, 0.1] if any(word in text.lower() for word in ("cat", "dog", "pet")) else [0.1, 1.0] for text in texts
        ]
        vectors = np.array(found, dtype=np.float32).reshape(-1, 2)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_folder_of_text_is_read_in_the_order_of_its_paths(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.md").write_text("# Title\n\nText")
    (tmp_path / "deep" / "c.txt").write_text("\ufeffthree", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "one", "n": 3}\n\n["two", {"x": "too"}]\n')
    (tmp_path / "z.bin").write_bytes(b"\xff\xfe")
    assert read_documents(tmp_path) == ["one", "two\ntoo", "# Title\n\nText", "three"]
    assert read_documents(tmp_path / "b.md") == ["# Title\n\nText"]


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [("a.txt", b"\xff", "UTF-8"), ("a.jsonl", b'{"text": ', "a.jsonl:1: not JSON"),
     ("a.jsonl", b"[" * 100_000, "not JSON"),
     ("a.bin", b"text", "no documents"), ("a.txt", b" \n", "no documents")],
)  # fmt: skip
def test_documents_that_cannot_be_read_are_named(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=match):
        read_documents(tmp_path)


def test_passages_end_with_paragraphs_else_sentences():
    assert cut(["a b c\n\nd e\n\nf g h i"], words=5) == ["a b c d e", "f g h i"]
    assert cut(["a b c. d e f. g"], words=4) == ["a b c.", "d e f. g"]
    assert cut(["a b c d e"], words=2) == ["a b", "c d", "e"]
    assert cut(["same", "same", " \n "]) == ["same"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet="ab .\n", max_size=80), max_size=4), st.integers(1, 9))
def test_no_word_is_lost_and_no_passage_is_too_long(texts, words):
    found = cut(texts, words)
    assert all(0 < len(passage.split()) <= words for passage in found)
    assert set(" ".join(found).split()) == set(" ".join(texts).split())
    if len(texts) == 1 and len(set(found)) == len(found) and len(texts[0].split()) <= words:
        assert found == ([" ".join(texts[0].split())] if texts[0].split() else [])


def test_words_find_passages_single_digits_too():
    retriever = Retriever(PAGES, "bm25")
    assert retriever.find(["What does the blue cup cost?", "7", "zebra", ""], 2) == [
        [PAGES[1], PAGES[0]], [PAGES[0], PAGES[3]], [], [],
    ]  # fmt: skip
    assert retriever.find(["cup"], 0) == [[]] and retriever.find([], 3) == []
    assert len(retriever.find(["the cup costs coins a dog cats"], 99)[0]) == 4


def test_meaning_finds_what_words_do_not():
    found = Retriever(PAGES, "dense", Animals()).find(["Which pet is it?", "a price"], 2)
    assert found == [[PAGES[2], PAGES[3]], [PAGES[0], PAGES[1]]]
    both = Retriever(PAGES, "both", Animals()).find(["a pet that eats meat at night"], 3)[0]
    assert both[0] == PAGES[3] and PAGES[2] in both


def test_ranks_are_fused_by_the_sum_of_their_reciprocals():
    assert fused([[3, 1, 2]]) == [3, 1, 2]
    assert fused([[1, 2, 3], [3, 4]]) == [3, 1, 2, 4]  # 1/63 + 1/61 > 1/61; of equals the first
    assert fused([[], [5]]) == [5] and fused([]) == []


def test_what_cannot_be_found_in_is_refused():
    with pytest.raises(InputError, match="no passages"):
        Retriever([], "bm25")
    for kind in ("dense", "both"):
        with pytest.raises(InputError, match="needs an encoder"):
            Retriever(PAGES, kind)


class Words:
    """A tokenizer of words, for counting."""

    chat_template = eos_token = eos_token_id = None

    def __call__(self, text, **_):
        return {"input_ids": text.split()}


def answers(task, seeds, room=10_000, **changed):
    options = SelfSpecializationOptions(**{"passages": 1, "seeds_for_answer": 2} | changed)
    return Answers(task, Words(), [task.example(seed) for seed in seeds], options, Retriever(PAGES, "bm25"), room, 0)


SEEDS = [Example("What is the price of the red cup?", "#### 7", ""), Example("When does a dog eat?", "#### 7", "")]


def test_every_shot_stands_below_passages_of_its_own():
    asking, question = answers(GSM8K, SEEDS), Question(0, "How many coins for the blue cup?")
    prompt = asking.prompt(question, asking.retriever.find([question.text], 1)[0])
    first, second, last = prompt.split("\n\n")
    assert {first, second} == {
        f"Question: {PAGES[0]}\n{SEEDS[0].prompt}\nAnswer: #### 7",
        f"Question: {PAGES[3]}\n{SEEDS[1].prompt}\nAnswer: #### 7",
    }
    assert last == f"Question: {PAGES[1]}\n{question.text}\nAnswer:"
    bare = replace(asking, retriever=None)
    assert bare.prompt(question, []).endswith(f"\n\nQuestion: {question.text}\nAnswer:")


def test_options_stay_below_their_question_and_passages_above_it():
    seeds = [Example("What eats meat?\nA. tin\nB. dog", "The answer is B.", "")]
    prompt = answers(ARC_EASY, seeds).prompt(Question(0, "Which is red?\nA. cup\nB. day"), [PAGES[0]])
    assert prompt == (
        f"Question: {PAGES[3]}\nWhat eats meat?\nA. tin\nB. dog\nAnswer: The answer is B.\n\n"
        f"Question: {PAGES[0]}\nWhich is red?\nA. cup\nB. day\nAnswer:"
    )


def test_what_there_is_no_room_for_is_left_out():
    question, passage = Question(0, "How many coins for the blue cup?"), [PAGES[1]]
    lengths = {
        room: (answers(GSM8K, SEEDS, room).prompt(question, passage) or "").count("Question:") for room in range(60)
    }
    assert [lengths[room] for room in (8, 9, 14, 15, 33, 59)] == [0, 1, 1, 1, 2, 3]
    assert PAGES[1] not in answers(GSM8K, SEEDS, 9).prompt(question, passage)
    assert PAGES[1] in answers(GSM8K, SEEDS, 15).prompt(question, passage)


def test_a_data_set_on_the_hub_is_read_as_text(api):
    rows = [{"title": "Cup", "body": "The cup costs 7.", "n": 1}, {"title": "", "body": " ", "n": 2}]
    push_rows(api, "local/pages", rows)
    found = documents_of(api, "local/pages")
    assert found.texts == ("Cup\nThe cup costs 7.",) and len(found.origin.revision) == 40
    api.create_repo("local/nothing", repo_type="dataset")
    with pytest.raises(InputError, match="no Parquet"):
        documents_of(api, "local/nothing")


def test_all_texts_of_a_row_count():
    assert text_of({"a": "x", "b": [1, "y", None], "c": {"d": "z"}, "e": ""}) == "x\ny\nz" and text_of(3) == ""
