"""The benchmark of heads: its variants have equal parameters, and it goes on where it was."""

import importlib.util
import json
import statistics
from pathlib import Path

import pytest

from ordtool.lm.model import OrdtoolLMConfig, OrdtoolLMForCausalLM

PATH = Path(__file__).parents[2] / "benchmarks" / "heads.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("heads_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_variants_have_equal_parameters(benchmark, tmp_path):
    options = benchmark.parse(
        ["--work", str(tmp_path), "--texts", "a", "--hidden", "64", "--sweep", "4,8,32"]
    )
    found = benchmark.variants(options)
    assert [settings["heads"] for settings in found.values()] == [16] * 7 + [4, 8, 32]
    counts = {}
    for name in benchmark.names(options):
        settings = found[name]
        shape = {"hidden_size": 64, "num_hidden_layers": 1, "vocab_size": 300}
        config = OrdtoolLMConfig(
            **shape, num_attention_heads=settings["heads"], key_size=settings.get("key_size"),
            intermediate_size=settings["intermediate"], talking_heads=settings.get("talking_heads", False),
        )  # fmt: skip
        talking = 16 * 16 * {"both": 2, "before": 1, "after": 1}.get(settings.get("talking_heads"), 0)
        counts[name] = OrdtoolLMForCausalLM(config).num_parameters() - talking
    standard = counts["16 heads"]
    assert all(abs(count - standard) <= 3 * 64 for count in counts.values())


def test_it_goes_on_where_it_was(benchmark, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the cat sat on a mat and the dog saw a bird in the tree. " * 30)
    command = [
        "--work", str(tmp_path), "--texts", str(tmp_path / "a.txt"), "--steps", "1", "--hidden", "16", "--heads", "2",
        "--sweep", "1", "--layers", "1", "--context", "8", "--vocab-size", "260", "--batch-size", "2", "--seeds", "2",
    ]  # fmt: skip
    options = benchmark.parse(command)
    with (tmp_path / "rows.jsonl").open("w") as file:
        for number, name in enumerate(benchmark.names(options)):
            for seed in range(2 if number else 1):
                row = {"variant": name, "seed": seed, "parameters": 5, "perplexity": 9.0 + number + 2 * seed}
                file.write(json.dumps({**row, "processor_seconds": 36.0}) + "\n")
    benchmark.main(command)
    printed = capsys.readouterr().out
    assert "1 of 16 trainings, about 0.01 processor hours" in printed
    standard = json.loads(printed[printed.index("{") : printed.index("}") + 1])
    assert (standard["variant"], standard["seed"]) == ("2 heads", 1)
    lines = printed[printed.index("| |") :].splitlines()
    assert len(lines) == 2 + 8
    beside = [10.0 - 9.0, 12.0 - standard["perplexity"]]
    mean, error = statistics.mean(beside), statistics.stdev(beside) / 2**0.5
    assert f"| keys twice as long | 5 | 11.00 ± 1.41 | 2 | {mean:+.2f} ± {error:.2f} | 36 |" in lines
    benchmark.main([*command, "--table"])
    assert capsys.readouterr().out.splitlines() == lines
