from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rocket_hub.errors import TaskError
from rocket_hub.records import Example
from rocket_hub.tasks.answers import LETTERS, lettered

# What Llama 3's templates say where there is no clock.
_ONE_DAY = "{% macro strftime_now(form) %}26 Jul 2024{% endmacro %}"
_PROBE = "a\0b"
_TEMPLATE_FAULTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)


def chat_frame(tokenizer: Any) -> Callable[[str], str] | None:
    """Return what puts a text into a tokenizer's chat template as the user's only turn; none = there is no template.

    A template that writes today's date always gets the same day, so that the prompts of two builds are the same.

    Raises:
        TaskError: The template cannot be used: it fails, or does not hold the text exactly once.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    dated = isinstance(template, str) and "strftime_now" in template
    given = {"chat_template": _ONE_DAY + template} if dated else {}

    def render(text: str) -> str:
        turns = [{"role": "user", "content": text}]
        said: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **given)
        return said

    probe = _checked(render, getattr(tokenizer, "name_or_path", "the tokenizer"))
    begin = tokenizer.bos_token or ""
    twice = begin and tokenizer(text=probe)["input_ids"][:2] == [tokenizer.bos_token_id] * 2
    # such a tokenizer begins every text of its own accord
    return (lambda text: render(text).removeprefix(begin)) if twice else render


def _checked(render: Callable[[str], str], name: str) -> str:
    """Return the probe in a template; refuses a template in which nothing can be asked."""
    from jinja2 import TemplateError

    try:
        said = render(_PROBE)
    except (TemplateError, *_TEMPLATE_FAULTS) as error:
        raise TaskError(f"{name}: its chat template fails: {error}; take another base model") from error
    if (times := said.count(_PROBE)) != 1:
        raise TaskError(
            f"{name}: its chat template holds what is asked {times} times, not once; take another base model"
        )
    return said


@dataclass(frozen=True)
class Task:
    """One task, the same object for scoring, training and evaluation.

    Attributes:
        name: What recipes and the command line call it.
        description: One sentence for the card.
        dataset: Evaluation set on the Hub, a repository id.
        config: Its configuration; none = its only one.
        question: Column of the evaluation set that holds the question.
        answer: Column that holds the gold answer, with or without its rationale.
        prompt: Turns a question into what the model is given.
        completion: Turns (rationale, answer) into what the model should write.
        extract: Reads the answer out of text in the task's own form, as it is compared; empty when there is none.
        mark: Text between rationale and answer; empty = there is no rationale.
        closed: Data sets made from the task's own training split, which `leave_task_out` excludes.
        guess: Reads the answer out of (generated text, options), however it is written; none = `extract` does.
        columns: Further columns that `read_row` needs.
        read_row: Turns a row of the evaluation set into an example as a K-shot file would hold it; none = question and
            answer are texts.
        prepare: Brings such an example nearer to the task's form before the prompt is written (options, tests).
        metric: `exact_match` or `pass_at_1`, see `rocket_hub.tasks`.
        split: Split of the evaluation set that is measured.
        revision: Its commit on the Hub; none = the newest.
        stop: Texts at which a generation is over, as in lm-evaluation-harness.
        delimiter: Between prompt and completion.
        shots: Examples that stand before every question.
        frame: `prompt` without shots and chat template; none = there are none in it.
        chat: Puts a prompt into a model's chat template; none = a base model.
    """

    name: str
    description: str
    dataset: str
    config: str | None
    question: str
    answer: str
    prompt: Callable[[str], str]
    completion: Callable[[str, str], str]
    extract: Callable[[str], str]
    mark: str
    closed: tuple[str, ...] = ()
    guess: Callable[[str, tuple[str, ...]], str] | None = None
    columns: tuple[str, ...] = ()
    read_row: Callable[[Mapping[str, Any]], Example] | None = None
    prepare: Callable[[Example], Example] | None = None
    metric: str = "exact_match"
    split: str = "test"
    revision: str | None = None
    stop: tuple[str, ...] = ()
    delimiter: str = " "
    shots: tuple[Example, ...] = ()
    frame: Callable[[str], str] | None = None
    chat: Callable[[str], str] | None = None

    def example(self, raw: Example) -> Example:
        """Bring an example, as a file or a data set holds it, into the task's form.

        Args:
            raw: `prompt` is the bare question; `completion` the whole answer text; `rationale` and `answer` its two
                parts where the source tells them apart; `choices` and `tests` where it has them apart.

        Returns:
            An example whose `prompt` ends where the model starts to write, whose `completion` starts with the delimiter
            and whose `answer` is in the compared form.
        """
        raw = self.prepare(raw) if self.prepare else raw
        text, rationale = raw.completion.strip(), raw.rationale.strip()
        if raw.answer and (rationale not in text or not self.extract(text)):
            text = self.completion(rationale, raw.answer.strip())
        return Example(
            prompt=self.prompt(raw.prompt.strip()),
            completion=f"{self.delimiter}{text}",
            answer=self.extract(text),
            rationale=rationale or (text.rpartition(self.mark)[0].strip() if self.mark else ""),
            choices=raw.choices,
            tests=raw.tests,
        )

    def examples(self, rows: Iterable[Mapping[str, Any]], where: str) -> list[Example]:
        """Read the rows of an evaluation set.

        Raises:
            TaskError: A column is missing or holds no answer in the task's form; the message names row and columns.
        """
        read = []
        needed = (self.question, self.answer, *self.columns)
        for index, row in enumerate(rows):
            if any(name not in row for name in needed):
                names = f"{', '.join(map(repr, needed[:-1]))} and '{needed[-1]}'"
                raise TaskError(
                    f"{where}: row {index}: the task '{self.name}' needs the columns {names}, "
                    f"found {', '.join(map(str, row))}"
                )
            text = str(row[self.answer])
            try:
                raw = self.read_row(row) if self.read_row else Example(str(row[self.question]), text, text)
            except TaskError as error:
                raise TaskError(f"{where}: row {index}: {error}") from error
            example = self.example(raw)
            if not example.answer:
                raise TaskError(f"{where}: row {index}: no answer in the form of '{self.name}' in {text[:80]!r}")
            read.append(example)
        return read

    def at(self, dataset: str | None, config: str | None) -> Task:
        """Return the task with another evaluation set, at its newest commit; none = its own."""
        return replace(self, dataset=dataset, config=config, revision=None) if dataset else self

    def with_shots(self, shots: Sequence[Example]) -> Task:
        """Return the task with solved examples before every question, a blank line between them.

        Raises:
            TaskError: A shot is not in the form that this task gives without shots and chat template.
        """
        for shot in shots:
            self._bare(shot.prompt, self.frame or self.prompt)
        return self._dressed(tuple(shots), self.chat)

    def for_model(self, tokenizer: Any) -> Task:
        """Return the task as this tokenizer's model is asked: in its chat template, if it has one.

        As in lm-evaluation-harness (`--apply_chat_template`) all is one turn of the user's, shots too, and nothing
        stands between the template and the completion.

        Raises:
            TaskError: The template cannot be used; see `chat_frame`.
        """
        chat = chat_frame(tokenizer)
        return replace(self._dressed(self.shots, chat), delimiter="") if chat else self

    def prompt_for(self, question: str, tokenizer: Any) -> str:
        """Write the prompt of a bare question for a base or a chat model; see `for_model`."""
        return self.for_model(tokenizer).prompt(question)

    def options(self, example: Example) -> tuple[str, tuple[str, ...]]:
        """Return what option likelihood compares for a problem in the task's form: (prompt, continuations).

        As in lm-evaluation-harness there are no letters, but the options' own texts; each starts with the delimiter.

        Raises:
            TaskError: The task, or the problem, has no options.
        """
        if len(example.choices) < 2:
            raise TaskError(f"task '{self.name}': a problem without options has no option likelihood; generate instead")
        frame = self.frame or self.prompt
        shown = "".join(
            f"{frame(self._stem(shot, frame))} {shot.choices[self.choice_index(shot)]}\n\n" for shot in self.shots
        )
        prompt = shown + frame(self._stem(example, self.prompt))
        return self.chat(prompt) if self.chat else prompt, tuple(f"{self.delimiter}{text}" for text in example.choices)

    def choice_index(self, example: Example) -> int:
        """Return which of an example's options is the right one, from 0."""
        if example.answer in tuple(LETTERS[: len(example.choices)]):  # an option's text may be a letter, too
            return LETTERS.index(example.answer)
        return example.choices.index(example.answer)

    def read_answer(self, text: str, example: Example) -> str:
        """Read the answer out of what a model wrote for a problem, in the compared form; empty when there is none."""
        return self.guess(text, example.choices) if self.guess else self.extract(text)

    def question_of(self, example: Example) -> str:
        """Return the bare question of a problem in the task's form, with its options where it has any.

        Raises:
            TaskError: Its prompt is not in the task's form.
        """
        return self._bare(example.prompt, self.prompt)

    def _stem(self, example: Example, frame: Callable[[str], str]) -> str:
        return self._bare(example.prompt, frame).removesuffix("\n" + lettered(example.choices).rstrip())

    def _bare(self, prompt: str, frame: Callable[[str], str]) -> str:
        before, _, after = frame("\0").partition("\0")
        if not (prompt.startswith(before) and prompt.endswith(after)):
            raise TaskError(f"task '{self.name}': expected a prompt like {frame('…')!r}, found {prompt[-200:]!r}")
        return prompt[len(before) : len(prompt) - len(after)]

    def _dressed(self, shots: tuple[Example, ...], chat: Callable[[str], str] | None) -> Task:
        frame = self.frame or self.prompt
        shown = "".join(f"{shot.prompt}{shot.completion}\n\n" for shot in shots)

        def prompt(question: str) -> str:
            text = shown + frame(question)
            return chat(text) if chat else text

        return replace(self, prompt=prompt, frame=frame, shots=shots, chat=chat)
