"""The speed of fused decoding relative to the target alone: `python -m benchmarks.decoding [--quick]`.

Every figure is a ratio of two times measured alternately in one process; the median over several rounds is reported
with its spread. A ratio above 1 is faster than the target alone. "The target alone" is `generate` of the model as
transformers loads it; "with our products" is the same `generate` with weights laid out as ours, so that the rest of the
difference is due to the decoder. Edits the plug-in first if the run file's version was not made before. Prints a table;
writes `decoding.parquet`, `decoding.md` and `shared_drafts.png`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.bench import Bench
from benchmarks.dense_deepen import released_deepen
from benchmarks.options import parse, parser_for
from benchmarks.reprefilling import Reprefilling
from onceedit_ray.config import RunConfig, load_config
from onceedit_ray.editing.run import edit_plugin
from onceedit_ray.files import replacing
from onceedit_ray.fusion.decoder import FusedDecoder
from onceedit_ray.fusion.members import Member, Plugin
from onceedit_ray.fusion.screen import Screen
from onceedit_ray.fusion.system import open_decoder, pair_up
from onceedit_ray.knowledge.edit import Edit
from onceedit_ray.knowledge.run_data import general_prompts, selected_edits
from onceedit_ray.knowledge.store import open_store
from onceedit_ray.models.assembly import load_placed, open_codec
from onceedit_ray.models.linear_maps import speed_up_linear_maps
from onceedit_ray.models.local_model import LocalModel
from onceedit_ray.models.sources import resolve

SECTIONS = ("unrelated", "edited", "shared", "large", "others", "released", "growth", "floor")
QUESTIONS = 12
LARGE = {"hidden_size": 2048, "num_hidden_layers": 24}
QUICK_LARGE = {"hidden_size": 1024, "num_hidden_layers": 8}
"""Shapes of the large target, and of its stand-in where time is short."""


def unrelated(bench: Bench) -> None:
    """Requests about no edit: one at a time, eight at once, and the first token."""
    prompts = bench.unrelated

    def at_once(count: int, products: str, turn: int) -> float:
        batch = [prompts[(turn + n) % len(prompts)] for n in range(count)]
        alone = bench.own(batch, bench.tokens, products=products)
        return alone / bench.ours(batch, bench.tokens)[0]

    def first(turn: int) -> float:
        prompt = prompts[turn % len(prompts)]
        if turn % 2:
            return bench.first_token(prompt) / bench.own([prompt], 1) - 1.0
        alone = bench.own([prompt], 1)
        return bench.first_token(prompt) / alone - 1.0

    for products in bench.products:
        one, many = ("reported", "reported") if products else ("≥ 0.97", "≥ 0.95")
        figure = f"unrelated requests, tokens/s over the target's own generate{products}"
        bench.compare(figure, one, partial(at_once, 1, products))
        figure = f"the same, 8 at once, over the target's own batch{products}"
        bench.compare(figure, many, partial(at_once, 8, products))
    bench.compare("added time to first token, unrelated request", "≤ 0.05", first, 4 * bench.rounds)


def edited(bench: Bench, target: str, figure: str, goal: str) -> None:
    """Requests about an edit, compared with the target alone for the same number of tokens."""
    rounds = max(2 * bench.rounds, min(len(bench.edited), 4 * bench.rounds))

    def ratio(products: str, turn: int) -> float:
        prompt = bench.edited[turn % len(bench.edited)]
        seconds, (answer,) = bench.ours([prompt], 32, target)
        return bench.own([prompt], len(answer.token_ids), target, products) / seconds

    for products in bench.products:
        bench.compare(figure + products, "reported" if products else goal, partial(ratio, products), rounds)


def large_target(bench: Bench, config: RunConfig) -> None:
    """A target ten times the plug-in's size: random weights of a 1.3 B Llama with the plug-in's vocabulary."""
    base = resolve(config.plugin.model)
    codec = open_codec(base.path)
    shape = QUICK_LARGE if bench.quick else LARGE
    llama = LlamaConfig(
        vocab_size=len(codec.tokenizer),
        intermediate_size=shape["hidden_size"] * 43 // 16,
        num_attention_heads=shape["hidden_size"] // 64,
        num_key_value_heads=shape["hidden_size"] // 64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **shape,
    )
    with torch.device("meta"):
        network = LlamaForCausalLM(llama)
    network = network.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.02, 0.02)
        network.model.rotary_emb = type(network.model.rotary_emb)(config=llama)
    bench.references["large"] = deepcopy(network.eval())
    speed_up_linear_maps(network)
    size = sum(parameter.numel() for parameter in network.parameters()) / 1e9
    model = LocalModel(network, codec.end_ids, None, config.fusion.top_k, "large")
    pair = lambda: pair_up(base, codec, base, codec, config.alignment)  # noqa: E731
    bench.decoder.members["large"] = Member("large", model, codec, pair, beside=False)
    edited(bench, "large", f"edited-fact requests over the target alone, {size:.1f} B random Llama", "≥ 1.8")
    del bench.decoder.members["large"], bench.references["large"]


def shared_drafts(bench: Bench, folder: Path) -> None:
    """Plug-in passes for one question put to 1, 2, 4, 8 targets at once, half of them of each kind."""
    kinds = list(bench.decoder.members.values())
    plugin: Any = bench.decoder.plugin.model
    passes: dict[int, float] = {}
    for count in (1, 2, 4, 8):
        names = [f"copy {n}" for n in range(count)]
        decoder = FusedDecoder(bench.decoder.plugin, bench.decoder._config)
        decoder.members = {name: replace(kinds[n % len(kinds)], name=name) for n, name in enumerate(names)}
        before = plugin.passes
        for prompt in bench.edited[:QUESTIONS]:
            asyncio.run(decoder.generate_all(dict.fromkeys(names, prompt), None, 32))
        passes[count] = (plugin.passes - before) / len(bench.edited[:QUESTIONS])
    for count in (2, 4, 8):
        goal = "≤ 1.2" if count == 8 else ""
        bench.ratios.record(
            f"plug-in passes for {count} targets at once, over one target", goal, [passes[count] / passes[1]]
        )
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(list(passes), list(passes.values()), marker="o")
    axes.set(xlabel="targets asked at once", ylabel="plug-in passes per question", ylim=(0, None))
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "shared_drafts.png") as path:
        figure.savefig(path, dpi=150, format="png")


def others(bench: Bench, config: RunConfig) -> None:
    """DEEPEN's token-by-token fusion and transformers' assisted generation, compared with ours."""
    plugin = bench.decoder.plugin
    slow = FusedDecoder(
        Plugin(Reprefilling(plugin.model), plugin.codec, plugin.view, plugin.screen),
        config.fusion.model_copy(update={"strategy": "deepen"}),
    )
    slow.members = bench.decoder.members
    network: Any = plugin.model

    def deepen(turn: int) -> float:
        prompt = bench.edited[turn % len(bench.edited)]
        seconds, (answer,) = bench.ours([prompt], 8)
        started = time.perf_counter()
        fused = asyncio.run(slow.generate(bench.target, prompt, "deepen", 8))
        took = time.perf_counter() - started
        return (took / len(fused.token_ids)) / (seconds / len(answer.token_ids))

    def assisted(turn: int) -> float:
        prompt = bench.edited[turn % len(bench.edited)]
        _, (answer,) = bench.ours([prompt], 32)
        tokens = len(answer.token_ids)
        options: dict[str, Any] = {
            "assistant_model": network.network,
            "tokenizer": bench.member.codec.tokenizer,
            "assistant_tokenizer": plugin.codec.tokenizer,
        }
        return bench.own([prompt], tokens) / bench.own([prompt], tokens, **options)

    figure = "ours over DEEPEN's fusion of top-k candidates, helper prefilled again, seconds per token"
    bench.compare(figure, "reported", deepen)
    bench.compare("transformers' assisted generation over the target alone", "reported", assisted)


def growth(bench: Bench, edits: Sequence[Edit]) -> None:
    """The cost of more edits for a request: only the screen grows."""
    counts = [10, 100, 1000]
    plugin = bench.decoder.plugin
    screens = {
        n: Screen(
            [
                edit.model_copy(update={"subject": f"{edit.subject} {i}"})
                for i, edit in enumerate((list(edits) * (n // len(edits) + 1))[:n])
            ]
        )
        for n in counts
    }

    def at(count: int) -> float:
        bench.decoder.plugin = replace(plugin, screen=screens[count])
        seconds = bench.ours([bench.unrelated[0]], 16)[0]
        bench.decoder.plugin = plugin
        return seconds

    for count in counts[1:]:
        bench.compare(
            f"unrelated request, seconds with {count} edits over 10", "flat", lambda _, n=count: at(n) / at(10)
        )


def floor(bench: Bench) -> None:
    """A decoding step of each model relative to its lower bound: reading all weights once at the measured bandwidth."""
    block = torch.ones(2**28 // 4)
    times = []
    for _ in range(5):
        started = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - started)
    bandwidth = block.nbytes / min(times)
    models = {"the plug-in": bench.decoder.plugin.model, bench.target: bench.member.model}
    for name, model in models.items():
        network: Any = model
        size = sum(p.numel() * p.element_size() for p in network.network.parameters())

        async def steps(network: Any = network) -> float:
            step = await network.open([5, 6, 7, 8], rows=0)
            started = time.perf_counter()
            step = await network.extend(step.session, 4, [9], rows=0, decode=16)
            took = (time.perf_counter() - started) / max(len(step.new_ids), 1)
            await network.close(step.session)
            return took

        ratio = [asyncio.run(steps()) / (size / bandwidth) for _ in range(bench.rounds)]
        bench.ratios.record(
            f"a step of {name} over its floor ({size / 1e9:.2f} GB at {bandwidth / 1e9:.1f} GB/s)", "1", ratio
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, print the table, write it."""
    parser = parser_for("decoding", __doc__, "fewer rounds, a smaller large target")
    parser.add_argument("--only", choices=SECTIONS, help="one part, printed and not written")
    options = parse(parser, arguments)
    config = load_config(options.config)
    edits = selected_edits(config.knowledge)
    version = edit_plugin(config, open_store())
    decoder = open_decoder(config, version.path, print)
    general = general_prompts(config.evaluation.general, 24)
    name, target = next(iter(config.targets.items()))
    reference = load_placed(resolve(target.model).path, target)
    bench = Bench(decoder, name, reference, edits, general, options.quick)
    print(f"{bench.ratios.machine}; {len(bench.edited)} edited and {len(bench.unrelated)} unrelated prompts\n")
    beside = f"edited-fact requests over the target alone, {bench.target}"
    sections: dict[str, Callable[[], None]] = {
        "unrelated": lambda: unrelated(bench),
        "edited": lambda: edited(bench, bench.target, beside, "≥ 1.0"),
        "shared": lambda: shared_drafts(bench, options.results),
        "others": lambda: others(bench, config),
        "released": lambda: released_deepen(bench),  # the two largest; the second reuses the memory of the first
        "large": lambda: large_target(bench, config),
        "growth": lambda: growth(bench, edits),
        "floor": lambda: floor(bench),
    }
    if options.only:
        sections[options.only]()
        return
    for measure in sections.values():
        measure()
    bench.ratios.write(options.results, "decoding", f"python -m benchmarks.decoding --config {options.config}")


if __name__ == "__main__":
    main()
