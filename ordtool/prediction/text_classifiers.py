"""Classifiers of texts: a ladder on its backbone, and a plain sequence-classification checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ordtool.arguments import as_strings, is_one
from ordtool.batching import batches_by_length
from ordtool.errors import OrdtoolError
from ordtool.models.limits import tokenizer_limit, usable_context
from ordtool.models.loading import check_vocabulary, load_model, load_tokenizer
from ordtool.prediction.classifiers import Scores
from ordtool.progress import SILENT, Progress
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.encoding import Encoded, encode_texts
from ordtool.tuning.ladder.mixing import pool
from ordtool.tuning.loading import load_ladder_and_backbone, load_plain_ladder

if TYPE_CHECKING:
    from ordtool.tuning.ladder.model import Ladder
    from ordtool.tuning.ladder.plain import PlainLadder


class LadderClassifier:
    """A trained ladder on its backbone.

    Args:
        ladder: The ladder.
        backbone: The model it was trained beside.
    """

    def __init__(self, ladder: Ladder | PlainLadder, backbone: Backbone) -> None:
        if not ladder.config.labels:
            raise OrdtoolError(
                f"a ladder of the task {ladder.config.task} writes text and gives no labels",
                "ordtool generate -m LADDER uses it",
            )
        self.ladder, self.backbone = ladder, backbone
        names = ladder.config.id2label
        regression = ladder.config.task == "regress"
        self.labels: list[str] = [] if regression else [names[i] for i in range(len(names))]
        self.pair_field: str | None = ladder.config.pair_field

    @classmethod
    def load(
        cls,
        folder: str | Path,
        backbone: str | None = None,
        device: torch.device | None = None,
        progress: Progress = SILENT,
    ) -> LadderClassifier:
        """Load what `ordtool train ladder` wrote.

        Raises:
            OrdtoolError: If it writes text, is damaged, or its backbone isn't found.
        """
        if device is None or device.type == "cpu":
            plain = load_plain_ladder(folder, backbone=backbone, progress=progress)
            if plain is not None:
                return cls(*plain)
        return cls(*load_ladder_and_backbone(folder, backbone=backbone, device=device, progress=progress))

    @torch.inference_mode()
    def predict(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None, *, batch_size: int = 32
    ) -> Scores:
        """Label texts.

        Args:
            texts: The texts, or one.
            pairs: The second texts, or the second one, for a ladder of pairs.
            batch_size: Texts at once.

        Returns:
            Probabilities `(texts, classes)`, or scores `(texts, 1)`; and the pooled vectors `(texts, hidden)`. One text
            has no axis of texts.
        """
        if is_one(texts):
            second = None if pairs is None else as_strings(pairs)
            rows, vectors = self.predict(as_strings(texts), second)
            return Scores(rows[0], vectors[0])
        config = self.ladder.config
        data = Encoded(*encode_texts(self.backbone.tokenizer, texts, pairs, config.text_length))
        rows = np.zeros((len(texts), max(1, len(self.labels))), dtype=np.float32)
        vectors = np.zeros((len(texts), self.ladder.hidden_size), dtype=np.float32)
        for index in batches_by_length(data.lengths, size=batch_size, longest_first=True):
            inputs = {k: v.to(self.ladder.device) for k, v in data.inputs(index, self.backbone.pad).items()}
            states = self.backbone.states(inputs, config.layers, torch.float32)
            found = self.ladder(states.hidden, states.last, states.mask)
            logits = found.logits.float()
            rows[index] = (logits.softmax(dim=-1) if self.labels else logits).cpu().numpy()
            vectors[index] = found.pooled.float().cpu().numpy()
        if not self.labels:
            rows = rows * np.float32(config.target_scale) + np.float32(config.target_mean)
        return Scores(rows, vectors)


class CheckpointClassifier:
    """A plain `...ForSequenceClassification` of transformers.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
    """

    pair_field: str | None = None

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        names = model.config.id2label
        regression = len(names) == 1
        self.labels: list[str] = [] if regression else [str(names[i]) for i in range(len(names))]

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> CheckpointClassifier:
        """Load a checkpoint.

        Raises:
            OrdtoolError: If it can't be loaded, or its head was never trained.
        """
        model = load_model(folder, "classifier", device=device).model
        tokenizer = load_tokenizer(folder)
        check_vocabulary(folder, tokenizer, model)
        return cls(model, tokenizer)

    @torch.inference_mode()
    def predict(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None, *, batch_size: int = 32
    ) -> Scores:
        """Label texts; vectors are means of the last layer's tokens. See `LadderClassifier.predict`."""
        if is_one(texts):
            second = None if pairs is None else as_strings(pairs)
            rows, vectors = self.predict(as_strings(texts), second)
            return Scores(rows[0], vectors[0])
        limits = (tokenizer_limit(self.tokenizer), usable_context(self.model.config) or 512, 4096)
        length = min(limit for limit in limits if limit is not None)
        data = Encoded(*encode_texts(self.tokenizer, texts, pairs, length))
        rows = np.zeros((len(texts), self.model.config.num_labels), dtype=np.float32)
        vectors = np.zeros((len(texts), self.model.config.hidden_size), dtype=np.float32)
        pad = self.tokenizer.pad_token_id or 0
        for index in batches_by_length(data.lengths, size=batch_size, longest_first=True):
            inputs = {k: v.to(self.model.device) for k, v in data.inputs(index, pad).items()}
            found = self.model(**inputs, output_hidden_states=True)
            logits = found.logits.float()
            many = self.model.config.problem_type == "multi_label_classification"
            shares = logits.sigmoid() if many else logits.softmax(dim=-1)
            rows[index] = (shares if self.labels else logits).cpu().numpy()
            vectors[index] = (
                pool(found.hidden_states[-1].float(), inputs["attention_mask"], "mean").cpu().numpy()
            )
        return Scores(rows, vectors)
