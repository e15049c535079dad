"""What a table holds stays there; what nobody holds is found again, or used again."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import assert_same, loud_model, some_tokens, tiny_config

from llama_edu.family.accounting import kv_bytes
from llama_edu.inference.decoding import DecodingLlama
from llama_edu.inference.paging import PagedCache, Pool, Table

MODEL = loud_model(tiny_config())


def pool(n_blocks=8, *, block_size=4):
    return Pool(MODEL, n_blocks, block_size=block_size)


def write(pages, table, tokens):
    """Let a table hold these tokens: what a pass leaves behind is the token itself, everywhere."""
    start = table.length
    if not pages.grow(table, len(tokens)):
        return False
    for i in range(start, len(tokens)):
        block = table.blocks[i // pages.block_size]
        pages.memory[:, :, block, i % pages.block_size] = tokens[i]
    pages.filled(table, tokens)
    return True


def read(pages, table):
    where = (divmod(i, pages.block_size) for i in range(table.length))
    slots = [pages.memory[:, :, table.blocks[block], place] for block, place in where]
    assert all((slot == slot.flatten()[0]).all() for slot in slots)
    return [int(slot.flatten()[0]) for slot in slots]


# -- blocks ------------------------------------------------------------------------------------

def test_a_block_has_the_bytes_of_its_tokens_in_every_layer():
    assert pool(block_size=16).block_bytes == kv_bytes(MODEL.config, tokens=16, batch=1, bits=32)


def test_a_table_takes_a_block_only_when_its_last_is_full():
    pages, table = pool(), Table()
    assert [pages.grow(table, n) and len(table.blocks) for n in range(1, 10)] == [1] * 4 + [
        2] * 4 + [3]
    assert pages.in_use == 3


def test_where_blocks_lack_nothing_changes():
    pages, mine, theirs = pool(3), Table(), Table()
    assert write(pages, theirs, [1] * 5)
    before = copy.deepcopy((mine, pages.idle, pages.holders))
    assert not pages.grow(mine, 5)
    assert pages.grow(mine, 4, spare=0)
    pages.release(mine)
    assert not pages.grow(mine, 4, spare=1)
    assert (mine, pages.idle, pages.holders) == before


def test_freed_blocks_are_used_again():
    pages = pool(2)
    for _ in range(5):
        table = Table()
        assert write(pages, table, [7] * 7)
        assert sorted(table.blocks) == [0, 1]
        pages.release(table)
        assert (table, pages.in_use) == (Table(), 0)


# -- texts that begin alike --------------------------------------------------------------------

def test_full_blocks_are_found_by_their_tokens_and_all_before():
    pages, first = pool(), Table()
    write(pages, first, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    same = pages.find([1, 2, 3, 4, 5, 6, 7, 8, 7, 7])
    assert (same.blocks, same.length) == (first.blocks[:2], 8)
    assert pages.find([1, 2, 3, 4, 5, 6, 7, 7, 9]).blocks == first.blocks[:1]
    assert pages.find([5, 6, 7, 8, 9]).blocks == []        # full there, but not as a beginning
    assert pages.find([1, 1, 3, 4, 5, 6, 7, 8]).blocks == []
    assert pages.find([1, 2, 3]).blocks == []
    assert pages.holders[first.blocks[0]] == 3


def test_a_token_is_left_to_read_of_a_text_that_is_there():
    pages, first = pool(), Table()
    write(pages, first, [1, 2, 3, 4, 5, 6, 7, 8])
    same = pages.find([1, 2, 3, 4, 5, 6, 7, 8])
    assert (same.blocks, same.length) == (first.blocks, 7)


def test_names_do_not_run_into_each_other():
    """Neither 1, 23 and 12, 3 nor the same tokens after others may pass for one another."""
    pages = pool(block_size=2)
    write(pages, Table(), [1, 23, 5, 5])
    write(pages, Table(), [9, 9, 5, 6])
    assert pages.find([12, 3, 0]).blocks == []
    assert len(pages.find([9, 9, 5, 5, 0]).blocks) == 1


def test_a_shared_block_is_copied_before_it_is_written():
    pages, first = pool(), Table()
    write(pages, first, [1, 2, 3, 4, 5, 6, 7, 8])
    other = pages.find([1, 2, 3, 4, 5, 6, 7, 8])
    assert write(pages, other, [1, 2, 3, 4, 5, 6, 7, 99])
    assert read(pages, first) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert read(pages, other) == [1, 2, 3, 4, 5, 6, 7, 99]
    assert (other.blocks[0] == first.blocks[0], other.blocks[1] == first.blocks[1]) == (True, False)
    pages.release(other)
    assert read(pages, first) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_block_that_nobody_else_holds_is_not_copied():
    pages, first = pool(2), Table()
    write(pages, first, [1] * 8)
    blocks = first.blocks
    pages.release(first)
    again = pages.find([1] * 8)
    assert pages.grow(again, 8)     # there is no third block
    assert again.blocks == blocks


def test_no_name_goes_first_then_what_was_released_first_an_end_before_its_beginning():
    pages, old, new, taken = pool(5), Table(), Table(), Table()
    write(pages, old, [1] * 8)
    write(pages, new, [2] * 9)
    unnamed = new.blocks[2]
    pages.release(old)
    pages.release(new)
    forgotten = []
    for n in (4, 8, 12, 16):
        assert pages.grow(taken, n)
        forgotten.append([2 - sum(block in pages.name_of for block in blocks)
                          for blocks in ((0, 1), (2, 3))])
    assert taken.blocks[0] == unnamed == 4
    assert forgotten == [[0, 0], [1, 0], [2, 0], [2, 1]]
    assert pages.find([1] * 8).blocks == []
    assert pages.find([2] * 8).blocks == [2]


def test_a_block_that_is_held_is_never_forgotten():
    pages, first = pool(2), Table()
    write(pages, first, [1] * 5)
    pages.release(first)
    again = pages.find([1] * 5)
    assert not pages.grow(Table(), 5)
    assert read(pages, again) == [1] * 4


TEXTS = st.lists(st.integers(1, 2), min_size=1, max_size=12)     # so few tokens that many are alike
MOVES = st.lists(st.tuples(st.sampled_from(["begin", "go on", "end"]), st.integers(0, 20), TEXTS),
                 max_size=40)


@settings(max_examples=150, deadline=None)
@given(MOVES, st.integers(1, 12), st.integers(1, 4))
def test_every_table_reads_what_it_wrote_and_no_block_is_lost(moves, n_blocks, block_size):
    pages, texts = pool(n_blocks, block_size=block_size), []     # of pairs: tokens, their table
    for move, which, tokens in moves:
        if move == "begin":
            table = pages.find(tokens)
            assert read(pages, table) == tokens[:table.length]
            if write(pages, table, tokens):
                texts.append((tokens, table))
            else:
                pages.release(table)
        elif texts and move == "go on":
            old, table = texts[which % len(texts)]
            if write(pages, table, old + tokens):
                texts[which % len(texts)] = (old + tokens, table)
        elif texts:
            pages.release(texts.pop(which % len(texts))[1])
        assert [read(pages, table) for _, table in texts] == [tokens for tokens, _ in texts]
        held = [block for _, table in texts for block in table.blocks]
        assert pages.holders == [held.count(block) for block in range(n_blocks)]
        assert set(pages.idle) == set(range(n_blocks)) - set(held)
        assert pages.in_use == len(set(held))
    for _, table in texts:
        pages.release(table)
    assert pages.in_use == 0


# -- what a model sees -------------------------------------------------------------------------

@pytest.mark.parametrize("layout", [lambda model: model, DecodingLlama])
@torch.inference_mode()
def test_rows_of_unequal_length_give_the_logits_of_each_alone(layout):
    model, pages, tables = layout(MODEL), pool(20), [Table(), Table(), Table()]
    texts = [row[:n].tolist() for row, n in zip(some_tokens(MODEL.config, 3), (3, 9, 16),
                                                strict=True)]

    def one_pass(rows):
        for i in rows:
            assert pages.grow(tables[i], len(texts[i]))
        tokens = torch.tensor([texts[i][tables[i].length:] for i in rows])
        cache = PagedCache(pages, [tables[i] for i in rows], t=tokens.shape[1])
        logits = model(tokens, cache, positions=cache.positions, mask=cache.mask)
        for row, i in zip(logits, rows, strict=True):
            assert_same(row, MODEL(torch.tensor([texts[i]]))[0, tables[i].length:])
            pages.filled(tables[i], texts[i])

    for i in (1, 0, 2):         # so that no table's blocks lie in order from 0
        one_pass([i])
    for token in range(6):
        for text in texts:
            text.append(token)
        one_pass([2, 0, 1])
    for text in texts:
        text += [5, 6, 7]
    one_pass([0, 1, 2])         # several tokens at once, from three starts


@pytest.mark.parametrize(("n_blocks", "block_size"), [(0, 4), (4, 0), (-1, 4)])
def test_a_pool_without_room_is_refused(n_blocks, block_size):
    with pytest.raises(ValueError, match=f"{n_blocks} blocks of {block_size} tokens were asked"):
        pool(n_blocks, block_size=block_size)
