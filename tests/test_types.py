"""What a type checker sees of `import ordtool`: every misuse of an entry point is reported, and nothing else."""

import ast
import dataclasses
import importlib
import inspect
import typing
from pathlib import Path

import pytest

import ordtool

ROOT = Path(__file__).parent.parent

# Every line that ends in `# wrong` must be reported; no other line may be.
USES = """
from typing import assert_type
from collections.abc import Iterator
import numpy as np
import torch
import ordtool
from ordtool.generation.config import Result
from ordtool.generation.prompts import PromptStyle
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.result import Parse
from ordtool.prediction.engine import Prediction

assert_type(ordtool.parse("The cat sat."), Parse)
assert_type(ordtool.parse(["The cat sat."], model="english", builder="chart"), Iterator[Parse])
ordtool.parse([["The", "cat"], ["A", "dog"]], ParseConfig(model=("english", "english-onlstm")))
ordtool.parse("The cat sat.", bulider="chart")  # wrong
ordtool.parse(["The cat sat."], batch_size="many")  # wrong
ordtool.parse(3)  # wrong
ordtool.Parser(ParseConfig(model="english", layers="2"))  # wrong
assert_type(ordtool.Parser().parse("The cat sat."), Parse)

ordtool.embed("A text.", model="static").shape
ordtool.embed(["A text."], model="static", normalise=True)  # wrong
ordtool.embed(["A text."], 3)  # wrong
ordtool.load_encoder("static")  # wrong
ordtool.Whitening(dims=2, beta=0.5).fit(np.zeros((3, 2))).transform(np.zeros((3, 2)))
ordtool.Whitening(dim=2)  # wrong
ordtool.Whitening().fit_tranform(np.zeros((3, 2)))  # wrong
ordtool.score_similarity(np.zeros((3, 2)), np.zeros((3, 2)), [1, 2, 3], setting={})  # wrong

ordtool.hsic(np.zeros((9, 2)), ["a", "b", "c"] * 3, test="gamma", permutations=9).p_value
ordtool.hsic(np.zeros((9, 2)), np.zeros((9, 2)), tests="gamma")  # wrong
ordtool.hsic(np.zeros((9, 2)), np.zeros((9, 2))).pvalue  # wrong
ordtool.hsic(np.zeros((9, 2)), np.zeros((9, 2)), given=np.zeros(9), multiples=(0.5, 1)).given
ordtool.hsic_loss(torch.zeros(9, 2), torch.zeros(9, 2), estimatr="biased")  # wrong
ordtool.nhsic_loss(torch.zeros(9, 2), torch.zeros(9, 2), epsilon="small")  # wrong
ordtool.cka(np.zeros((9, 2)), np.zeros((9, 2)), debias=True)  # wrong
ordtool.cka(np.zeros((9, 2)), np.zeros((9, 2)), test="gamma")  # wrong

assert_type(ordtool.generate("Hello"), Result)
assert_type(ordtool.generate(["Hello"], "tinylm", stop=".", n=2, temperature=0.7), list[Result])
ordtool.generate("Hello", system="Be brief.", style=PromptStyle(chat=True)).text
ordtool.generate("Hello", temprature=0.7)  # wrong
ordtool.generate(["Hello"], max_new_tokens="8")  # wrong
ordtool.generate("Hello").txt  # wrong
ordtool.score_agreement([{"good": "a b", "bad": "b a"}], modle="tinylm")  # wrong
ordtool.score_text(["a b"], [["a b", "a c"]]).bleu
ordtool.score_text("a b", "a c", tokeniser="zh")  # wrong

ordtool.extrapolate("A long text.", methods=("none", "rerope"), lengths=("1x", 512))[0].loss
ordtool.extrapolate("A long text.", method="rerope")  # wrong
ordtool.context_extension(None, "rerope", 512)  # wrong
ordtool.score_trees([[(0, 2)]], ordtool.read_trees("gold.mrg"), baseline=False)  # wrong
ordtool.read_trees("gold.mrg", on_eror=print)  # wrong
ordtool.train_parser("book.txt")  # wrong
ordtool.train_parser("book.txt", "model", epochs=2.5, hidden_size=64, resume=True)
ordtool.train_parser("book.txt", "model", epoch=2.5)  # wrong
ordtool.train_pcfg("book.txt", "model", max_length=20, threads=1)
ordtool.train_pcfg("book.txt", "model", states=3)  # wrong
ordtool.train_spans("trees.jsonl")  # wrong
ordtool.train_spans("trees.jsonl", "model", epochs="2")  # wrong
ordtool.train_lm("book.txt", "model", steps=3, device="cpu")
ordtool.train_lm("book.txt", "model", step=3)  # wrong
ordtool.train_seq2seq("pairs.jsonl", "model", model="minilm", epochs=1.5)
ordtool.train_seq2seq("pairs.jsonl", "model")  # wrong
ordtool.train_seq2seq("pairs.jsonl", "model", model="minilm", step=3)  # wrong
ordtool.train_ladder("reviews.tsv", "ladder", model="minilm", reduction=4, epochs=2)
ordtool.train_ladder("reviews.tsv", "ladder")  # wrong
ordtool.train_ladder("reviews.tsv", "ladder", model="minilm", step=3)  # wrong
ordtool.train_bottleneck([[1.0]])  # wrong
assert_type(ordtool.predict("A text.", "model"), Prediction)
assert_type(ordtool.predict(["A text."], "model", vectors=True), list[Prediction])
ordtool.predict("A text.", "model", vector=True)  # wrong
ordtool.predict("A text.")  # wrong
ordtool.resolve_model("static", sort="encoder")  # wrong
ordtool.register_models("onlstm")  # wrong
ordtool.prase("The cat sat.")  # wrong
ordtool.UsageError(hint="a hint")  # wrong
raise ordtool.OrdtoolError("a message", "a hint", "more")  # wrong
"""

