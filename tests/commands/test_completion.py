import shutil
import subprocess
import sys

import pytest

from diffusers_autonat.cli import main


pytest.importorskip("shtab", reason="the extra `completion`")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash completes")
def test_bash_completes_commands_and_options(tmp_path, capsys):
    main(["completion", "bash"])
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    ask = (
        f". {script}; complete -p diffusers-autonat; function=$(complete -p diffusers-autonat | sed 's/.*-F //;s/ .*//');"
        'COMP_WORDS=(diffusers-autonat "$@"); COMP_CWORD=$#; COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE};'
        '$function diffusers-autonat "${COMP_WORDS[$COMP_CWORD]}" ""; echo "${COMPREPLY[@]}"'
    )

    def complete(*words):
        result = subprocess.run(["bash", "-c", ask, "bash", *words], capture_output=True, text=True)
        return result.stdout.splitlines()[-1].split()

    assert complete("gen") == ["generate"]
    assert complete("generate", "--heur") == ["--heuristic"]
    assert complete("generate", "--heuristic", "c") == ["cosine"]
    assert complete("train", "vq") == ["vqgan"]
    assert complete("train", "vqgan", "--max_train_st") == ["--max_train_steps"]
    assert complete("train", "autonat", "--transformer", "e") == ["enat"]
    assert complete("search", "experiments", "free", "--kn") == ["--knots"]


def test_scripts_whose_extra_is_not_installed_are_completed_without_options():
    code = (
        "import sys; sys.modules['optuna'] = None;"  # as though it were not installed
        "from diffusers_autonat.cli import main; main(['completion', 'bash'])"
    )
    script = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "generation" in script and "--num-trials" not in script and "--max_train_steps" in script


def test_a_shell_that_is_not_known_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["completion", "fish"])
    assert stopped.value.code == 2 and "invalid choice: 'fish'" in capsys.readouterr().err
