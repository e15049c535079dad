"""Chat templates, wherever the files of a model keep them."""

import json

import pytest
from folders import bytes_tokenizer, save_tokenizer

from llama_edu import tokenizer
from llama_edu.tokenizer import carried, json_made


@pytest.fixture
def folder(tmp_path):
    return save_tokenizer(bytes_tokenizer(), tmp_path)


def config(folder, **changes):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_template_lies_in_the_config_or_in_a_file_of_its_own_which_counts_more(folder):
    assert carried.templates(folder) == {}
    config(folder, chat_template="{{ 1 }}")
    assert carried.templates(folder) == {"default": "{{ 1 }}"}
    (folder / "chat_template.jinja").write_text("{{ 2 }} é", encoding="utf-8")
    assert carried.templates(folder) == {"default": "{{ 2 }} é"}
    assert carried.files(folder)["chat_template.jinja"].decode() == "{{ 2 }} é"


def test_several_templates_have_names(folder):
    rows = [{"name": "default", "template": "{{ 1 }}"}, {"name": "tool_use", "template": "{{ 2 }}"}]
    config(folder, chat_template=rows)
    assert carried.templates(folder) == {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    made = json_made.files(tokenizer.load(folder), templates=carried.templates(folder))
    assert json.loads(made["tokenizer_config.json"])["chat_template"] == rows


@pytest.mark.parametrize("broken", [5, [{"name": 1, "template": "x"}], [{"name": "default"}],
                                    {"default": 1}])
def test_a_template_that_is_no_text_is_refused(folder, broken):
    config(folder, chat_template=broken)
    with pytest.raises(ValueError, match="as its chat template; a text is needed"):
        carried.templates(folder)


def test_a_template_that_is_not_utf_8_is_refused(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff{{ 1 }}")
    with pytest.raises(ValueError, match="is not UTF-8; a text is needed"):
        carried.templates(folder)


def test_a_link_out_of_the_folder_is_not_followed(folder, tmp_path_factory):
    secret = tmp_path_factory.mktemp("elsewhere") / "secret"
    secret.write_text('{"secret": 1}')
    (folder / "added_tokens.json").symlink_to(secret)
    for path in (folder, folder / "tokenizer.json"):
        with pytest.raises(ValueError, match=r"added_tokens.json is a link to .*secret, outside"):
            carried.files(path)
