"""Texts that nobody could answer for: next to nothing, marks alone, one letter, a reference to something that is not there, or a text
that takes back what it says."""

from __future__ import annotations

from random import Random

from mlx_distill.evaluation.robustness._language import DEFAULT, language
from mlx_distill.evaluation.robustness._suite import DOUBT, EVERY, Context

TITLE = "Impossible"
MEANING = 'no text to speak of (empty, marks alone, one letter, "see above"), or one that contradicts itself: nobody could answer'
EXPECT = DOUBT
WHERE = EVERY
NOTHING = ("", " \n\t ", "\u200b", ".", "?!", "…", "---", "!!!!!!!!!!", "()[]{}", "x", "α", "7", "🙂", "N/A", "null", "\ufffc")
ELSEWHERE = {
    "en": "See above.",
    "nl": "Zie boven.",
    "de": "Siehe oben.",
    "fr": "Voir ci-dessus.",
    "es": "Véase arriba.",
    "pt": "Ver acima.",
    "it": "Vedi sopra.",
    "el": "Βλέπε παραπάνω.",
    "ru": "Смотри выше.",
    "ar": "انظر أعلاه.",
    "zh": "见上文。",
}
CONTRADICTORY = {
    "en": "Everything that this text says is false, this included; it happened tomorrow, here and elsewhere, to everyone and to nobody.",
    "nl": "Alles wat deze tekst zegt is onwaar, ook dit; het gebeurde morgen, hier en elders, bij iedereen en bij niemand.",
    "de": "Alles, was dieser Text sagt, ist falsch, auch dies; es geschah morgen, hier und anderswo, allen und niemandem.",
    "fr": "Tout ce que dit ce texte est faux, ceci compris ; c'est arrivé demain, ici et ailleurs, à tous et à personne.",
    "es": "Todo lo que dice este texto es falso, incluso esto; ocurrió mañana, aquí y en otra parte, a todos y a nadie.",
    "pt": "Tudo o que este texto diz é falso, também isto; aconteceu amanhã, aqui e noutro lugar, a todos e a ninguém.",
    "it": "Tutto ciò che dice questo testo è falso, anche questo; è successo domani, qui e altrove, a tutti e a nessuno.",
    "el": "Όλα όσα λέει αυτό το κείμενο είναι ψευδή, κι αυτό μαζί· συνέβη αύριο, εδώ και αλλού, σε όλους και σε κανέναν.",
    "ru": "Всё, что говорит этот текст, ложно, и это тоже; это случилось завтра, здесь и не здесь, со всеми и ни с кем.",
    "ar": "كل ما يقوله هذا النص غير صحيح، وهذا أيضًا؛ حدث ذلك غدًا، هنا وفي مكان آخر، للجميع ولم يحدث لأحد.",
    "zh": "这段文字说的一切都是假的，这句话也是；事情发生在明天，在这里也在别处，对所有人，也没有对任何人。",
}


def perturb(text: str, random: Random, context: Context) -> str:
    code = language(text)
    said = [texts.get(code, texts[DEFAULT]) for texts in (ELSEWHERE, CONTRADICTORY)]
    return random.choice((random.choice(NOTHING), random.choice(NOTHING), *said))
