"""`glm5-hal run`: generation, streamed, and what it cost."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from glm5_hal.cli import console, inputs, loading, options, ranks
from glm5_hal.cli.cost import Cost, Rate, peak_device_bytes, peak_host_bytes
from glm5_hal.cli.failures import CommandError
from glm5_hal.cli.plan import open_runtime, print_summary, summary
from glm5_hal.cli.stream import Stream

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from glm5_hal.model.generate import Emitted


def run(
    directory: options.CheckpointDir,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Most tokens a sequence.")
    ],
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Needs tokenizer.json in DIR.")
    ] = None,
    input_ids: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="A list of token ids, or a list of such lists."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(metavar="T", help="0 takes the most likely token.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(metavar="P", help="Mass of the likeliest tokens that are kept.")
    ] = 1.0,
    seed: options.Seed = 0,
    speculative: Annotated[
        int, typer.Option(min=0, metavar="N", help="Draft tokens a step, from the MTP layer.")
    ] = 0,
    backend: options.Backend = None,
    dtype: options.ActivationDType = None,
    latent_eps: options.LatentEps = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Prompt tokens of a sequence in a pass; default: 512."
        ),
    ] = None,
    mla_form: Annotated[
        Literal["absorbed", "expanded"],
        typer.Option(help="Attend to cached latents, or to keys and values per head."),
    ] = "absorbed",
    number: ranks.Option = None,
    eager: Annotated[
        bool, typer.Option("--eager", help="Run every step as it comes; replay no recording.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Generate from a text or from token ids, and stream.

    Tokens go to stdout as they come: one sequence as running text, of several each piece on a
    line of its own behind the sequence's number. What it cost goes to stderr.
    """
    if (prompt is None) == (input_ids is None):
        raise CommandError("give either --prompt TEXT or --input-ids FILE.json")
    if not ranks.started(number):
        return
    from glm5_hal.model.generate import DEFAULT_CHUNK, Sampling, Statistics, generate
    from glm5_hal.model.glm5 import Options

    sampling = Sampling(temperature, top_p, seed)
    runtime = open_runtime(backend)
    joined = ranks.join(runtime)
    header = inputs.read_header(directory)
    tokenizer = inputs.open_tokenizer(directory)
    if input_ids is not None:
        prompts = inputs.read_ids(input_ids)
    else:
        prompts = [inputs.encode(tokenizer, directory, prompt or "")]
    inputs.check_ids(header.config, prompts, str(input_ids or "--prompt"), max_new_tokens)
    if speculative and not header.has_mtp:
        raise CommandError(
            f"--speculative {speculative}: {directory} has no MTP layer to draft with; leave the "
            "option out"
        )
    model = loading.load(
        directory,
        runtime,
        dtype=dtype,
        latent_eps=latent_eps,
        positions=max(map(len, prompts)) + max_new_tokens,
        mtp=speculative > 0,
        options=Options(mla_form=mla_form),
        ranks=joined,
    )
    statistics = Statistics()
    stream = Stream(len(prompts), tokenizer, silent=json)
    emitted = generate(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        speculative=speculative,
        chunk=chunk or DEFAULT_CHUNK,
        statistics=statistics,
        recorded=not eager,
    )
    first_seconds, more_seconds = _follow(emitted, stream)
    cost = Cost(
        prompt=Rate(sum(map(len, prompts)), first_seconds),
        generation=Rate(sum(map(len, stream.tokens)) - len(prompts), more_seconds),
        drafts=statistics if speculative else None,
        host_bytes=peak_host_bytes(),
        device_bytes=peak_device_bytes(runtime.backend.device),
    )
    if json:
        sequences = [
            _sequence(given, tokens, tokenizer)
            for given, tokens in zip(prompts, stream.tokens, strict=True)
        ]
        console.print_json({"sequences": sequences, **cost.to_dict(), "plan": summary(runtime)})
        return
    for line in cost.lines():
        console.note(line)
    print_summary(runtime)


def _follow(generation: "Iterator[Emitted]", stream: Stream) -> tuple[float, float]:
    """Show tokens as they come; seconds until every sequence has its first, and from then on."""
    started = every_first = time.perf_counter()
    with ExitStack() as waiting:
        waiting.enter_context(console.progress("prompt"))
        for emitted in generation:
            waiting.close()
            if not stream.tokens[emitted.sequence]:
                every_first = time.perf_counter()
            stream.take(emitted)
    ended = time.perf_counter()
    stream.close()
    return every_first - started, ended - every_first


def _sequence(
    prompt: list[int], tokens: list[int], tokenizer: "Tokenizer | None"
) -> dict[str, object]:
    text = {"text": tokenizer.decode(tokens)} if tokenizer else {}
    return {"prompt_tokens": len(prompt), "tokens": tokens, **text}
