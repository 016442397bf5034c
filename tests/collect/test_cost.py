"""Cost beside accuracy."""

from tests.support.result_trees import add, rows, score

COST = {"trainable_params": 2048, "train_seconds": 10.0, "encode_seconds": 2.0, "eval_seconds": 0.5,
        "encoded": 100, "peak_memory_mib": 974.4}  # fmt: skip


def test_golden_table(tmp_path, show):
    add(tmp_path, 0.6, cost=COST, seed=1, hardware="H200")
    add(tmp_path, 0.7, cost={**COST, "train_seconds": 12.0}, seed=2, hardware="H200")
    add(
        tmp_path,
        0.5,
        cost={"trainable_params": 0, "eval_seconds": 1.0},
        method="zero_shot",
        shots=0,
        rule="none",
    )
    assert show("--view", "cost") == (
        0,
        "Cost and accuracy (top-1) on dtd, 1 shot; scored set: test; protocol: few_shot, version 1; CLIP: vit_b16; "
        "mean ± sample standard deviation (ddof = 1) over n = 2 seeds, or over (n) where given; total: all recorded "
        "phases; a run that finds its features in the store does not encode them again; "
        "peak memory: of the GPU, or else of the whole process; machine: H200; "
        "selection: last (coop), none (zero_shot).\n"
        "\n"
        "| method    | parameters ↓ |  train (s) ↓ |  total (s) ↓ | peak memory (MiB) ↓ |      top-1 (%) ↑ |\n"
        "| --------- | -----------: | -----------: | -----------: | ------------------: | ---------------: |\n"
        "| zero_shot |    **0 (1)** |            – | **1.00 (1)** |                   – |        50.00 (1) |\n"
        "| coop      |        2,048 | 11.00 ± 1.41 | 13.50 ± 1.41 |             974 ± 0 | **65.00 ± 7.07** |\n"
        "\n"
        "- zero_shot: 0 shots.\n",
        "",
    )


def test_means_over_data_sets_need_all_of_them(tmp_path, show):
    for data, params in (("dtd", 1000), ("eurosat", 3000)):
        add(tmp_path, 0.5, data=data, cost={**COST, "trainable_params": params})
    add(tmp_path, 0.5, data="dtd", method="partial", cost=COST)
    out = show("--view", "cost")[1]
    assert rows(out)["coop"] == ["2,000", "10.00", "12.50", "974", "50.00"]
    assert rows(out)["partial"] == ["–"] * 5
    assert "- No average for partial at 1 shot: eurosat is missing." in out


def test_times_of_different_machines_are_noted(tmp_path, show):
    add(tmp_path, cost=COST, hardware="H200")
    add(tmp_path, cost=COST, hardware="x86_64 (cpu)", seed=2)
    assert (
        "- Seconds and memory are from different machines: H200; x86_64 (cpu)." in show("--view", "cost")[1]
    )


def test_headline_of_base_to_new_is_h(tmp_path, show):
    add(tmp_path, scores={"base": score(0.8), "new": score(0.6)}, protocol="base_to_new", cost=COST)
    found = rows(show("--view", "cost")[1])
    assert (found["method"][-1], found["coop"][-1]) == ("H (%) ↑", "68.57")


def test_a_cost_that_is_no_number_is_refused(tmp_path, show):
    add(tmp_path, cost={"train_seconds": "fast"})
    status, _, err = show()
    assert (status, "a value has the wrong type" in err) == (1, True)
