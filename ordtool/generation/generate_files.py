"""Prompts of files to a file of records: what `ordtool generate` runs where nobody watches."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ordtool.generation.generate_job import check_prompts
from ordtool.generation.work import GenerateWork
from ordtool.io import arrow
from ordtool.io.inputs import read_again
from ordtool.io.text import Record
from ordtool.progress import SILENT, Progress
from ordtool.sharding.plan import Plan
from ordtool.sharding.records import FORMATS, RecordReader, form_of
from ordtool.sharding.run import Scale, ShardBar, Target, Totals, open_executor, run

__all__ = ["FORMATS", "GenerateFilesConfig", "generate_files"]


@dataclass(frozen=True, slots=True)
class GenerateFilesConfig:
    """Who writes, and where it goes.

    Attributes:
        work: The model, the prompts and how it writes.
        output: The file; None or `-` is stdout.
        scale: Who does the work.
        resume: Go on where an interrupted run stopped.
        force: Replace an existing output.
    """

    work: GenerateWork
    output: Path | None = None
    scale: Scale = field(default_factory=Scale)
    resume: bool = False
    force: bool = False


def generate_files(config: GenerateFilesConfig, progress: Progress = SILENT) -> Totals:
    """Write a record a prompt: the input's keys, and what was written.

    Args:
        config: From where, how, and where to.
        progress: A bar; notes; the bad records that were skipped.

    Returns:
        Counts.

    Raises:
        OrdtoolError: For a bad prompt or model, or an output that can't be written.
    """
    work, job = config.work, config.work.config
    check_prompts(job)
    arrow.check_format(work.format)
    given = [Record("prompt", k, text) for k, text in enumerate(job.prompts, start=1)] or None
    plan = Plan(job.paths, RecordReader(job.text_field), work.cut, skip=work.skips, given=given)
    settings = {
        "model": work.model,
        "dtype": work.dtype,
        "context": work.context,
        "format": work.format,
        "shard": work.cut.most,
        **job.facts(),
        **({"compile": True} if work.compile else {}),
        **({"max_context": work.max_context} if work.max_context else {}),
    }
    inputs = [] if job.prompts else read_again(job.paths)
    target = Target(config.output, inputs, settings, config.resume, config.force)
    target.check()
    bar = ShardBar(progress, "generating", "prompts")
    totals = Totals()
    try:
        with open_executor(config.scale, work, bar) as executor:
            return run(plan, executor, target, form_of(work.format), bar, totals=totals)
    finally:
        progress.close()
        totals.tell_skipped(progress)
