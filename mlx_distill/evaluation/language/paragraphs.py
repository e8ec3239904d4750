"""The same two short texts in seven languages, written for this project: what a tokenizer makes of like content.

Each translation says what the others say, sentence by sentence, as a native speaker would write it, not word by word.
"""

from __future__ import annotations

PARAGRAPHS: dict[str, tuple[str, str]] = {
    "English": (
        "The fire broke out shortly after noon on the dry slope above the village. Strong wind drove it towards the first houses within "
        "twenty minutes. The fire service asked the residents to leave at once and to take only water, medicine and their papers with "
        "them. Two elderly people who could not walk were carried out by neighbours.",
        "Last year the town replaced the old boilers of its schools with heat pumps. The new equipment needs a third of the energy and "
        "was paid for by the savings of four winters. The mayor says that the libraries and the swimming pool will follow, if the grid "
        "is strengthened in time.",
    ),
    "Greek": (
        "Η φωτιά ξέσπασε λίγο μετά το μεσημέρι στην ξερή πλαγιά πάνω από το χωριό. Ο δυνατός άνεμος την έσπρωξε μέσα σε είκοσι λεπτά προς "
        "τα πρώτα σπίτια. Η Πυροσβεστική ζήτησε από τους κατοίκους να φύγουν αμέσως και να πάρουν μαζί τους μόνο νερό, φάρμακα και τα "
        "χαρτιά τους. Δύο ηλικιωμένους που δεν μπορούσαν να περπατήσουν τους μετέφεραν οι γείτονες.",
        "Πέρυσι ο δήμος αντικατέστησε τους παλιούς λέβητες των σχολείων του με αντλίες θερμότητας. Ο νέος εξοπλισμός χρειάζεται το ένα "
        "τρίτο της ενέργειας και πληρώθηκε από τις οικονομίες τεσσάρων χειμώνων. Ο δήμαρχος λέει ότι θα ακολουθήσουν οι βιβλιοθήκες και "
        "το κολυμβητήριο, αν ενισχυθεί εγκαίρως το δίκτυο.",
    ),
    "Spanish": (
        "El incendio se declaró poco después del mediodía en la ladera seca que hay sobre el pueblo. El fuerte viento lo llevó en veinte "
        "minutos hacia las primeras casas. Los bomberos pidieron a los vecinos que salieran de inmediato y que llevaran consigo solo agua, "
        "medicinas y sus documentos. A dos ancianos que no podían caminar los sacaron en brazos sus vecinos.",
        "El año pasado el municipio sustituyó las viejas calderas de sus escuelas por bombas de calor. El nuevo equipo necesita un tercio "
        "de la energía y se pagó con el ahorro de cuatro inviernos. El alcalde dice que después vendrán las bibliotecas y la piscina, si "
        "la red se refuerza a tiempo.",
    ),
    "Portuguese": (
        "O incêndio começou pouco depois do meio-dia na encosta seca acima da aldeia. O vento forte empurrou-o em vinte minutos para as "
        "primeiras casas. Os bombeiros pediram aos moradores que saíssem imediatamente e que levassem consigo apenas água, medicamentos e "
        "os seus documentos. Dois idosos que não conseguiam andar foram levados ao colo pelos vizinhos.",
        "No ano passado o município substituiu as velhas caldeiras das suas escolas por bombas de calor. O novo equipamento precisa de um "
        "terço da energia e foi pago com a poupança de quatro invernos. O presidente da câmara diz que se seguirão as bibliotecas e a "
        "piscina, se a rede for reforçada a tempo.",
    ),
    "Dutch": (
        "De brand brak kort na de middag uit op de droge helling boven het dorp. De harde wind joeg het vuur binnen twintig minuten naar "
        "de eerste huizen. De brandweer vroeg de bewoners om meteen te vertrekken en alleen water, medicijnen en hun papieren mee te "
        "nemen. Twee ouderen die niet konden lopen, werden door buren naar buiten gedragen.",
        "Vorig jaar verving de gemeente de oude ketels van haar scholen door warmtepompen. De nieuwe installaties hebben een derde van de "
        "energie nodig en zijn betaald uit de besparingen van vier winters. De burgemeester zegt dat de bibliotheken en het zwembad "
        "volgen, als het stroomnet op tijd wordt versterkt.",
    ),
    "German": (
        "Das Feuer brach kurz nach Mittag am trockenen Hang über dem Dorf aus. Starker Wind trieb es innerhalb von zwanzig Minuten auf die "
        "ersten Häuser zu. Die Feuerwehr bat die Bewohner, sofort aufzubrechen und nur Wasser, Medikamente und ihre Papiere mitzunehmen. "
        "Zwei ältere Menschen, die nicht gehen konnten, wurden von Nachbarn hinausgetragen.",
        "Im vergangenen Jahr ersetzte die Stadt die alten Heizkessel ihrer Schulen durch Wärmepumpen. Die neuen Anlagen brauchen ein "
        "Drittel der Energie und wurden aus den Ersparnissen von vier Wintern bezahlt. Der Bürgermeister sagt, dass die Bibliotheken und "
        "das Schwimmbad folgen, wenn das Stromnetz rechtzeitig verstärkt wird.",
    ),
    "French": (
        "L'incendie s'est déclaré peu après midi sur la pente sèche au-dessus du village. Un vent fort l'a poussé en vingt minutes vers "
        "les premières maisons. Les pompiers ont demandé aux habitants de partir aussitôt et de n'emporter que de l'eau, des médicaments "
        "et leurs papiers. Deux personnes âgées qui ne pouvaient pas marcher ont été portées dehors par des voisins.",
        "L'an dernier, la ville a remplacé les vieilles chaudières de ses écoles par des pompes à chaleur. Le nouvel équipement consomme "
        "un tiers de l'énergie et a été payé par les économies de quatre hivers. Le maire dit que les bibliothèques et la piscine "
        "suivront, si le réseau est renforcé à temps.",
    ),
}
REFERENCE = "English"
