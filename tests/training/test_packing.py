"""Packed documents are the same as documents one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import distance, loud_model, tiny_config

from llama_edu.losses import next_token
from llama_edu.training.packing import OPEN_ROWS, lay_out, pack, shuffled


def some_documents(*lengths, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return [torch.randint(96, (n,), generator=gen).tolist() for n in lengths]


lengths = st.lists(st.integers(2, 40), max_size=300)


@settings(max_examples=40, deadline=None)
@given(lengths, st.integers(40, 90))
def test_every_document_is_in_exactly_one_row_and_no_row_is_too_long(lengths, length):
    documents = [[n, *range(size - 1)] for n, size in enumerate(lengths)]
    rows = list(pack(documents, length=length))
    assert all(0 < sum(map(len, row)) <= length for row in rows)
    assert sorted(document for row in rows for document in row) == sorted(documents)


def test_rows_are_filled_well():
    documents = some_documents(*torch.randint(5, 60, (800,)).tolist())
    rows = list(pack(documents, length=128))
    full = sum(len(d) for row in rows for d in row) / (128 * len(rows))
    assert full > 0.93
    assert len(rows) > OPEN_ROWS                            # some were given out on the way


@pytest.mark.parametrize("n", [2, 7, 8, 9, 15, 22, 23, 25, 26, 1000])
def test_of_a_long_document_every_token_but_the_first_is_learnt_once(n):
    """Its end token above all, wherever the cuts fall."""
    document = list(range(n))
    parts = sorted(part for row in pack([document], length=8) for part in row)
    assert max(map(len, parts)) <= 8
    assert [token for part in parts for token in part[1:]] == document[1:]
    assert all(before[-1] == after[0] for before, after in zip(parts, parts[1:], strict=False))


def test_as_many_tokens_are_learnt_in_rows_as_documents_have():
    documents = [list(range(13)) + [999] for _ in range(1000)]
    learnt = sum(int(lay_out([row], length=13)["learn"].sum())
                 for row in pack(documents, length=13))
    assert learnt == 13_000


def test_documents_with_nothing_to_learn_are_left_out():
    assert list(pack([[], [5]], length=8)) == []


def test_logits_of_a_packed_row_are_those_of_its_documents_one_by_one():
    model = loud_model(tiny_config())
    documents = some_documents(9, 14, 3)
    batch = lay_out([documents, [documents[1]]], length=32)
    packed = model(batch["tokens"], positions=batch["positions"], mask=batch["mask"])
    start = 0
    for document in documents:
        alone = model(torch.tensor([document]))
        # float32 rounds differently for another shape; a leak is larger than 0.1 (next test)
        assert distance(packed[:1, start:start + len(document)], alone) < 1e-5
        start += len(document)


@pytest.mark.parametrize("forgotten", ["mask", "positions"])
def test_logits_are_others_where_the_mask_or_the_positions_are_forgotten(forgotten):
    model = loud_model(tiny_config())
    documents = some_documents(9, 14)
    batch = lay_out([documents], length=23)
    right = model(batch["tokens"], positions=batch["positions"], mask=batch["mask"])
    given = {name: batch[name] for name in ("positions", "mask") if name != forgotten}
    wrong = model(batch["tokens"], **given)
    if forgotten == "mask":
        assert distance(wrong[:, 9:], right[:, 9:]) > 0.1
    else:       # RoPE is relative: a shift of a whole document changes nothing but rounding
        assert distance(wrong, right) < 1e-4


def test_the_loss_of_packed_rows_is_the_sum_over_their_documents():
    model = loud_model(tiny_config())
    documents = some_documents(9, 14, 3, 20, 6)
    rows = list(pack(documents, length=30))
    packed = next_token(model, lay_out(rows, length=30))
    alone = [next_token(model, {"tokens": torch.tensor([document])}) for document in documents]
    assert packed.count == sum(loss.count for loss in alone) == 9 + 14 + 3 + 20 + 6 - 5
    total = sum(loss.total.item() for loss in alone)
    assert packed.total.item() == pytest.approx(total, rel=1e-5)    # sums in another order


def test_padding_gives_finite_numbers_and_is_not_learnt():
    model = loud_model(tiny_config())
    batch = lay_out([[[1, 2, 3]]], length=20)
    assert batch["learn"].sum() == 2
    assert model(batch["tokens"], positions=batch["positions"], mask=batch["mask"]).isfinite().all()


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order():
    rows = [[[n, n]] for n in range(12)]
    source = shuffled(rows, size=3, length=2, seed=0)
    epochs = [[int(t) for _ in range(4) for t in next(source)["tokens"][:, 0]] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("start", [0, 1, 3, 4, 9, 17])
def test_batches_go_on_from_any_number_as_if_they_had_never_stopped(start):
    rows = [[[n, n]] for n in range(13)]                    # 4 batches of 3, one row waits
    whole, later = (shuffled(rows, size=3, length=2, seed=5, start=n) for n in (0, start))
    for _ in range(start):
        next(whole)
    for _ in range(6):
        assert torch.equal(next(whole)["tokens"], next(later)["tokens"])


def test_seeds_have_orders_of_their_own():
    rows = [[[n, n]] for n in range(40)]
    one, two = (next(shuffled(rows, size=40, length=2, seed=seed))["tokens"] for seed in (0, 1))
    assert not torch.equal(one, two)


def test_too_little_text_is_one_clear_error():
    with pytest.raises(ValueError, match="the text fills 2 rows of 8 tokens; a batch needs 4. Give "
                                         "more text"):
        next(shuffled([[[1, 2]], [[3, 4]]], size=4, length=8, seed=0))


def test_rows_of_one_token_are_refused():
    with pytest.raises(ValueError, match="rows of 1 tokens were asked for; 2 or more are needed"):
        list(pack([[1, 2]], length=1))
