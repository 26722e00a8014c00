from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from rocket_hub.errors import InputError
from rocket_hub.records import Example, Rejection
from rocket_hub.selection.decontamination import normalise, plain, words_of

_SCRIPTS = {
    "Cyrillic": ("\u0400-\u052f", "ru uk bg sr"),
    "Hebrew": ("\u0590-\u05ff", "he"),
    "Arabic": ("\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufeff", "ar fa ur"),
    "Devanagari": ("\u0900-\u097f", "hi mr"),
    "Bengali": ("\u0980-\u09ff", "bn"),
    "Thai": ("\u0e00-\u0e7f", "th"),
    "Hangul": ("\u1100-\u11ff\uac00-\ud7af", "ko"),
    "Kana": ("\u3040-\u30ff", "ja"),
    "Han": ("\u3400-\u9fff\uf900-\ufaff", "zh ja"),
}
# Words of one letter are left out: they are variables in code and formulae.
_COMMON_WORDS = {
    "en": "the of and to in is that was for on with as it be are by this from at have which or not what how you "
    "your an he she they we his her their there if one can all has had were do does more than when then each "
    "my me so but",
    "es": "el la los las de del que en un una es por con para se su al lo como más pero sus le este porque esta "
    "entre cuando muy sin sobre también hasta hay donde quien desde todo nos son fue ha cuál qué está",
    "fr": "le la les des de du un une et est que qui dans en pour par sur au aux avec ce cette il elle on ne pas "
    "plus se sont ou nous vous je mais leur être comme son sa ses été",
    "de": "der die das und ist in den von zu mit sich des auf für im dem nicht ein eine als auch es an werden aus "
    "er hat dass sie nach wird bei einer um am sind noch wie einem über einen",
    "it": "il lo la gli le di del della dei che un una è per con non si da al come più ma anche sono nel alla ha "
    "questo questa mi cui suo sua se dal delle",
    "pt": "os as de do da dos das que em um uma é para com por não na se mais como mas foi ao ele seu sua ou ser "
    "quando muito há nos já está eu também só pelo pela até",
    "nl": "de het een en van in is dat op te zijn met voor niet aan er om ook als dan maar bij nog uit naar heeft "
    "hij ik je wordt door over ze zich hebben deze dit wat worden",
}
_STOP_WORDS = {language: frozenset(words.split()) for language, words in _COMMON_WORDS.items()}
_IN_SCRIPT = {script: re.compile(f"[{letters}]") for script, (letters, _) in _SCRIPTS.items()}

LANGUAGES = frozenset(_STOP_WORDS) | {language for _, languages in _SCRIPTS.values() for language in languages.split()}
"""The languages that can be declared, as two letters."""

_READ = 600  # characters of a text that are read
_FEWEST = 20  # words in Latin letters, or letters of another script, that show a language; fewer are a name
_SHARE = 0.2  # of a text's words that have to be among the commonest of its language
_DISTINCT = 4  # such words that have to be different


def other_language(text: str, declared: tuple[str, ...]) -> str:
    """Return the script or language of a text if it is none of the declared languages, else an empty string.

    Either more than half of the letters, and at least twenty, belong to a script that no declared language uses (Latin
    and Greek letters never count, as code and formulae use them everywhere); or, of at least twenty words, a fifth are
    the commonest words of one other language, twice as many as those of any declared one. Short texts, texts that quote
    another language, and languages of which no words are listed pass.

    Args:
        text: Its beginning is read.
        declared: Some of `LANGUAGES`; none = any language.
    """
    head = plain(text[:_READ])
    if not declared:
        return ""
    if not head.isascii():
        letters = sum(map(str.isalpha, head))
        for script, (_, languages) in _SCRIPTS.items():
            foreign = len(_IN_SCRIPT[script].findall(head)) if set(declared).isdisjoint(languages.split()) else 0
            if foreign >= _FEWEST and 2 * foreign > letters:
                return script
    words = words_of(head)
    own = max(_share(words, language) for language in declared)
    if len(words) < _FEWEST or own >= _SHARE:
        return ""
    others = {language: _share(words, language) for language in _STOP_WORDS if language not in declared}
    best = max(others, key=others.__getitem__, default="")
    clear = best and others[best] >= max(_SHARE, 2 * own)
    return best if clear and len(_STOP_WORDS[best].intersection(words)) >= _DISTINCT else ""


