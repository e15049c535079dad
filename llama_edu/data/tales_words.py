"""The tales as data: what may be said, with which odds, and the words that may be recalled.

How to read a template is told in `tales_grammar`. Numbers are odds within their rule. No text of
one option is the beginning of a text of another; that is what makes the entropy exact.
"""

SHE = {"they": "she", "them": "her", "their": "her"}
HE = {"they": "he", "them": "him", "their": "his"}


def even(*texts: str) -> dict[str, int]:
    """A rule whose options are equally likely."""
    return dict.fromkeys(texts, 1)


START = "tale"

RULES = {
    "tale": {
        "{opening} {treasure} {play}\n"
        "{outing} {mishap} {loss} {search}\n"
        "{meeting} {talk} {discovery}\n"
        "{thanks} {treat} {ending}": 1,
    },

    # Somebody has something.
    "opening": {
        "Once upon a time there was a {trait} {hero:person}.": 3,
        "Once upon a time a {trait} {hero:person} lived {home}.": 3,
    },
    "trait": even("kind", "brave", "happy", "clever", "little", "shy", "wise", "merry"),
    "home": even("by the sea", "on a farm", "on a hill", "in a town", "by a well", "in a mill"),
    "treasure": {
        "{hero} had a {make} {look:colour} {thing:toy}.": 2,
        "{hero.Their} {family} gave {hero} a {make} {look:colour} {thing:toy}.": 2,
        "{hero} made a {make} {look:colour} {thing:toy}.": 1,
    },
    "make": even("big", "small", "new", "good", "fine", "long"),
    "family": even("mother", "father", "sister", "aunt"),
    "play": {
        "{hero.They} loved to {thing.play} it {often}.": 2,
        "{hero} liked to {thing.play} it {often}.": 1,
    },
    "often": even("all day", "at night", "at home", "in bed", "in the rain", "in the sun"),

    # It is lost.
    "outing": {
        "One {weather} {time}, {hero} took it to the {place:spot}.": 2,
        "On a {weather} {time}, {hero.they} went to the {place:spot} with it.": 1,
    },
    "weather": even("sunny", "windy", "warm", "cold", "dark", "wet"),
    "time": even("day", "morning"),
    "mishap": {"{accident:chance}": 1},
    "loss": {
        "{hero} felt {degree} {mood:feeling}.": 2,
        "\"Where is my {thing}?\" {cried} {hero}, {degree} {mood:feeling}.": 1,
        "Now {hero} was {degree} {mood:feeling}.": 1,
    },
    "degree": even("very", "so", "a little"),
    "cried": even("cried", "said", "called"),
    "search": {
        "{hero.They} looked {near}.": 1,
        "{hero.They} looked {near} and {far}.": 2,
        "It was not {near} and not {far}.": 2,
    },
    "near": even("under a log", "in a box", "in the barn", "under a bed", "on a wall", "in a hole"),
    "far": even("by the gate", "at the mill", "by a rock", "up the hill", "down the road",
                "near the well"),

    # Somebody helps.
    "meeting": {
        "Then a {trait} {friend:animal} came {way}.": 2,
        "Then {hero.they} met a {trait} {friend:animal}.": 2,
    },
    "way": even("by", "down the road", "up the hill", "over the wall"),
    "talk": {
        "\"I lost my {look} {thing},\" {cried} {hero}.": 2,
        "\"Why are you {mood}?\" {cried} {friend}.": 1,
        "\"Do not {despair},\" said {friend}.": 1,
        "\"{comfort}\" said the {friend.kind}.": 2,
    },
    "despair": even("cry", "be {mood}", "fear", "give up"),
    "comfort": even("I will help!", "We will find it!", "I know the {place}!", "Come with me!"),
    "discovery": {
        "They saw it {accident.where}!": 1,
        "\"Look!\" {cried} {friend}. The {thing} was {accident.where}.": 2,
        "{when} {hero} found it {accident.where}.": 2,
    },
    "when": even("Soon", "Now", "Then"),

    # All ends well.
    "thanks": {
        "\"Thank you, {friend}!\" said {hero}.": 1,
        "{hero} {hugged} {friend} and thanked {friend.them}.": 2,
        "{hero.They} {hugged} the {friend.kind}.": 2,
    },
    "hugged": even("hugged", "kissed"),
    "treat": {
        "Then they had {snack}.": 1,
        "Then they had {snack} and {drink}.": 2,
        "{friend} got to {thing.play} it too.": 1,
    },
    "snack": even("bread", "cake", "soup", "nuts", "jam", "rice"),
    "drink": even("milk", "tea", "honey"),
    "ending": {
        "{hero} and {friend} were {bond}.": 1,
        "At night {hero} slept with the {look} {thing}.": 1,
        "{hero} told {hero.their} {family} about {friend}.": 1,
        "And {hero} never lost the {thing} again.": 1,
    },
    "bond": even("best friends now", "never lonely again"),
}

TABLES = {
    "person": {f"{kind} named {name}": {"again": name} | pronouns
               for kind, pronouns, names in (
                   ("girl", SHE, "Mia Nora Lucy Ruby Ella Zoe"),
                   ("boy", HE, "Tom Ben Leo Sam Omar Max"))
               for name in names.split()},
    "animal": {f"{kind} named {name}": {"again": name, "kind": kind} | pronouns
               for kind, name, pronouns in (
                   ("fox", "Rusty", HE), ("duck", "Bella", SHE), ("cat", "Misty", SHE),
                   ("owl", "Moss", HE), ("mouse", "Pip", HE), ("hen", "Dot", SHE),
                   ("bear", "Bruno", HE), ("goat", "Daisy", SHE), ("dog", "Gus", HE),
                   ("frog", "Poppy", SHE))},
    "toy": {thing: {"play": play} for thing, play in (
        ("kite", "fly"), ("ball", "throw"), ("drum", "beat"), ("boat", "sail"), ("bell", "ring"),
        ("hat", "wear"), ("book", "read"), ("doll", "hold"), ("cup", "fill"), ("horn", "blow"))},
    "colour": {colour: {} for colour in (
        "red", "blue", "green", "white", "pink", "brown")},
    "spot": {place: {} for place in (
        "park", "wood", "beach", "meadow", "market", "garden")},
    "feeling": {feeling: {} for feeling in (
        "sad", "lonely", "upset", "cross")},
    "chance": {accident: {"where": where} for accident, where in (
        ("The wind blew it away.", "in a tree"),
        ("A puppy ran off with it.", "in the leaves"),
        ("A crow took it.", "in a nest"),
        ("It fell out of {hero.their} hands.", "in the grass"),
        ("It fell out of {hero.their} bag.", "on the path"),
        ("A wave took it.", "in the sand"),
        ("There {hero.they} fell asleep.", "by a stone"),
        ("{hero} put it down to play.", "under a bush"))},
}
