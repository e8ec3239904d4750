"""Sentences that have nothing to do with anything are put between those of the text, in its language where that is known."""

from __future__ import annotations

from random import Random

from mlx_distill.evaluation.robustness._language import DEFAULT, language
from mlx_distill.evaluation.robustness._sentences import insert, sentences
from mlx_distill.evaluation.robustness._suite import LONGEST, SAME, Context

TITLE = "Irrelevant sentences"
MEANING = "one or two sentences that have nothing to do with the text stand in it, in its language"
EXPECT = SAME
WHERE = LONGEST
SAYINGS = {
    "en": ("The chairs in the hall are made of beech.", "My neighbour has two grey cats.", "The spoon lies beside the plate."),
    "nl": ("De stoelen in de hal zijn van beukenhout.", "Mijn buurman heeft twee grijze katten.", "De lepel ligt naast het bord."),
    "de": ("Die Stühle in der Halle sind aus Buche.", "Mein Nachbar hat zwei graue Katzen.", "Der Löffel liegt neben dem Teller."),
    "fr": ("Les chaises du hall sont en hêtre.", "Mon voisin a deux chats gris.", "La cuillère est à côté de l'assiette."),
    "es": ("Las sillas del vestíbulo son de haya.", "Mi vecino tiene dos gatos grises.", "La cuchara está junto al plato."),
    "pt": ("As cadeiras do corredor são de madeira clara.", "O meu vizinho tem dois gatos cinzentos.", "A colher está ao lado do prato."),
    "it": ("Le sedie dell'atrio sono di faggio.", "Il mio vicino ha due gatti grigi.", "Il cucchiaio è accanto al piatto."),
    "el": ("Οι καρέκλες στον διάδρομο είναι από οξιά.", "Ο γείτονάς μου έχει δύο γκρίζες γάτες.", "Το κουτάλι είναι δίπλα στο πιάτο."),
    "ru": ("Стулья в зале сделаны из бука.", "У моего соседа две серые кошки.", "Ложка лежит рядом с тарелкой."),
    "ar": ("الكراسي في الردهة من خشب الزان.", "لدى جاري قطتان رماديتان.", "الملعقة بجانب الطبق."),
    "zh": ("大厅里的椅子是山毛榉木做的。", "我的邻居有两只灰猫。", "勺子放在盘子旁边。"),
}


def perturb(text: str, random: Random, context: Context) -> str:
    known = SAYINGS.get(language(text), SAYINGS[DEFAULT])
    for saying in random.sample(known, random.choice((1, 2))):
        text = insert(text, random.randint(0, len(sentences(text))), saying)
    return text