def _share(words: list[str], language: str) -> float:
    """Compute the share of words that are among the commonest of the language."""
    common = _STOP_WORDS.get(language, frozenset())
    return sum(map(common.__contains__, words)) / max(len(words), 1)


@dataclass(frozen=True)
class Limits:
    """Limits of a row.

    Attributes:
        languages: Languages that rows may be in, as two letters; none = any.
        max_characters: Longest prompt and completion together.
        max_tokens: The same in tokens, the model's context; none = no such limit.
        count_tokens: Counts the tokens of a text; called only for rows that may be too long.

    Raises:
        InputError: A language is not known, or `max_tokens` is given without `count_tokens`.
    """

    languages: tuple[str, ...] = ("en",)
    max_characters: int = 32_768
    max_tokens: int | None = None
    count_tokens: Callable[[str], int] | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.languages) - LANGUAGES):
            raise InputError(
                f"languages: {', '.join(unknown)} cannot be told from others; known are "
                f"{', '.join(sorted(LANGUAGES))}; an empty list takes rows in any language"
            )
        if self.max_tokens is not None and self.count_tokens is None:
            raise InputError("max_tokens needs count_tokens, a function that counts the tokens of a text")


_PLACEHOLDER = re.compile(
    r"[\W_]*(?:no ?input|no ?output|n/a|nan|null|todo|tbd|lorem ipsum\b.*"
    r"|[\[<](?:insert|enter|your|add)\b[^\]>]{0,60}[\]>])[\W_]*",
    re.IGNORECASE | re.DOTALL,
)
_DOING = (
    "help (?!but)|assist|provide|fulfil|fulfill|answer (?:that|this|your)|comply|do that|generate|create|browse|access|"
    "engage in|discuss"
)
_REFUSAL = re.compile(
    r"\W*(?:(?:i'm|i am) (?:very |really |so )?sorry,? (?:but )?(?:(?:but )?(?:i|as an?|that)\b|for (?:any|the))"
    r"|sorry,? (?:but )?i (?:can|do|am)"
    r"|(?:i )?apologi[sz]e,? but (?:i|as)\b"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|i(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    rf"|(?:unfortunately,? )?i (?:cannot|can't|can not|am unable to|am not able to|won't be able to) (?:{_DOING})\b"
    r"|i do(?:n't| not) have (?:access to|the ability|personal|feelings))",
    re.IGNORECASE,
)
_HANGING = re.compile(
    r"(?:,|(?<![:;\-])[(\[{]|[a-z](?:\.\.\.|…)"
    r"|\b(?:the|an|and|or|my|your|their|its|our|because|which|although|whose|than|into))$"
)
_SENTENCE_END = re.compile(r"[.!?][\"”')\]]*\s+")
_LIST_ITEM = re.compile(r"\s*(?:[-*•|#>]|\d{1,3}[.)]|\w[.)])")
_REPEATED = 4  # words of the n-grams that are counted


def fault_of(row: Example, limits: Limits | None = None) -> Rejection | None:
    """Return the rejection by the first of `GATES` that finds a fault, named as the gate; None for a sound row."""
    for reason, gate in GATES.items():
        if found := gate(row, limits or _DEFAULTS):
            return Rejection(row_name(row), reason, found)
    return None


def row_name(row: Example) -> str:
    """Name a row as rejections do."""
    return f"{row.source}#{row.index}"


class ExactDuplicates:
    """Rows seen so far, in whichever data set, by a hash of prompt and completion.

    Letter case, white space and compatible characters are ignored; signs are not, as `3 + 4` is not `3 - 4`. Memory is
    about 200 bytes a row.
    """

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}

    def fault_of(self, row: Example) -> Rejection | None:
        """Return the rejection `duplicate_of` with the name of the equal row before, or remember this one."""
        name = row_name(row)
        text = "\0".join(" ".join(_folded(part).split()) for part in (row.prompt, row.completion))
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        first = self._first.setdefault(key, name)
        return Rejection(name, "duplicate_of", first) if first is not name else None


def empty(row: Example, _: Limits) -> str:
    """Find a prompt or a completion of white space only."""
    return next((f"no {part}" for part in ("prompt", "completion") if not getattr(row, part).strip()), "")


