"""ordtool: good ideas of NLP in a shell, and the same as Python functions.

The names below are imported when they are first used, so that `import ordtool` costs
nothing: torch and transformers load only with what needs them. Type checkers and editors
read the plain imports instead; a test holds the two lists against each other.
"""

from __future__ import annotations

from importlib import import_module

from ordtool.auto_hook import wait_for_transformers

TYPE_CHECKING = False  # type checkers take a variable of this name for true; `typing` would take longer than all else here
if TYPE_CHECKING:
    from ordtool.auto import register_models as register_models
    from ordtool.embedding.embed_job import embed as embed
    from ordtool.embedding.loading import load_encoder as load_encoder
    from ordtool.embedding.similarity import score_similarity as score_similarity
    from ordtool.embedding.whitening import Whitening as Whitening
    from ordtool.errors import OrdtoolError as OrdtoolError
    from ordtool.errors import UsageError as UsageError
    from ordtool.extrapolation.comparison import extrapolate as extrapolate
    from ordtool.extrapolation.patch import context_extension as context_extension
    from ordtool.generation.agreement import score_agreement as score_agreement
    from ordtool.generation.engine import generate as generate
    from ordtool.generation.scoring import score_text as score_text
    from ordtool.independence.alignment import cka as cka
    from ordtool.independence.bottleneck_training import train_bottleneck as train_bottleneck
    from ordtool.independence.hsic import hsic as hsic
    from ordtool.independence.loss import hsic_loss as hsic_loss
    from ordtool.independence.loss import nhsic_loss as nhsic_loss
    from ordtool.lm.training import train_lm as train_lm
    from ordtool.models.resolve import resolve_model as resolve_model
    from ordtool.parsing.parser import Parser as Parser
    from ordtool.parsing.parser import parse as parse
    from ordtool.parsing.pcfg.training import train_pcfg as train_pcfg
    from ordtool.parsing.spans.training import train_spans as train_spans
    from ordtool.parsing.training.trainer import train_parser as train_parser
    from ordtool.parsing.trees.scoring import score_trees as score_trees
    from ordtool.parsing.trees.treebank import read_trees as read_trees
    from ordtool.prediction.engine import predict as predict
    from ordtool.seq2seq.training import train_seq2seq as train_seq2seq
    from ordtool.tuning.training import train_ladder as train_ladder

__version__ = "0.1.0"

_EXPORTS: dict[str, str] = {
    "OrdtoolError": "ordtool.errors",
    "UsageError": "ordtool.errors",
    "Parser": "ordtool.parsing.parser",
    "parse": "ordtool.parsing.parser",
    "score_trees": "ordtool.parsing.trees.scoring",
    "read_trees": "ordtool.parsing.trees.treebank",
    "train_parser": "ordtool.parsing.training.trainer",
    "train_pcfg": "ordtool.parsing.pcfg.training",
    "train_spans": "ordtool.parsing.spans.training",
    "Whitening": "ordtool.embedding.whitening",
    "embed": "ordtool.embedding.embed_job",
    "load_encoder": "ordtool.embedding.loading",
    "score_similarity": "ordtool.embedding.similarity",
    "cka": "ordtool.independence.alignment",
    "hsic": "ordtool.independence.hsic",
    "hsic_loss": "ordtool.independence.loss",
    "nhsic_loss": "ordtool.independence.loss",
    "train_bottleneck": "ordtool.independence.bottleneck_training",
    "generate": "ordtool.generation.engine",
    "score_text": "ordtool.generation.scoring",
    "score_agreement": "ordtool.generation.agreement",
    "train_lm": "ordtool.lm.training",
    "train_seq2seq": "ordtool.seq2seq.training",
    "train_ladder": "ordtool.tuning.training",
    "predict": "ordtool.prediction.engine",
    "extrapolate": "ordtool.extrapolation.comparison",
    "context_extension": "ordtool.extrapolation.patch",
    "resolve_model": "ordtool.models.resolve",
    "register_models": "ordtool.auto",
}

__all__ = ["__version__", *_EXPORTS]


def _load(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ordtool' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # a type checker would take any misspelt name for one that this gives
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted(__all__)


wait_for_transformers()
