"""`ordtool generate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ordtool.cli.options import (
    OUT,
    RAY,
    RUN,
    Compile,
    Device,
    Dtype,
    Force,
    GpusPerWorker,
    Inputs,
    Json,
    Model,
    OnError,
    Output,
    Quiet,
    Ray,
    Resume,
    RowFormat,
    Seed,
    Threads,
    Workers,
    field_options,
    option,
    usual_values,
)

if TYPE_CHECKING:
    from ordtool.extrapolation.context_extension import RotaryContextExtension
    from ordtool.generation.prompts import PromptStyle

PROMPT = "The prompt"
CHOICE = "How a token is chosen (greedy unless one is given)"
END = "Where it ends"
_OWN_MASK = "model"


def _methods() -> list[str]:
    from ordtool.extrapolation.methods import METHODS

    return list(METHODS)


def _mask_kinds() -> list[str]:
    from ordtool.lm.masks import KINDS

    return list(KINDS)


def _masks() -> tuple[str, ...]:
    from ordtool.lm.masks import KINDS

    return (_OWN_MASK, *KINDS)


@usual_values({"--show-mask": _masks(), **RAY})
@field_options(prompts="prompt")
def generate(
    inputs: Inputs = None,
    prompt: Annotated[
        list[str] | None, option("A prompt itself, instead of files.", PROMPT, "--prompt -p")
    ] = None,
    model: Model = "smollm2",
    field: Annotated[
        str | None,
        option(
            "The key of a JSONL object that holds the prompt.  [default: text, or the template's first]",
            PROMPT,
        ),
    ] = None,
    chat: Annotated[
        bool | None,
        option("Use the model's chat template.  [default: if it has one]", PROMPT, "--chat/--no-chat"),
    ] = None,
    system: Annotated[str | None, option("A system message of the chat.", PROMPT)] = None,
    template: Annotated[
        str | None,
        option("A prompt with {field} holes, filled from the record's keys.", PROMPT, metavar="TEXT"),
    ] = None,
    examples: Annotated[
        str | None,
        option(
            "JSONL of solved examples before each prompt; the model fills in the template's last field.",
            PROMPT,
            metavar="FILE",
        ),
    ] = None,
    context: Annotated[
        str | None,
        option(
            "Read prompts longer than the model's context, by a method of `ordtool extrapolate`.",
            PROMPT,
            metavar="METHOD",
            autocompletion=_methods,
        ),
    ] = None,
    max_context: Annotated[
        str | None,
        option(
            "With --context: refuse texts of more tokens, new ones included: a number, 4k, or 8x the trained length.",
            PROMPT,
            metavar="TOKENS",
        ),
    ] = None,
    contexts: Annotated[
        str | None,
        option(
            "A field of --template with a list of texts, which are read side by side (NBCE).",
            PROMPT,
            metavar="FIELD",
        ),
    ] = None,
    beta: Annotated[
        float, option("With --contexts: take off so much of what the model says without any.", PROMPT)
    ] = 0.25,
    max_new_tokens: Annotated[int, option("Tokens to write at most.", END)] = 128,
    stop: Annotated[
        list[str] | None, option("End before this text; may be repeated.", END, metavar="TEXT")
    ] = None,
    temperature: Annotated[float | None, option("Divides the logits; 0 is greedy.", CHOICE)] = None,
    top_k: Annotated[int | None, option("Draw among the k most probable.", CHOICE)] = None,
    top_p: Annotated[
        float | None, option("Draw among the fewest that hold this probability.", CHOICE)
    ] = None,
    min_p: Annotated[
        float | None, option("Draw among those this probable, relative to the best.", CHOICE)
    ] = None,
    typical: Annotated[float | None, option("Locally typical sampling of this mass.", CHOICE)] = None,
    repetition_penalty: Annotated[
        float, option("Above 1: tokens seen before are less likely.", CHOICE)
    ] = 1.0,
    no_repeat_ngram: Annotated[int, option("No n-gram of this length twice.", CHOICE)] = 0,
    beams: Annotated[int, option("Beam search of this width.", CHOICE)] = 1,
    length_penalty: Annotated[float, option("Beams: above 1 favours longer texts.", CHOICE)] = 1.0,
    choices: Annotated[
        str | None,
        option(
            "Compare these answers (or a JSON list) by log-probability, and give the best.",
            CHOICE,
            metavar="A,B,...",
        ),
    ] = None,
    n: Annotated[int, option("Continuations a prompt, with scores.", OUT, "-n")] = 1,
    logprobs: Annotated[bool, option("Each token's log-probability too.", OUT, "--logprobs")] = False,
    show_mask: Annotated[
        str | None,
        option(
            "Draw a mask and end: bidirectional, causal, reversed, prefix, permutation, window, lambda; or, alone, "
            "the model's own over its attention on --prompt, as text or with -o x.svg or .png.",
            OUT,
            metavar="KIND",
            autocompletion=_mask_kinds,
        ),
    ] = None,
    layer: Annotated[
        int | None, option("Whose attention --show-mask draws, from 1.  [default: the last]", OUT)
    ] = None,
    output: Output = None,
    format: RowFormat = None,
    json: Json = False,
    resume: Resume = False,
    force: Force = False,
    on_error: OnError = "stop",
    quiet: Quiet = False,
    seed: Seed = 0,
    batch_size: Annotated[
        int | None, option("Sequences at once.  [default: 32; on a GPU as its memory allows]", RUN, min=1)
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    compile: Compile = False,
    workers: Workers = None,
    ray: Ray = None,
    gpus_per_worker: GpusPerWorker = 0.0,
) -> None:
    r"""Write text: continue prompts, answer chats, fill in few-shot examples.

    A terminal gets the text as it is written; a pipe or `-o` gets a JSON object a line: the input's keys and
    `output`. `\n` and `\t` in --stop and --template are a line feed and a tab.

    Examples:
        ordtool generate -m tinylm -p 'The President of the United' --max-new-tokens 8
        ordtool generate examples/notes.txt -m tinylm --temperature 0.7 --max-new-tokens 8 -o out.jsonl
    """
    if show_mask is not None:
        _show_mask(show_mask, (inputs or [], prompt or []), model, layer, (output, force), (device, threads))
        return
    from ordtool.cli._generate_view import show_results
    from ordtool.console import RichProgress, stdout_is_terminal
    from ordtool.generation.config import Decoding
    from ordtool.generation.generate_files import FORMATS, GenerateFilesConfig, generate_files
    from ordtool.generation.generate_job import GenerateConfig, check_prompts
    from ordtool.generation.prompts import parse_choices, unescape
    from ordtool.generation.work import GenerateWork
    from ordtool.io.formats import output_format
    from ordtool.io.streams import refuse_resume
    from ordtool.sharding.run import Scale

    decoding = Decoding(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical=typical,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        beams=beams,
        length_penalty=length_penalty,
        n=n,
        stop=tuple(unescape(text) for text in stop or ()),
        choices=parse_choices(choices) if choices is not None else (),
        beta=beta,
        logprobs=logprobs,
        seed=seed,
        batch_size=batch_size,
    )
    config = GenerateConfig(
        inputs=tuple(inputs or ()),
        prompts=tuple(prompt or ()),
        field=field,
        on_error=on_error,
        decoding=decoding,
        style=_style(template, examples, chat, system, contexts),
    )
    if max_context is not None and context is None:
        from ordtool.errors import UsageError

        raise UsageError("--max-context goes with --context", "for example --context rerope")
    if context is not None:
        if contexts is not None:
            from ordtool.errors import UsageError

            raise UsageError("--context and --contexts are two ways to read more", "leave one of them out")
        from ordtool.extrapolation.plan import parse_spec

        parse_spec(context)  # unknown names end here, before a model is loaded
    chosen = format if format is not None else "jsonl" if json else None
    progress = RichProgress(quiet)
    if compile and context is not None:
        from ordtool.errors import UsageError

        raise UsageError("--compile and --context don't go together", "leave one of them out")
    work = GenerateWork(
        model,
        config,
        output_format(output, FORMATS, chosen),
        device,
        dtype,
        context,
        None if context is None else _extension(),
        compile,
        max_context,
    )
    if stdout_is_terminal() and output is None and chosen is None:
        check_prompts(config)
        if resume:
            refuse_resume(None)
        show_results(work.load_generator(progress, threads), config, progress)
        return
    scale = Scale(workers, ray, gpus_per_worker, threads)
    generate_files(GenerateFilesConfig(work, output, scale, resume, force), progress)


def _extension() -> type[RotaryContextExtension]:
    from ordtool.extrapolation.context_extension import RotaryContextExtension

    return RotaryContextExtension


def _show_mask(
    kind: str,
    given: tuple[list[str], list[str]],
    model: str,
    layer: int | None,
    written: tuple[Path | None, bool],
    machine: tuple[str, int | None],
) -> None:
    from ordtool.console import write_line
    from ordtool.errors import UsageError, close_match_hint
    from ordtool.lm.masks import KINDS, draw, example

    output, force = written
    files, prompts = given
    if kind != _OWN_MASK:
        if output is not None or layer is not None:
            raise UsageError(
                "-o and --layer are for a model's own mask", "--show-mask alone, with -m MODEL and -p TEXT"
            )
        write_line(draw(example(kind)))
        return
    if files:  # what stands behind the option and is no kind
        raise UsageError(f"unknown mask {files[0]!r}", close_match_hint(files[0], KINDS))
    if len(prompts) != 1:
        raise UsageError(
            "--show-mask draws a model on one text", "ordtool generate --show-mask -m MODEL -p TEXT"
        )
    _show_attention(model, prompts[0], layer, output, force, machine)


def _show_attention(
    model: str,
    text: str,
    layer: int | None,
    output: Path | None,
    force: bool,
    machine: tuple[str, int | None],
) -> None:
    from ordtool.console import write_line
    from ordtool.io.atomic import atomic_output, check_output
    from ordtool.models.resolve import resolve_model
    from ordtool.plotting import check_plot
    from ordtool.runtime import importing, resolve_device, set_threads

    format = None if output is None else check_plot(output)
    check_output(output, force=force)
    folder = resolve_model(model)
    with importing():
        from ordtool.generation.attention_map import attention_map, draw_characters, draw_picture

        set_threads(machine[1])
        found = attention_map(folder, text, layer, resolve_device(machine[0]))
    if output is None or format is None:
        write_line(draw_characters(found))
        return
    with atomic_output(output, force=force) as file:
        draw_picture(file, format, found)


def _style(
    template: str | None, examples: str | None, chat: bool | None, system: str | None, contexts: str | None
) -> PromptStyle:
    from ordtool.generation.prompts import PromptStyle, Template, read_examples, unescape

    return PromptStyle(
        template=Template(unescape(template)) if template is not None else None,
        examples=read_examples(examples) if examples is not None else (),
        chat=chat,
        system=system,
        contexts=contexts,
    )
