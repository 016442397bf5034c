"""Holes of a grid and the commands that fill them."""

import itertools
import shlex

from tests.support.result_trees import add, fail


def unroll(commands):
    """Return the runs that commands stand for."""
    runs = []
    for command in commands:
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "mmadapt"]
        choices = dict(word.split("=") for word in words[3:] if word != "-m")
        product = list(itertools.product(*(values.split(",") for values in choices.values())))
        assert ("-m" in words[3:]) == (len(product) > 1)
        runs += [dict(zip(choices, values, strict=True)) for values in product]
    return runs


def test_complete_grid(tmp_path, show):
    for method, seed in itertools.product(("a", "b"), (1, 2)):
        add(tmp_path, method=method, seed=seed)
    assert show("--check") == (0, "complete: 4 runs\n", "")


def test_commands_fill_exactly_the_holes(tmp_path, show):
    grid = set(itertools.product(("a", "b", "c"), ("dtd", "eurosat"), (1, 2, 4), (1, 2, 3)))
    holes = {cell for cell in grid if cell[0] == "b" and cell[1] == "dtd"} | {
        ("a", "eurosat", 4, 3),
        ("c", "dtd", 1, 2),
    }
    for method, data, shots, seed in grid - holes:
        add(tmp_path, method=method, data=data, shots=shots, seed=seed, tag="camp")
    status, out, _ = show("--check")
    comment, *commands = out.splitlines()
    assert status == 1
    assert comment == "# 11 of 54 runs are missing"
    runs = unroll(commands)
    assert sorted((r["method"], r["data"], int(r["shots"]), int(r["seed"])) for r in runs) == sorted(holes)
    assert {(r["tag"], r["protocol"], r["clip"]) for r in runs} == {("camp", "few_shot", "vit_b16")}
    assert len(commands) == 3
    for run in runs:  # running them completes the grid
        run.update(shots=int(run["shots"]), seed=int(run["seed"]))
        add(tmp_path, **run)
    assert show("--check")[0] == 0


def test_a_box_of_holes_is_one_command(tmp_path, show):
    for method, data, shots, seed in itertools.product("ab", ("dtd", "eurosat"), (1, 2), (1, 2)):
        if shots == 1 or seed == 1:
            add(tmp_path, method=method, data=data, shots=shots, seed=seed)
    _, command = show("--check")[1].splitlines()
    where = "tag=main protocol=few_shot clip=vit_b16"
    assert command == f"python -m mmadapt -m {where} data=dtd,eurosat method=a,b shots=2 seed=2"


def test_holes_go_to_the_tag_of_their_method(tmp_path, show):
    add(tmp_path, method="a", tag="one")
    for seed in (1, 2):
        add(tmp_path, method="b", tag="two", seed=seed)
    assert [(run["tag"], run["method"]) for run in unroll(show("--check")[1].splitlines()[1:])] == [
        ("one", "a")
    ]
    elsewhere = unroll(show("--check", "--data", "eurosat", "--methods", "b")[1].splitlines()[1:])
    assert {run["tag"] for run in elsewhere} == {"two"}
    (tmp_path / "two/few_shot/vit_b16/dtd/b/1shot/seed2/result.json").unlink()
    add(tmp_path, method="a", tag="one", seed=2)
    assert [(run["tag"], run["method"]) for run in unroll(show("--check")[1].splitlines()[1:])] == [
        ("two", "b")
    ]


def test_an_empty_grid_is_not_complete(tmp_path, show):
    add(tmp_path, method="zero_shot", shots=0)
    status, out, err = show("--check", "--protocol", "few_shots")
    assert (status, out, "did you mean 'few_shot'?" in err) == (1, "", True)
    assert show("--check", "--shots", "4")[0] == 1


def test_requested_grid(tmp_path, show):
    add(tmp_path, method="coop")
    asked = ("--check", "--methods", "coop,maple", "--data", "dtd", "--shots", "1", "--seeds", "1,2")
    status, out, _ = show(*asked)
    assert status == 1
    assert {(r["method"], r["seed"]) for r in unroll(out.splitlines()[1:])} == {
        ("coop", "2"),
        ("maple", "1"),
        ("maple", "2"),
    }
    assert show("--check", "--seeds", "1")[0] == 0


def test_zero_shots_are_expected_only_where_seen(tmp_path, show):
    add(tmp_path, method="zero_shot", shots=0)
    add(tmp_path, method="coop", shots=1)
    assert show("--check") == (0, "complete: 2 runs\n", "")


def test_failures_are_listed(tmp_path, show):
    add(tmp_path, method="coop")
    path = fail(tmp_path, "RuntimeError: out of memory\nmore", method="maple", tag="deep/tag")
    status, out, _ = show("--check")
    assert status == 1
    assert f"# failed: {path}: RuntimeError: out of memory\n" in out
    assert [(run["method"], run["tag"]) for run in unroll(out.splitlines()[2:])] == [("maple", "deep/tag")]
    status, out, err = show()
    assert status == 0
    assert "runs failed: 1 (--check lists them)" in err
    assert fail(tmp_path / "b", "boom").exists()
    assert show("--check", root=tmp_path / "b")[0] == 1


def test_check_types_data_and_backbone_as_the_finished_runs_did():
    from mmadapt.collect.results.check import commands
    from mmadapt.results import RunKey

    spellings = {
        ("data", "toys"): ("folder", ("data.root=/my images/toys",)),
        ("clip", "vit_b32"): ("vit_b32", ("clip.pretrained=null",)),
    }
    missing = [RunKey("main", "few_shot", "vit_b32", "toys", "coop", 4, seed) for seed in (1, 2)]
    assert commands(missing, spellings) == [
        "python -m mmadapt -m tag=main protocol=few_shot clip=vit_b32 clip.pretrained=null "
        "'data.root=/my images/toys' data=folder method=coop shots=4 seed=1,2"
    ]
