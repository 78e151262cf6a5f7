"""A job of `generate` without the command line: what it is told, and what it writes."""

import json

import pytest
import torch

from ordtool.errors import OrdtoolError, UsageError
from ordtool.generation.config import Decoding
from ordtool.generation.decode import decode
from ordtool.generation.engine import TextGenerator
from ordtool.generation.generate_files import GenerateFilesConfig, generate_files
from ordtool.generation.generate_job import GenerateConfig, check_prompts, generate_records
from ordtool.generation.prompts import PromptStyle, Template
from ordtool.generation.work import GenerateWork
from ordtool.progress import Progress


class Hearing(Progress):
    """Keeps the warnings."""

    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


@pytest.fixture(scope="module")
def writer(writers):
    return TextGenerator(writers("llama"), device="cpu")


@pytest.mark.parametrize("wrong", [{"on_error": "ignore"}, {"inputs": ["a.txt"], "prompts": ["b"]}], ids=str)
def test_contradictions(wrong):
    with pytest.raises(UsageError, match=f"`{list(wrong)[-1]}`"):
        GenerateConfig(**wrong)


def test_missing_files_are_found_before_a_model_loads(tmp_path):
    with pytest.raises(OrdtoolError, match=r"lost\.txt"):
        check_prompts(GenerateConfig(inputs=[tmp_path / "lost.txt"]))


def test_a_batch_size_is_no_other_run():
    facts = [GenerateConfig(decoding=Decoding(batch_size=size)).facts() for size in (1, 32)]
    assert facts[0] == facts[1]
    assert facts[0] != GenerateConfig(decoding=Decoding(seed=1)).facts()


@pytest.mark.parametrize(
    ("style", "field", "text_field"),
    [
        (PromptStyle(), None, "text"),
        (PromptStyle(), "q", "q"),
        (PromptStyle(Template("{n}: {q}")), None, None),
        (PromptStyle(Template("{n}: {q}")), "q", "q"),
    ],
)
def test_a_template_says_which_fields_it_takes(style, field, text_field):
    assert GenerateConfig(style=style, field=field).text_field == text_field


def test_bad_records_are_told_of_at_the_end(writer, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"text": "the cat"}\n{"text": 3}\n{"text": "a dog"}\n')
    decoding = Decoding(max_new_tokens=2)
    config = GenerateConfig(inputs=[tmp_path / "p.jsonl"], on_error="skip", decoding=decoding)
    heard = Hearing()
    found = [record.text for _, record, _ in generate_records(writer, config, progress=heard)]
    assert found == ["the cat", "a dog"]
    assert heard.warnings[0].startswith("1 bad record") and "p.jsonl:2" in heard.warnings[1]


def test_lines_are_the_input_and_what_was_written(writer, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"id": 7, "text": "the cat", "output": "old"}\n')
    config = GenerateConfig(inputs=[tmp_path / "p.jsonl"], decoding=Decoding(max_new_tokens=2))
    heard = Hearing()
    work = GenerateWork(str(writer.folder), config)
    generate_files(GenerateFilesConfig(work, tmp_path / "o.jsonl"), heard)
    written = json.loads((tmp_path / "o.jsonl").read_text())
    (result,) = (result for _, _, result in generate_records(writer, config))
    assert written == {"id": 7, "text": "the cat", "output": result.text, "finish_reason": "length"}
    assert "'output' is replaced" in heard.warnings[0]


class Full:
    """A backend on a machine that is full."""

    def write(self, *args):
        raise torch.OutOfMemoryError


def test_out_of_memory_is_said_with_the_number_of_sequences():
    inputs = {"input_ids": torch.ones(4, 3, dtype=torch.long)}
    with pytest.raises(OrdtoolError, match="12 sequences at once"):
        decode(Full(), inputs, 5, None, Decoding(n=3, temperature=1.0), None, None)
