"""The `Task` record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rocket_hub.errors import TaskError
from rocket_hub.records import Example


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
        extract: Reads the answer out of generated or gold text, in the form that is compared; empty when there is none.
        mark: Text between rationale and answer.
        closed: Data sets made from the task's own training split, which `leave_task_out` excludes.
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

    def example(self, raw: Example) -> Example:
        """Bring an example, as a file or a data set holds it, into the task's form.

        Args:
            raw: `prompt` is the bare question; `completion` the whole answer text; `rationale` and `answer` its two
                parts where the source tells them apart.

        Returns:
            An example whose `prompt` ends where the model starts to write, whose `completion` starts with a space and
            whose `answer` is in the compared form.
        """
        text, rationale = raw.completion.strip(), raw.rationale.strip()
        if raw.answer and (rationale not in text or not self.extract(text)):
            text = self.completion(rationale, raw.answer.strip())
        return Example(
            prompt=self.prompt(raw.prompt.strip()),
            completion=f" {text}",
            answer=self.extract(text),
            rationale=rationale or text.rpartition(self.mark)[0].strip(),
        )

    def examples(self, rows: Iterable[Mapping[str, Any]], where: str) -> list[Example]:
        """Read the rows of an evaluation set.

        Raises:
            TaskError: A column is missing or holds no answer in the task's form; the message names row and columns.
        """
        read = []
        for index, row in enumerate(rows):
            if self.question not in row or self.answer not in row:
                raise TaskError(
                    f"{where}: row {index}: the task '{self.name}' needs the columns '{self.question}' and "
                    f"'{self.answer}', found {', '.join(map(str, row))}"
                )
            text = str(row[self.answer])
            example = self.example(Example(str(row[self.question]), text, text))
            if not example.answer:
                raise TaskError(f"{where}: row {index}: no answer in the form of '{self.name}' in {text[:80]!r}")
            read.append(example)
        return read

    def at(self, dataset: str | None, config: str | None) -> Task:
        """Return the task with another evaluation set; none = its own."""
        return replace(self, dataset=dataset, config=config) if dataset else self
