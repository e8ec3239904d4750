"""Texts for `out_of_domain`, written for it."""

TEXTS = (
    "Beat two eggs with a pinch of salt until they foam. Fold in the sifted flour and a cup of buttermilk, and let the batter rest for "
    "twenty minutes. Fry spoonfuls in hot butter until bubbles open on top, then turn them once.",
    "1.e4 c5 2.Nf3 d6 3.d4 cxd4 4.Nxd4 Nf6 5.Nc3 a6. White develops quickly and keeps the bishop pair. Black answers on the queen's "
    "side and waits with castling until the centre is closed.",
    "Cast on 48 stitches and knit two rows. Row 3: knit one, yarn over, knit two together, and repeat from the star to the last stitch. "
    "Work in garter stitch until the piece measures 20 cm, then bind off loosely.",
    "Let n be an even number greater than two. Suppose that n has no divisor but one and itself. Then two does not divide n, which "
    "contradicts the choice of n. Hence no even number greater than two is prime.",
    "def area(radius):\n    return 3.14159 * radius ** 2\n\nfor radius in range(1, 4):\n    print(radius, area(radius))",
    "Zet de schroeven eerst los in de gaten en draai ze pas vast als alle planken recht staan. Plank C komt boven plank B, met de "
    "gladde kant naar voren. Bewaar de overgebleven pluggen in het zakje.",
    "Haal het oude snaar van de gitaar en maak de toets schoon met een droge doek. Steek de nieuwe snaar door de brug, draai de "
    "stemmechaniek drie keer rond en stem af op een lage E.",
    "Die Dame in Gelb würfelt zuerst. Wer eine Sechs hat, darf noch einmal; wer auf einem Stern stehen bleibt, tauscht zwei Karten mit "
    "seinem linken Nachbarn. Gewonnen hat, wer als Erster alle Steine im Haus hat.",
    "Il était une fois un petit hérisson qui ne voulait pas dormir. Chaque soir, il comptait les étoiles jusqu'à cent, puis il "
    "recommençait, car il oubliait toujours la dernière.",
    "Coloque el compás en el punto A y trace un arco que corte las dos rectas. Sin cambiar la abertura, repita desde el punto B. La "
    "recta que une los dos cortes divide el ángulo en partes iguales.",
    "Crucigrama, horizontales: río de Italia, dos letras; nota musical al revés; ave que no vuela. Verticales: contracción; símbolo de un "
    "metal precioso.",
    "Separe os grãos na véspera e deixe de molho em água fria. No dia seguinte, refogue o alho e a cebola, junte o louro e cozinhe em "
    "fogo baixo até o caldo engrossar.",
    "Inspire pelo nariz enquanto levanta os braços. Expire ao dobrar os joelhos e conte até quatro. Repita dez vezes, sem pressa, com as "
    "costas bem direitas.",
    "Ζυμώνουμε το αλεύρι με χλιαρό νερό και λίγο λάδι. Αφήνουμε τη ζύμη να ξεκουραστεί μισή ώρα και την ανοίγουμε σε λεπτό φύλλο. Το "
    "απλώνουμε στο ταψί και το αλείφουμε με βούτυρο.",
    "Ο Ερμής είναι ο πλησιέστερος πλανήτης στον Ήλιο. Μια μέρα του διαρκεί όσο εκατόν εβδομήντα έξι δικές μας, και τη νύχτα το έδαφός "
    "του παγώνει.",
    "Андантино, три четверти, ля минор. Первая тема звучит у кларнета, вторая у струнных. После паузы обе темы соединяются, и пьеса "
    "тихо заканчивается.",
    "把两张纸对折，再沿虚线剪开。将小三角形贴在左边，大三角形贴在右边。等胶水干了，轻轻一拉，青蛙就会跳起来。",
    "يُقسَم الخط إلى ثلاثة أجزاء متساوية، ثم تُرسم دائرة حول الجزء الأوسط. تُلوَّن الدائرة بالأزرق وتُترك الأطراف بيضاء.",
)
