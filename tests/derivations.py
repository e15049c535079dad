"""Every text of a grammar of the tales, spelled out: the slow and sure way to its numbers."""

from llama_edu.data.tales_grammar import Draw, Recall, Text


def spelled_out(grammar, parts, memory):
    """Every derivation of the parts, one by one: its text, its probability, its memory."""
    if not parts:
        yield "", 1.0, memory
        return
    match parts[0]:
        case Text(letters):
            heads = [(letters, 1.0, memory)]
        case Recall(key, form):
            heads = [(memory[key][form], 1.0, memory)]
        case Draw(rule, key):
            heads = ((text, option.share * p, after | ({key: option.forms} if key else {}))
                     for option in grammar.options[rule]
                     for text, p, after in spelled_out(grammar, option.parts, memory))
    for head, p, after in heads:
        for tail, q, last in spelled_out(grammar, parts[1:], after):
            yield head + tail, p * q, last
