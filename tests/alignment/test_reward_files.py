"""A reward model in a folder: `transformers` scores texts as we do, and so does ours of theirs."""

import json

import pytest
import torch
from models import loud_reward
from transformers import LlamaConfig, LlamaForSequenceClassification

from llama_edu import checkpoint
from llama_edu.alignment import reward_files
from llama_edu.alignment.reward import right_pad, scores
from llama_edu.data.dialogues_tokenizer import PAD, tokenizer
from llama_edu.sampling import NO_TOKEN

N_ROWS = 720                    # the vocabulary of the talks


@pytest.fixture(scope="module")
def words():
    return tokenizer()


@pytest.fixture(scope="module")
def texts(words):
    chance = torch.Generator().manual_seed(0)
    end = torch.tensor([words.special["<|eot_id|>"]])
    return [torch.cat([torch.randint(600, (n,), generator=chance), end]) for n in (9, 3, 6)]


def scores_of_transformers(folder, texts, *, pad):
    theirs = LlamaForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, _ = right_pad(texts)
    with torch.no_grad():
        return theirs(torch.where(tokens == NO_TOKEN, pad, tokens),
                      attention_mask=(tokens != NO_TOKEN).long()).logits[:, 0]


@pytest.mark.parametrize("tied", [False, True])
def test_transformers_scores_as_we_do(tmp_path, words, texts, tied):
    model = loud_reward(vocab_size=N_ROWS, tied_embeddings=tied)
    pad = words.special[PAD]
    reward_files.save(tmp_path, model, words, dtype=torch.float32, pad_id=pad)
    ours = scores(model, texts, size=8)
    assert ours.std() > 0.1
    theirs = scores_of_transformers(tmp_path, texts, pad=pad)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)     # sums in another order
    again, _ = reward_files.load(tmp_path)
    assert torch.equal(scores(again, texts, size=8), ours)


def test_we_score_as_a_model_of_transformers(tmp_path, words, texts):
    torch.manual_seed(0)
    theirs = LlamaForSequenceClassification(LlamaConfig(
        vocab_size=N_ROWS, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, num_labels=1,
        pad_token_id=words.special[PAD])).eval()
    theirs.score.weight.data.mul_(50)
    theirs.save_pretrained(tmp_path)
    donor = loud_reward(vocab_size=N_ROWS)
    checkpoint.save(tmp_path / "words", donor.trunk, words, dtype=torch.float32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "words" / name).rename(tmp_path / name)
    model, _ = reward_files.load(tmp_path)
    expected = scores_of_transformers(tmp_path, texts, pad=words.special[PAD])
    assert expected.std() > 0.1
    torch.testing.assert_close(scores(model, texts, size=8), expected, rtol=1e-4, atol=1e-4)


def test_a_pad_that_ends_answers_is_refused(tmp_path, words):
    with pytest.raises(ValueError, match="ends answers; their last token would be taken for"):
        reward_files.save(tmp_path, loud_reward(vocab_size=N_ROWS), words, dtype=torch.float32,
                          pad_id=words.eos_id)
    assert not any(tmp_path.iterdir())


def test_a_reward_model_is_no_text_model_and_the_other_way_round(tmp_path, words):
    model = loud_reward(vocab_size=N_ROWS)
    reward_files.save(tmp_path / "reward", model, words, dtype=torch.float32)
    with pytest.raises(KeyError, match=r"score\.weight"):
        checkpoint.load(tmp_path / "reward")
    checkpoint.save(tmp_path / "text", model.trunk, words, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"score\.weight is not there in .*; \(1, 64\) is needed"):
        reward_files.load(tmp_path / "text")
    with pytest.raises(ValueError, match=r"there is no config\.json"):
        reward_files.load(tmp_path / "nothing")


def test_a_head_of_two_classes_is_refused(tmp_path, words):
    model = loud_reward(vocab_size=N_ROWS)
    checkpoint.save(tmp_path, model.trunk, words, dtype=torch.float32,
                    heads={"score.weight": torch.ones(2, 64)})
    with pytest.raises(ValueError, match=r"score\.weight is \(2, 64\)"):
        reward_files.load(tmp_path)


def test_config_json_names_one_class(tmp_path, words):
    reward_files.save(tmp_path, loud_reward(vocab_size=N_ROWS), words, dtype=torch.bfloat16)
    said = json.loads((tmp_path / "config.json").read_text())
    assert said["architectures"] == ["LlamaForSequenceClassification"]
    assert said["id2label"] == {"0": "reward"}
    assert "pad_token_id" not in said
