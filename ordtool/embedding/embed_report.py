"""What a run of `ordtool embed` did."""

from __future__ import annotations

from dataclasses import dataclass, field

from ordtool.embedding.encoder import Encoder
from ordtool.errors import OrdtoolError
from ordtool.progress import Progress


@dataclass
class EmbedReport:
    """What a run did.

    Attributes:
        texts: Rows written.
        dim: Numbers a row.
        computed: Different texts that went through the model.
        truncated: Different texts that were longer than the model reads.
        empty: Different texts without a token; their rows are zeros.
        tokens: Tokens read.
        seconds: Time from the first text to the last, the model loaded.
        skipped: Bad records.
    """

    texts: int = 0
    dim: int = 0
    computed: int = 0
    truncated: int = 0
    empty: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: list[OrdtoolError] = field(default_factory=list)


def tell(report: EmbedReport, encoder: Encoder, progress: Progress) -> None:
    """Say what happened, for people."""
    rate = report.texts / report.seconds if report.seconds else 0.0
    repeated = report.texts - report.computed
    extra = f", {repeated:,} of them repeated" if repeated > 0 and report.computed else ""
    progress.note(f"{report.texts:,} texts{extra}, {report.dim} dimensions, {rate:,.0f} texts/s")
    if report.truncated:
        longer = (
            encoder.model_limit is None
            or encoder.max_length is None
            or encoder.max_length < encoder.model_limit
        )
        limit = encoder.model_limit or "N"
        more = (
            f"--max-length {limit} reads more"
            if longer
            else "the model reads no more: split long texts into lines"
        )
        progress.warn(
            f"{report.truncated:,} texts are longer than {encoder.max_length} tokens and were cut; {more}"
        )
    if report.empty:
        progress.warn(
            f"{report.empty:,} different texts have no token that the model knows (empty ones): their rows are zeros"
        )
    if report.skipped:
        progress.warn(f"{len(report.skipped)} bad records skipped:")
        for error in report.skipped[:20]:
            progress.warn(error.message)
        if len(report.skipped) > 20:
            progress.warn(f"and {len(report.skipped) - 20} more")
