"""Records of files to a file of records with labels, and how good these are: what `ordtool predict` runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ordtool.batching import windows
from ordtool.errors import OrdtoolError
from ordtool.io import arrow
from ordtool.io.formats import output_format
from ordtool.io.inputs import open_input, read_again
from ordtool.io.resumable import reading_back
from ordtool.io.tables import find_column
from ordtool.prediction.config import PredictConfig
from ordtool.prediction.evaluation import AnswerEvaluation, Evaluation, WordEvaluation
from ordtool.prediction.items import Item, Prediction
from ordtool.prediction.loading import load_classifier
from ordtool.prediction.reader import ItemReader, facts_of
from ordtool.prediction.work import Labeller, PredictWork
from ordtool.progress import SILENT, Progress
from ordtool.sharding.plan import Plan, input_paths
from ordtool.sharding.records import ENDINGS, FORMATS, form_of
from ordtool.sharding.run import Scale, ShardBar, Target, Totals, open_executor, run
from ordtool.sharding.work import Summary
from ordtool.tuning.data import Fields

_SHOWN_AT_ONCE = 512

__all__ = ["FORMATS", "PredictionRun"]


class PredictionRun:
    """Labels the items of files, and measures where labels are known.

    Args:
        inputs: Files, folders or patterns; none or `-` is stdin.
        config: How.
        progress: Told of the work.

    Attributes:
        evaluation: What is known of the figures so far.
        fields: Where texts and labels are.
    """

    def __init__(self, inputs: Sequence[str], config: PredictConfig, progress: Progress = SILENT) -> None:
        self._inputs = input_paths(inputs, (*ENDINGS, ".npy"))
        self._config = config
        self._progress = progress
        self._totals = Totals()
        self.evaluation = Evaluation([])
        self.fields = Fields()

    def results(self) -> Iterator[tuple[Item, Prediction]]:
        """Yield items and their predictions, in this process.

        Raises:
            OrdtoolError: If the model can't be fetched or loaded, or for a bad record.
        """
        classifier = load_classifier(self._config, self._progress)
        labeller = Labeller(classifier, self._config)
        reader = self._reader(facts_of(classifier))
        for window in windows(self._items(reader), _SHOWN_AT_ONCE):
            for item, prediction in zip(window, labeller.label(window, self._reject), strict=True):
                if prediction is not None:
                    if item.label is not None:
                        self.evaluation.add(item.label, prediction.guess)
                    yield item, prediction

    def _reader(self, facts: Mapping[str, Any]) -> ItemReader:
        reader = ItemReader(self._config, facts)
        self.fields, self.evaluation = reader.fields, _evaluation(facts)
        return reader

    def _items(self, reader: ItemReader) -> Iterator[Item]:
        for path in self._inputs:
            with open_input(path) as stream:
                yield from reader.read(stream, None, self._reject)

    def _reject(self, error: OrdtoolError) -> None:
        if self._config.on_error == "stop":
            raise error
        self._totals.bad.append(error)

    def write(
        self,
        output: str | Path | None,
        *,
        format: str | None = None,
        scale: Scale | None = None,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        """Write a record an item: the input's keys, `prediction`, `probabilities` and perhaps `vector`.

        A table has a column a class instead of `probabilities`: `probability_NAME`.

        Args:
            output: The file; None or `-` is stdout.
            format: One of `FORMATS`; None goes by the output's name.
            scale: Who does the work; None: this process.
            resume: Go on where an interrupted run stopped.
            force: Replace an existing output.

        Raises:
            OrdtoolError: If the model can't be fetched or loaded, for a bad record, or an output that can't be written.
        """
        config = self._config
        format = output_format(output, FORMATS, format)
        arrow.check_format(format)
        names = ("model", "embed_model", "field", "label_field", "vectors", "backbone")
        settings = {"format": format} | {name: getattr(config, name) for name in names}
        target = Target(output, read_again(self._inputs), settings, resume, force)
        target.check()
        work = PredictWork(config, format)
        bar = ShardBar(self._progress, "predicting", "records")
        scale = scale or Scale(threads=config.threads)
        try:
            with open_executor(scale, work, bar) as executor:
                facts = executor.facts
                plan = Plan(self._inputs, self._reader(facts), work.cut, skip=work.skips)
                form = form_of(format)
                run(plan, executor, target, form, bar, totals=self._totals, heard=self._measure)
        finally:
            self._progress.close()
        if self._totals.before and output is not None:
            self._evaluate_file(Path(output), format, facts)

    def _measure(self, summary: Summary) -> None:
        for known, predicted in summary.pairs:
            self.evaluation.add(known, predicted)

    def tell_skipped(self) -> None:
        """Say which items were skipped."""
        self._totals.tell_skipped(self._progress)

    def _evaluate_file(self, path: Path, format: str, facts: Mapping[str, Any]) -> None:
        """Measure all that a resumed run wrote, what was there before it too."""
        self.evaluation = _evaluation(facts)
        with reading_back(path):
            for row in _rows(path, format):
                names = list(row)
                place = find_column(names, self.fields.label)
                if place is not None:
                    self.evaluation.add_written(row[names[place]], row["prediction"])


def _evaluation(facts: Mapping[str, Any]) -> Evaluation:
    """Return what measures the predictions of a classifier."""
    if facts["answers"]:
        return AnswerEvaluation()
    return (WordEvaluation if facts["takes_words"] else Evaluation)(facts["labels"])


def _rows(path: Path, format: str) -> Iterator[Mapping[str, Any]]:
    if format in arrow.FORMATS:
        with open_input(path) as stream:
            yield from (row for _, row in arrow.arrow_rows(stream))
        return
    with open(path, encoding="utf-8", newline="\n") as file:
        yield from csv.DictReader(file) if format == "csv" else map(json.loads, file)