def too_long(row: Example, limits: Limits) -> str:
    """Find more characters or tokens than allowed."""
    size = len(row.prompt) + len(row.completion)
    if size > limits.max_characters:
        return f"{size:,} characters, {limits.max_characters:,} are allowed"
    text = f"{row.prompt}\n{row.completion}"
    # A token is at least one byte of UTF-8 in the usual vocabularies, so most rows need not be counted.
    if (
        limits.max_tokens is None
        or len(text.encode("utf-8", "replace")) <= limits.max_tokens
        or not limits.count_tokens
    ):
        return ""
    tokens = limits.count_tokens(text)
    return f"{tokens:,} tokens, {limits.max_tokens:,} are allowed" if tokens > limits.max_tokens else ""


def placeholder(row: Example, _: Limits) -> str:
    """Find a completion that is only a placeholder, such as `<nooutput>` or `[insert name]`."""
    text = row.completion.strip()
    return text[:60] if len(text) <= 500 and _PLACEHOLDER.fullmatch(text) else ""


def refusal(row: Example, _: Limits) -> str:
    """Find a completion that starts by refusing, or by saying that a language model writes it."""
    found = _REFUSAL.match(row.completion.replace("’", "'") if "’" in row.completion[:100] else row.completion)
    return found[0].strip() if found else ""


def repeats_prompt(row: Example, _: Limits) -> str:
    """Find a completion that is the prompt, or starts with all of a prompt of eight words or more."""
    if len(row.completion) < len(row.prompt) / 2:
        return ""
    prompt, completion = normalise(row.prompt), normalise(row.completion[: 2 * len(row.prompt) + 100])
    if prompt and completion == prompt:
        return "the completion is the prompt"
    return "it starts with the prompt" if prompt.count(" ") > 6 and completion.startswith(f"{prompt} ") else ""


def truncated(row: Example, _: Limits) -> str:
    """Find a completion that breaks off, by signs that sound answers hardly show; most cuts leave none.

    A fence of code that is not closed; two brackets or more that are not closed, unless a sentence ends after them;
    from twelve words on a comma, an opening bracket, three dots after a word or a word such as `the` or `and` at the
    end, from twenty on a colon; from 150 words on prose that stops in the middle of a sentence.
    """
    text = row.completion.rstrip()
    if text.count("```") % 2:
        return "a fence of code is not closed"
    if len(text) < 40:
        return ""
    if text[-1] not in ".!?$" and any(text.count(a) - text.count(b) > 1 for a, b in ("()", "[]", "{}")):
        return "brackets are not closed"
    words = text.count(" ") + text.count("\n") + 1
    if (words >= 12 and _HANGING.search(text[-20:])) or (words >= 20 and text.endswith(":")):
        return f"it ends with {text[-20:]!r}"
    return f"it ends with {text[-20:]!r}" if words >= 150 and _stops_inside(text, words) else ""


def _stops_inside(text: str, words: int) -> bool:
    """Return whether prose stops in the middle of a sentence."""
    last_line = text.rpartition("\n")[2]
    last_sentence = _SENTENCE_END.split(last_line)[-1].split()
    return (
        text[-1].islower()
        and len(last_sentence) >= 3
        and last_sentence[-1][0].islower()
        and not _LIST_ITEM.match(last_line)
        and len(_SENTENCE_END.findall(text)) >= words / 40
    )


def repetitive(row: Example, _: Limits) -> str:
    """Find a completion of thirty words or more, of whose runs of four words at least half are repeated."""
    if len(row.completion) < 60:
        return ""
    words = row.completion.split()
    runs = len(words) - _REPEATED + 1
    if len(words) < 30:
        return ""
    distinct = len(set(zip(*(words[i:] for i in range(_REPEATED)), strict=False)))
    return f"{distinct} different runs of {_REPEATED} words among {runs}" if 2 * distinct <= runs else ""


def wrong_language(row: Example, limits: Limits) -> str:
    """Find a language that is not declared, see `other_language`."""
    return other_language(f"{row.prompt[-300:]}\n{row.completion[:300]}", limits.languages)


GATES: dict[str, Callable[[Example, Limits], str]] = {
    gate.__name__: gate
    for gate in (empty, too_long, placeholder, refusal, repeats_prompt, truncated, repetitive, wrong_language)
}
"""Reason -> the filter, which returns what it found, or nothing."""

_DEFAULTS = Limits()


def _folded(text: str) -> str:
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold()