# torch's types take mypy a minute to read, and no signature here needs them.
CONFIG = """
[mypy]
ignore_missing_imports = true
check_untyped_defs = false
[mypy-torch.*,transformers.*,scipy.*,nltk.*,matplotlib.*,rich.*]
follow_imports = skip
[mypy-ordtool.*]
ignore_errors = true
"""


def test_a_type_checker_reports_every_misuse_and_nothing_else(tmp_path):
    from mypy import api

    uses, config = tmp_path / "uses.py", tmp_path / "mypy.ini"
    uses.write_text(USES)
    config.write_text(CONFIG)
    cache = ROOT / ".mypy_cache" / "uses"
    printed, complaints, _ = api.run([str(uses), "--config-file", str(config), "--cache-dir", str(cache)])
    assert not complaints
    lines = USES.split("\n")
    reported = {
        int(line.split(":")[1])
        for line in printed.splitlines()
        if line.startswith(str(uses)) and ": error:" in line
    }
    wrong = {number for number, line in enumerate(lines, start=1) if line.endswith("# wrong")}
    assert [lines[number - 1] for number in sorted(wrong - reported)] == [], printed
    assert [lines[number - 1] for number in sorted(reported - wrong)] == [], printed
    misused = "".join(lines[number - 1] for number in wrong)
    assert [name for name in ordtool._EXPORTS if f"ordtool.{name}(" not in misused] == []


def test_plain_imports_and_the_lazy_table_are_the_same():
    tree = ast.parse(Path(ordtool.__file__).read_text())
    [block] = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    plain = {alias.asname: statement.module for statement in block.body for alias in statement.names}
    assert plain == ordtool._EXPORTS


@pytest.mark.parametrize(
    ("module", "options", "config", "own"),
    [
        ("ordtool.parsing.config", "ParseOptions", "ParseConfig", set()),
        ("ordtool.embedding.encoder", "EncoderOptions", "EncoderConfig", {"model"}),
        ("ordtool.embedding.whitening_solver", "WhiteningOptions", "WhiteningConfig", {"dims"}),
        ("ordtool.generation.config", "DecodingOptions", "Decoding", set()),
        ("ordtool.independence.hsic", "HsicOptions", "HsicConfig", set()),
        ("ordtool.parsing.training.recipes", "TrainingOptions", "TrainingConfig", set()),
        (
            "ordtool.independence.bottleneck_training",
            "BottleneckTrainingOptions",
            "BottleneckTrainingConfig",
            set(),
        ),
        ("ordtool.tuning.config", "ScheduleOptions", "ScheduleConfig", set()),
        (
            "ordtool.prediction.config",
            "PredictOptions",
            "PredictConfig",
            {"model", "field", "label_field", "on_error"},
        ),
    ],
)
def test_keywords_are_the_fields_of_the_configuration(module, options, config, own):
    found = importlib.import_module(module)
    keywords = typing.get_type_hints(getattr(found, options))
    fields = {field.name for field in dataclasses.fields(getattr(found, config))} - own
    assert set(keywords) == fields


@pytest.mark.parametrize(
    ("module", "options", "configs"),
    [
        ("ordtool.lm.training", "LMTrainingOptions", ["LMTrainingConfig", "RunConfig"]),
        ("ordtool.parsing.spans.training", "SpanTrainingOptions", ["SpanTrainingConfig", "RunConfig"]),
        ("ordtool.seq2seq.training", "Seq2SeqTrainingOptions", ["Seq2SeqTrainingConfig", "RunConfig"]),
        ("ordtool.parsing.training.trainer", "_Options", ["TrainingConfig", "ParserRunConfig"]),
        ("ordtool.parsing.pcfg.training", "_Options", ["PcfgTrainingConfig", "ParserRunConfig"]),
        ("ordtool.tuning.config", "LadderTrainingOptions", ["LadderTrainingConfig", "ScheduleConfig"]),
    ],
)
def test_keywords_of_trainings_are_the_fields_of_what_they_configure(module, options, configs):
    found = importlib.import_module(module)
    fields = {field.name for config in configs for field in dataclasses.fields(getattr(found, config))}
    assert set(typing.get_type_hints(getattr(found, options))) == fields


@pytest.mark.parametrize("name", [name for name in ordtool._EXPORTS if name.startswith("train_")])
def test_all_trainings_are_called_alike(name):
    parameters = inspect.signature(getattr(ordtool, name)).parameters
    plain = [p.name for p in parameters.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert plain[1:] == ["output", "config"]
    assert parameters["config"].default is None
    assert parameters["progress"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["options"].kind is inspect.Parameter.VAR_KEYWORD
    assert not {"embedding_model", "backbone", "valid", "paths"} & set(parameters)
