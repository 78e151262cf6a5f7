"""The examples of few-shot prompts that ship: what docs/cpm.md runs with them."""

import json
import re
import shlex
from pathlib import Path

from ordtool.generation.prompts import PromptStyle, Template, read_examples
from ordtool.io.text import read_records

ROOT = Path(__file__).parents[2]


def demonstrations():
    """Yield the asked file and the style of each command on the page."""
    page = (ROOT / "docs" / "cpm.md").read_text()
    for line in re.findall(r"^ordtool generate \$shots/.*", page, re.M):
        words = shlex.split(line.replace("$shots", str(ROOT / "examples" / "few-shot")))
        options = dict(zip(words[3::2], words[4::2], strict=True))
        examples = read_examples(options["--examples"])
        yield Path(words[2]), PromptStyle(Template(options["--template"]), examples)


def test_prompts_are_solved_lines_and_one_that_is_not():
    prompts = {}
    for asked, style in demonstrations():
        assert style.few_shot and style.stop == ("\n",) and style.template is not None
        prompts[asked.stem] = [style.text(record) for record in read_records([asked], None)]
        for record, prompt in zip(read_records([asked], None), prompts[asked.stem], strict=True):
            *solved, last = prompt.split("\n")
            assert solved == [style.template.render(shot, "") for shot in style.examples]
            assert (
                last.startswith(next(iter(record.data.values()))) and style.template.answer not in record.data
            )
            assert all(shot[style.template.fields[0]] not in last for shot in style.examples)
    assert len(prompts) == 4 and sum(map(len, prompts.values())) == 14
    assert prompts["capitals-asked"][-1] == "\n".join(
        ["法国的首都是巴黎", "日本的首都是东京", "埃及的首都是开罗", "加拿大的首都是渥太华", "中国的首都是"]
    )


def test_every_file_belongs_to_a_command():
    files = {path.name for path in (ROOT / "examples" / "few-shot").iterdir()}
    asked = {path.name for path, _ in demonstrations()}
    assert files == asked | {name.replace("-asked", "") for name in asked}
    for name in files:
        for line in (ROOT / "examples" / "few-shot" / name).read_text().splitlines():
            assert all(isinstance(value, str) and value for value in json.loads(line).values())
