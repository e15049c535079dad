"""Ways to spoil the bytes of a file, for the fuzz of every format."""

import random


def flip_bits(content: bytearray, dice: random.Random) -> None:
    for _ in range(dice.choice((1, 1, 4, 30))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def cut_short(content: bytearray, dice: random.Random) -> None:
    del content[dice.randrange(len(content)):]


def cut_out(content: bytearray, dice: random.Random) -> None:
    begin = dice.randrange(len(content))
    del content[begin:begin + dice.randint(1, 200)]
