from __future__ import annotations

import subprocess
import sys
import types

import pytest

import headrace
from headrace.cli import main as cli
from headrace.errors import ConfigError, SchemaError


def verb(run) -> types.ModuleType:
    """A verb that exists only in the test."""
    module = types.ModuleType("headrace.cli.pretend")
    module.NAME, module.HELP, module.add_arguments, module.run = "pretend", "for tests", lambda parser: None, run
    return module


@pytest.fixture
def pretend(monkeypatch):
    def put(run) -> None:
        monkeypatch.setitem(sys.modules, "headrace.cli.pretend", verb(run))

    return put


def test_every_verb_of_the_design_is_there() -> None:
    wanted = {"demo", "run", "predict", "serve", "evaluate", "inspect", "papers", "doctor"}
    assert wanted <= set(cli.verbs())


def test_a_verb_is_found_without_the_others() -> None:
    code = "import sys; from headrace.cli.main import find_verb; find_verb('papers'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_help_lists_every_verb_with_what_it_does(capsys) -> None:
    assert cli.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for name, module in cli.verbs().items():
        assert name in printed
        assert module.HELP in printed


def test_no_verb_prints_the_help_and_is_a_mistake(capsys) -> None:
    assert cli.main([]) == 2
    assert "usage: headrace VERB" in capsys.readouterr().out


def test_version(capsys) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"headrace {headrace.__version__}\n"


def test_version_is_that_of_the_package(root_text) -> None:
    assert f'version = "{headrace.__version__}"' in root_text("pyproject.toml")


def test_unknown_verb_names_the_nearest(capsys) -> None:
    assert cli.main(["inspct"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("headrace: Verb 'inspct'")
    assert "'inspect'" in said
    assert said.count("\n") == 1


def test_a_module_that_is_no_verb_is_refused(capsys) -> None:
    assert cli.main(["output"]) == 2
    assert "no such verb" in capsys.readouterr().err


def test_every_verb_explains_itself(capsys) -> None:
    for name, module in cli.verbs().items():
        with pytest.raises(SystemExit) as left:
            cli.parser_for(module).parse_args(["--help"])
        assert left.value.code == 0
        assert f"usage: headrace {name}" in capsys.readouterr().out


def test_a_verb_decides_its_exit_code(pretend) -> None:
    pretend(lambda arguments: 3)
    assert cli.main(["pretend"]) == 3


def test_an_error_of_ours_is_one_line_and_code_2(pretend, capsys) -> None:
    def run(arguments) -> int:
        raise SchemaError("Column 'prise'", got="no such column", expected="one of 'price'", do="Check the spelling.")

    pretend(run)
    assert cli.main(["pretend"]) == 2
    expected = "headrace: Column 'prise': got no such column, expected one of 'price'. Check the spelling.\n"
    assert capsys.readouterr().err == expected


def test_anything_unexpected_is_code_1_with_its_traceback(pretend, capsys) -> None:
    pretend(lambda arguments: 1 // 0)
    assert cli.main(["pretend"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "unexpected ZeroDivisionError" in said.splitlines()[-1]


def test_an_error_of_the_system_is_one_line_and_code_1(pretend, capsys) -> None:
    def run(arguments) -> int:
        raise PermissionError(13, "Permission denied", "/somewhere/run.json")

    pretend(run)
    assert cli.main(["pretend"]) == 1
    assert capsys.readouterr().err == "headrace: /somewhere/run.json: Permission denied\n"


def test_ctrl_c_is_code_130_without_a_traceback(pretend, capsys) -> None:
    def run(arguments) -> int:
        raise KeyboardInterrupt

    pretend(run)
    assert cli.main(["pretend"]) == 130
    assert capsys.readouterr().err == "headrace: stopped\n"


def test_wrong_arguments_are_code_2() -> None:
    run = subprocess.run([sys.executable, "-m", "headrace", "doctor", "--nonsense"], capture_output=True, timeout=60)
    assert run.returncode == 2
    assert b"usage: headrace doctor" in run.stderr


def test_output_that_nobody_reads_is_no_error() -> None:
    command = f"{sys.executable} -m headrace --help | true"
    run = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, timeout=60)
    assert run.returncode == 0
    assert run.stderr == b""


def test_find_verb_lets_a_broken_import_through(monkeypatch) -> None:
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli.importlib, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="torch"):
        cli.find_verb("demo")


def test_find_verb_raises_what_a_program_can_read() -> None:
    with pytest.raises(ConfigError) as raised:
        cli.find_verb("nonsense")
    assert raised.value.got == "no such verb"
