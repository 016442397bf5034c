"""Wrong input is named; imports stay light."""

import json
import subprocess
import sys

import pytest
from tests.support.result_trees import add

from mmadapt.collect import load_results
from mmadapt.collect.__main__ import main
from mmadapt.errors import UserError


def test_nothing_found(tmp_path, show):
    status, _, err = show()
    assert status == 1
    assert str(tmp_path) in err
    assert "python -m mmadapt" in err
    assert show(root=tmp_path / "nowhere")[0] == 1
    with pytest.raises(UserError, match=r"No result\.json below"):
        load_results(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 99}', "\udcff"])
def test_unreadable_result_is_named(tmp_path, show, content):
    path = add(tmp_path) / "result.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    status, _, err = show()
    assert status == 1
    assert str(path) in err
    assert "Traceback" not in err


def test_a_file_that_cannot_be_opened_is_named(tmp_path, show):
    path = add(tmp_path) / "result.json"
    path.unlink()
    path.symlink_to(path)
    status, _, err = show()
    assert (status, f"Cannot read {path}" in err) == (1, True)


@pytest.mark.parametrize(("field", "value"), [("shots", "16"), ("method", ["coop"]), ("seed", None)])
def test_wrong_type_is_named(tmp_path, show, field, value):
    path = add(tmp_path) / "result.json"
    raw = json.loads(path.read_text())
    raw["key"][field] = value
    path.write_text(json.dumps(raw))
    status, _, err = show()
    assert (status, str(path) in err) == (1, True)


def test_unknown_names_get_a_hint(tmp_path, show):
    add(tmp_path, method="tip_adapter")
    status, _, err = show("--methods", "tip_adaptor")
    assert status == 1
    assert "No result has method 'tip_adaptor' (did you mean 'tip_adapter'?). Found: tip_adapter." in err
    status, _, err = show("--shots", "32")
    assert (status, "Found: 1." in err) == (1, True)


@pytest.mark.parametrize(
    "arguments", [["--shots", "x"], ["--plot-formats", "gif"], ["--metric", "f1"], ["--vie", "x"]]
)
def test_usage_errors_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_no_heavy_imports(tmp_path):
    add(tmp_path, 0.5)
    code = (
        "import sys; from mmadapt.collect.__main__ import main; status = main(sys.argv[1:]);"
        "heavy = {'torch', 'lightning', 'open_clip', 'pandas', 'matplotlib', 'numpy', 'scipy', 'hydra', 'omegaconf'}"
        " & set(sys.modules);"
        "sys.exit(f'{status} {heavy}' if status or heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    module = [sys.executable, "-m", "mmadapt.collect", str(tmp_path)]
    assert "50.00" in subprocess.run(module, capture_output=True, text=True, check=True).stdout


def test_figures_do_not_import_torch(tmp_path):
    add(tmp_path, 0.5)
    code = (
        "import sys; from mmadapt.collect.__main__ import main; main(sys.argv[1:]);"
        "sys.exit(str({'torch', 'pandas', 'matplotlib.pyplot'} & set(sys.modules) or '') or 0)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "--plot", str(tmp_path / "figures")]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
