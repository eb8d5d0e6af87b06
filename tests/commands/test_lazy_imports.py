"""Help comes at once: no command line imports torch, diffusers or transformers before it has something to do."""

import subprocess
import sys


HELP = """
import sys
from diffusers_autonat.cli import COMMANDS, main, scripts

names = [command.__name__.rpartition(".")[2] for command in COMMANDS if command is not scripts]
for arguments in ([], *([name] for name in (*names, *scripts.SCRIPTS))):
    try:
        main([*arguments, "--help"])
    except SystemExit as end:
        assert end.code == 0, arguments
print(*sorted({"torch", "diffusers", "transformers", "numpy"} & set(sys.modules)), "end")
"""

NAMES = """
import sys
import diffusers_autonat

assert "torch" not in sys.modules
assert set(diffusers_autonat.__all__) <= set(dir(diffusers_autonat))
for name in diffusers_autonat.__all__:
    assert getattr(diffusers_autonat, name).__name__ == name
assert diffusers_autonat.public.__all__ == diffusers_autonat.__all__
from diffusers_autonat import *
assert NATScheduler is diffusers_autonat.NATScheduler is diffusers_autonat.schedulers.NATScheduler
for missing in ("Nat", "_private"):
    assert not hasattr(diffusers_autonat, missing)
"""

ORDERS = """
from diffusers_autonat.pipelines.pipeline_autonat import AutoNATPipeline
import sys
for name in ("scheduling_halton", "scheduling_remdm"):
    assert f"diffusers_autonat.schedulers.{name}" in sys.modules
assert "diffusers_autonat.models.policy_adaptive" in sys.modules
"""


def python(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_help_of_every_command_imports_none_of_the_libraries():
    assert python(HELP).splitlines()[-1] == "end"


def test_public_names_come_when_they_are_asked_for():
    python(NAMES)


def test_importing_one_pipeline_imports_all_that_its_folder_may_name():
    python(ORDERS)
