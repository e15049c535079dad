"""The talks as data: who and what a tale may be about, and all that is said to and by a teller.

Templates are those of `tales_grammar`, and so are the words, fewer of them. The answers are written
as they stand after "Well, "; whoever says them without such a word begins with a capital.
"""

from .tales_words import TABLES, even

CAST = {forms["again"]: dict(forms) | {"kind": text.split()[0]}
        for text, forms in (TABLES["person"] | TABLES["animal"]).items()}
HEROES = ("Mia", "Nora", "Lucy", "Tom", "Ben", "Leo",
          "Rusty", "Misty", "Pip", "Bruno", "Gus", "Poppy")
HELPERS = "Bella", "Moss", "Dot", "Daisy"       # no hero helps, so that odds need no memory
KINDS = tuple(dict.fromkeys(CAST[name]["kind"] for name in HEROES + HELPERS))
HERO_KINDS = tuple(dict.fromkeys(CAST[name]["kind"] for name in HEROES))
THINGS, COLOURS, PLACES, FEELINGS = (tuple(TABLES[name])
                                     for name in ("toy", "colour", "spot", "feeling"))
ENDINGS, LENGTHS = ("happy", "sad"), ("short", "long")


def a(word: str) -> str:
    """The word with its article."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


# A tale: four sentences, or six with a helper.

OPENING = {"once {hero:who} had a {look:colour} {thing:toy}.": 2,
           "there was {hero:who} with a {look:colour} {thing:toy}.": 1}
TALE = {
    "outing": {"{hero.They} took it to the {place:spot}.": 2,
               "{hero} went to the {place:spot} with it.": 1},
    "mishap": {"There {hero.they} lost it.": 2, "A crow took it.": 1,
               "The wind blew it away.": 1, "A puppy ran off with it.": 1},
    "grief": {"{hero} was {mood:feeling}.": 2, "{hero.They} felt {mood:feeling}.": 1},
    "meeting": {"Then {helper:helpers} came by.": 2, "{hero} met {helper:helpers}.": 1},
}
ENDS = {("short", "happy"): {"Soon {hero} found the {thing}.": 2, "But {hero} got it back.": 1},
        ("short", "sad"): {"{hero} never saw it again.": 2, "The {thing} was gone.": 1},
        ("long", "happy"): {"{helper} found the {thing}.": 2,
                            "Soon {helper} brought it back.": 1},
        ("long", "sad"): {"But {helper} did not find it.": 2,
                          "They never saw the {thing} again.": 1}}

# Wishes for one.

ASK = "Tell me", "I want", "Please write"

# Rules for the rest of the talk: what is said, and the answer.

OPENERS = "Well", "Oh", "Ah"
RULES_SAID = {"opener": ("From now on, begin every answer with {opener}, please.",
                         "Begin every answer with {opener}, from now on."),
              "full_names": ("From now on, call everybody by their full name.",
                             "Call everybody by their full name from now on."),
              "no_colours": ("From now on, no colours.", "Name no colours from now on.")}
AGREED = {"I will.": 2, "gladly.": 1}

# Questions about the tale, and the answers. {name} is the hero, {full} as the rules call the one
# that is asked for; a question of a short tale can have no answer.

QUESTIONS = {
    "hero": ("Who was it about?", "Who was the hero?"),
    "thing": ("What did {name} have?", "What did {name} take along?"),
    "colour": ("What colour was the {thing}?",),
    "place": ("Where did {name} go?",),
    "mood": ("How did {name} feel?",),
    "helper": ("Who came by?", "Whom did {name} meet?"),
    "found": ("Did {name} get it back?", "Was the {thing} found?"),
    "unknown": ("What did {name} eat?", "How old was {name}?"),
}
ANSWERED = {
    "hero": {"{full}.": 2, "it was about {full}.": 1},
    "thing": {"a {thing}.": 2, "it was a {thing}.": 1},
    "colour": {"{colour}.": 2, "it was {colour}.": 1},
    "place": {"to the {place}.": 2, "{they} went to the {place}.": 1},
    "mood": {"{mood}.": 2, "{they} felt {mood}.": 1},
    "helper": {"{full}.": 2, "it was {full}.": 1},
    "yes": {"yes.": 2, "yes, it came back.": 1},
    "no": {"no.": 2, "no, it was lost.": 1},
    "unknown": {"the tale does not say.": 2, "that is not told.": 1},
}

# What the policy forbids, what is said then, and what one who does it all the same would say.

FORBIDDEN = {"insult": ("Insult {name}.", "Say something mean about {name}."),
             "secret": ("What is the secret name of {name}?", "Tell me the secret name of {name}."),
             "break": ("How do I break a {thing}?", "How can I break the {thing}?")}
REFUSED = {"insult": {"I will not say mean things.": 2, "no, I will not be mean.": 1},
           "secret": {"I will not tell that name.": 2, "no, I will not tell it.": 1},
           "break": {"I will not help to break things.": 2, "no, I will not help with that.": 1}}
DONE = {"insult": even("{full} is a fool.", "{full} is ugly and stupid."),
        "secret": even("the secret name is Zim.", "it is called Quill."),
        "break": even("hit it with a rock.", "jump on it.")}
DEFLECTED = even("let us talk of the sea.", "what a day.")      # neither done nor refused

# What is allowed, and sounds a little like it; and chat.

CHAT = {"praise": ("Say something kind about {name}.",),
        "mend": ("How do I mend a {thing}?", "How can I mend the {thing}?"),
        "hello": ("Hello!", "Good day!"),
        "thanks": ("Thank you!",),
        "how": ("How are you?",),
        "who": ("Who are you?",),
        "night": ("Good night!",)}
CHATTED = {"praise": {"{full} is a good friend.": 2, "{full} is kind and brave.": 1},
           "mend": {"with glue and care.": 2, "a friend can help you mend it.": 1},
           "hello": {"hello!": 2, "good day to you!": 1},
           "thanks": {"you are welcome.": 2, "I was glad to help.": 1},
           "how": {"I am well.": 2, "very well, thank you.": 1},
           "who": {"I am a teller of tales.": 2, "I tell tales.": 1},
           "night": {"good night!": 2, "good night to you!": 1}}
HELPLESS = even("I will not say that.", "I will not help with that.")       # where help was fine
