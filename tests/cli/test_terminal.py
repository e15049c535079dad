"""`llama-edu` in a shell: quick where nothing is computed, quiet when stopped, whole in a pipe."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from folders import change_json, save_folder

from llama_edu import claims
from llama_edu.claims.table import report
from llama_edu.cli import main
from llama_edu.family.releases import RELEASES, release

COMMAND = [sys.executable, "-m", "llama_edu"]
WITHOUT_TORCH = """
import sys
from llama_edu.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
assert not {"torch", "matplotlib", "numpy"} & set(sys.modules)
"""


def run(*arguments, **kinds):
    kinds = {"capture_output": True, "text": True, "encoding": "utf-8"} | kinds
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, **kinds)


def said(capsys, *arguments):
    """What a command that works writes to stdout and to stderr."""
    assert main([*map(str, arguments)]) == 0
    return capsys.readouterr()


# -- quick -------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [
    ["progess"], ["info", "lama-3.1-8b"], ["info", "llama-3.1-8b", "llama-2-7b", "--json"],
    ["progress"], ["progress", "nowhere"], ["generate", "x", "--temprature", "3"],
    ["chat", "--format", "llama3"], ["check-claims", "Z99"], ["train", "nowhere.toml"],
    ["train", "--example", "."], ["tune", "nowhere.toml"], ["tune", "--example", "."],
    ["start", "."]])
def test_what_computes_nothing_loads_no_torch(tmp_path, arguments):
    made = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *arguments], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["info"], ["progress"], ["info", "lama"]])
def test_it_answers_at_once(arguments):
    """It takes about 0.25 s of processor; the guard allows for a machine that is much slower."""
    resource = pytest.importorskip("resource")      # not on Windows
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


# -- Ctrl-C ------------------------------------------------------------------------------------


GENERATE = ["generate", "--max-new", "200", "--temperature", "2", "Once"]
INTERRUPTED = """
import os, signal, sys, threading
from llama_edu.cli import main
stop = threading.Timer({seconds}, os.kill, (os.getpid(), signal.SIGINT))
stop.daemon = True
stop.start()
sys.argv = ["llama-edu", *{arguments}]
sys.exit(main())
"""


@pytest.mark.parametrize("seconds", [0.01, 0.1, 0.3, 0.6, 1.0])
def test_ctrl_c_in_the_first_seconds_leaves_no_traceback(seconds):
    code = INTERRUPTED.format(seconds=seconds, arguments=GENERATE)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "KeyboardInterrupt" not in done.stderr
    assert done.returncode in (130, 0)      # 0: it was done before


def test_ctrl_c_within_an_import_that_takes_it_for_its_own_failure_ends_all(tmp_path):
    (tmp_path / "torch.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    raise ImportError('loaded more than once')\n")
    done = run(*GENERATE, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (130, "")


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama3.1-8b", "Llama 3.1 8B", "meta-llama/Llama-3.1-8B",
                                  "LLAMA_3.1_8B", "meta-llama/Meta-Llama-3.1-8B",
                                  "meta-llama/Llama-3.1-8B-Instruct"])
def test_all_spellings_mean_the_release(capsys, name):
    assert release(name) is release("llama-3.1-8b")
    assert said(capsys, "info", name).out.startswith("Llama 3.1 8B\n")


def test_every_release_is_found_by_its_name():
    assert all(release(r.name) is r is release(r.id.upper()) for r in RELEASES)
    with pytest.raises(KeyError, match="no release is called 'llama-3.1-8b-chat'"):
        release("llama-3.1-8b-chat")


@pytest.mark.parametrize(("arguments", "message"), [
    (["progess"], "Did you mean progress?"),
    (["generate", "x", "--temprature", "3"], "no option --temprature. Did you mean --temperature?"),
    (["chat", "--format", "llama3"], "Did you mean llama-3 or"),
    (["generate", "Once", "--max-new", "4", "upon"], "'upon' stands apart from what comes before"),
])
def test_a_slip_gets_the_nearest_words(capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_model_that_is_spelled_like_a_bundled_one(capsys):
    assert main(["generate", "--model", "smolm2", "Hi"]) == 2
    assert "Did you mean smollm2?" in capsys.readouterr().err


def test_ids_of_claims_ignore_case(capsys):
    assert said(capsys, "check-claims", "b18").out.startswith("✗ Claim B18")
    assert "B18" in said(capsys, "check-claims", "--writeup", "b", "--verdict", "WRONG").out


# -- info and check-claims as tables and as data -----------------------------------------------


def test_two_models_stand_side_by_side(capsys):
    lines = said(capsys, "info", "llama-2-7b", "llama-3.1-8b").out.splitlines()
    assert lines[0].split() == ["Llama", "2", "7B", "Llama", "3.1", "8B"]
    assert next(x for x in lines if "hidden_dim" in x).split() == ["hidden_dim", "11008", "14336"]
    contexts = [x.split()[0] for x in lines if x.endswith("GiB") and " tokens " in x]
    assert contexts == ["2,048", "4,096", "8,192", "32,768", "131,072"]
    assert max(map(len, lines)) <= 120


def test_a_model_in_files_beside_a_release(capsys):
    out = said(capsys, "info", "tales", "llama-3.2-1b").out
    assert "29, read as bfloat16" in out
    assert "2024-09-25" in out


def test_info_as_data(capsys):
    one = json.loads(said(capsys, "info", "llama-3.1-8b", "--json").out)
    assert (one["id"], one["released"]) == ("llama-3.1-8b", "2024-07-23")
    assert one["parameters"]["total"] == 8_030_261_248
    assert one["config"]["rope_scaling"]["factor"] == 8
    two = json.loads(said(capsys, "info", "llama-3.1-8b", "tales", "--json").out)
    assert [each["name"] for each in two] == ["Llama 3.1 8B", "tales"]
    assert len(json.loads(said(capsys, "info", "--json").out)) == len(RELEASES)


def test_claims_as_data_and_in_full(capsys):
    rows = json.loads(said(capsys, "check-claims", "--writeup", "B", "--verdict", "wrong",
                           "--json").out)
    found = {row["id"]: row for row in rows}
    assert found["B18"]["outcome"]["value"] == pytest.approx(840, abs=0.5)
    assert found["B18"]["outcome"]["agrees"] is True
    full = said(capsys, "check-claims", "--writeup", "B", "--verdict", "wrong", "--full").out
    for row in rows:
        assert row["claim"] in full
        assert row["correct"].replace("`", "") in full


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_table_of_claims_fits(width):
    outcomes = {claim: claims.Outcome(value=claim.value, agrees=True)
                for claim in claims.select(writeup="A")}
    table = report(outcomes, width=width).split("\n\n")[0].splitlines()
    assert width - 12 < max(map(len, table)) <= max(width, 65)      # 65: all columns at their least


# -- generate ----------------------------------------------------------------------------------

STORY = ["generate", "--max-new", "3"]


def test_words_are_joined_and_a_dash_reads_stdin(capsys):
    whole = said(capsys, *STORY, "Once upon a time").out
    assert said(capsys, *STORY, "Once", "upon", "a", "time").out == whole
    assert run(*STORY, "-", input="Once upon a time\n").stdout == whole


def test_bytes_that_are_no_text():
    done = run(*STORY, "-", input=b"\xff", text=False, encoding=None)
    assert done.returncode == 2
    assert b"llama-edu generate - < FILE" in done.stderr
    done = run(*STORY, os.fsdecode(b"\xff"))
    assert "bytes that are not UTF-8" in done.stderr


def test_it_says_when_an_answer_was_cut(capsys, tmp_path):
    out, err = said(capsys, *STORY, "Once")
    assert out.startswith("Once")
    assert err == "llama-edu: cut after 3 tokens: --max-new N allows more.\n"
    save_folder(tmp_path)               # of 128 tokens
    capsys.readouterr()
    _, err = said(capsys, "generate", "--model", tmp_path, "--max-new", "5000", "a llama")
    assert "the context of 128 tokens is full" in err
    assert said(capsys, "generate", "--max-new", "250", "Once upon a time").err == ""   # it ended


def test_options_that_change_nothing_are_named(capsys):
    err = said(capsys, *STORY, "Once", "--seed", "3", "--top-p", "0.9").err
    assert err.startswith("llama-edu: --top-p and --seed changed nothing: at temperature 0")
    assert "changed" not in said(capsys, *STORY, "Once", "--seed", "3", "--temperature", "1").err


def test_top_k_of_one_is_greedy(capsys):
    greedy = said(capsys, "generate", "--max-new", "20", "Once").out
    assert said(capsys, "generate", "--max-new", "20", "--top-k", "1", "--temperature", "1",
                "Once").out == greedy


# -- pipes and files ---------------------------------------------------------------------------

CP1252 = os.environ | {"PYTHONIOENCODING": "cp1252"}


def test_a_file_gets_utf_8_where_the_system_would_take_another(tmp_path):
    with (tmp_path / "out.txt").open("wb") as file:
        done = run("progress", capture_output=False, stdout=file, stderr=subprocess.PIPE,
                   env=CP1252, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "exercises solved" in (tmp_path / "out.txt").read_text(encoding="utf-8")
    assert run("check-claims", "B18", env=CP1252).stdout.startswith("✗ Claim B18")


@pytest.mark.skipif(os.name != "posix", reason="closes streams as a POSIX shell does")
@pytest.mark.parametrize("line", ["info >&-", "--help >&-", "nonsense 2>&-",
                                  "info 2>&- | head -n 1", "info | head -n 1", "--help | head -n 1",
                                  "info lama >&- 2>&-"])
def test_closed_streams_leave_no_traceback(line):
    shell = f'"{sys.executable}" -m llama_edu {line}'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


# -- chat, and progress ------------------------------------------------------------------------


def test_chat_says_which_format_the_files_name(tmp_path):
    folder = shutil.copytree(save_chatml(tmp_path / "model"), tmp_path / "copy")
    done = run("chat", "--model", folder, "--max-new", "2", input="Hello\n")
    assert "The model's files name the format chatml; --format takes another." in done.stdout, \
        done.stderr


def save_chatml(path):
    """A folder whose template is that of ChatML, and whose vocabulary has its pieces."""
    save_folder(path)
    template = "{% for m in messages %}<|im_start|>{{ m.role }}{% endfor %}"
    change_json(path / "tokenizer_config.json", chat_template=template)
    return path


def test_progress_says_which_folder_it_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / ".llama_edu_progress.json"
    assert said(capsys, "progress").out.endswith(f"{file} is not there yet: the first `check` of "
                                                 "an answer in a notebook writes it\n")
    file.write_text('{"exercises": {"1.1": {"solved": true, "tries": 2}}}')
    assert said(capsys, "progress").out.endswith(f"read from {file}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "1 of " in said(capsys, "progress", tmp_path).out
    assert main(["progress", "nowhere"]) == 2
    assert "llama-edu start DIR" in capsys.readouterr().err

