"""Which language a text is in, as far as its script and its commonest words tell."""

from __future__ import annotations

import re

from rocket_hub.selection.overlap import plain, words_of

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

_READ = 600  # characters of a text that are looked at
_FEWEST = 20  # words in Latin letters, or letters of another script, that tell a language; fewer are a name
_SHARE = 0.2  # of a text's words that have to be among the commonest of its language
_DISTINCT = 4  # such words that have to be different


def other_language(text: str, declared: tuple[str, ...]) -> str:
    """Say what a text is written in if that is none of the declared languages.

    Two signs: more than half of the letters, and at least twenty, belong to a script that no declared language uses
    (Latin and Greek letters never count, as code and formulae are written in them everywhere); or, of at least twenty
    words, a fifth are the commonest words of one other language, twice as many as those of any declared one. Short
    texts, texts that quote another language, and languages of which no words are listed pass.

    Args:
        text: Of which the beginning is read.
        declared: Some of `LANGUAGES`; none = every language will do.

    Returns:
        Script or language; empty if there is nothing against the text.
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
    """Compute the share of words that are among the commonest of a language."""
    common = _STOP_WORDS.get(language, frozenset())
    return sum(map(common.__contains__, words)) / max(len(words), 1)
