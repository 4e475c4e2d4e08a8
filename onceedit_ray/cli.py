"""The command `onceedit`. Everything runs in this process, except `serve`, which starts a Ray of its own. On several
GPUs or machines, submit `jobs/edit_and_eval.py` and deploy `deployments/serve.yaml`.

Exit codes: 0 done; 1 a cell of a comparison failed; 2 an error that the user can correct, in one line on stderr;
130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from onceedit_ray import __version__
from onceedit_ray.cluster.own_ray import prepare_environment
from onceedit_ray.comparison.grid_config import load_grid
from onceedit_ray.config import load_config, refuse_grid
from onceedit_ray.errors import OnceEditError
from onceedit_ray.extras import check_extra
from onceedit_ray.listing import add_json
from onceedit_ray.living.command import add_edit_actions, add_version_actions
from onceedit_ray.location import data_path, local_path
from onceedit_ray.models.command import add_model_actions
from onceedit_ray.playground.beside import DEFAULT_PORT, page_process
from onceedit_ray.progress import ProgressDisplay, without_counts
from onceedit_ray.reader.command import add_reader_actions
from onceedit_ray.results import Results
from onceedit_ray.run_check import validate
from onceedit_ray.serving.listening import free_port
from onceedit_ray.serving.model_command import add_target_actions
from onceedit_ray.starter import PLACES, default_run_file, write_starter
from onceedit_ray.threads import let_threads_sleep

_say = ProgressDisplay()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        if getattr(options, "of_a_run", False):
            _find_run_file(options)
        code: int = options.run(options) or 0
        sys.stdout.flush()
        return code
    except OnceEditError as error:
        _say.close()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at its end
        return 1
    except KeyboardInterrupt:
        _say.close()
        print("interrupted; nothing was half-written", file=sys.stderr)
        return 130


def _find_run_file(options: argparse.Namespace) -> None:
    """Take the default run file if none is named; raises `ConfigError` for a grid file, which has no run."""
    if options.config is None and not getattr(options, "target", ()):
        options.config = default_run_file()
    if options.config is not None:
        refuse_grid(options.config)


def _init(options: argparse.Namespace) -> None:
    written = write_starter(options.folder)
    for path in written:
        print(f"wrote {path}")
    if not written:
        print(f"{options.folder} has all files already; nothing was changed")
    print("next: `onceedit demo`, or write your facts into edits.jsonl and `onceedit evaluate`")


def _demo(options: argparse.Namespace) -> None:
    let_threads_sleep()
    from onceedit_ray.demo import run_demo

    missed = run_demo(load_config(options.config), _say if options.verbose else without_counts(_say))
    _say.close()
    for question in missed:
        print(f"not as it should be: {question}")
    print('\nnext:\n  onceedit generate --model all --shape chat "What is the capital of Australia?"')
    print("  onceedit evaluate     scores every target\n  onceedit serve        answers at http://127.0.0.1:8000/v1")


def _edit(options: argparse.Namespace) -> None:
    let_threads_sleep()
    from onceedit_ray.editing.run import edit_plugin
    from onceedit_ray.knowledge.store import open_store

    version = edit_plugin(load_config(options.config), open_store(), _say)
    print(version.id)


def _prepare(options: argparse.Namespace) -> None:
    let_threads_sleep()
    from onceedit_ray.baselines.material import prepare_baseline

    for model in options.model:
        prepare_baseline(
            options.method, model, _say,
            corpus=options.corpus, training=options.training, edited=options.edits, threads=options.threads,
        )  # fmt: skip
        print(f"{options.method} is ready for {model}")


def _generate(options: argparse.Namespace) -> None:
    from onceedit_ray.editing.run import version_for
    from onceedit_ray.fusion.system import open_decoder
    from onceedit_ray.serving.ask import ask

    config = load_config(options.config)
    targets = list(config.targets) if options.model == "all" else [options.model]
    config.check_targets(targets)
    version = version_for(config, options.version, _say)
    _say(f"version {version.id} answers")
    decoder = open_decoder(config, version, _say, targets)

    async def answer() -> None:
        for target in targets:
            for question in options.prompts:
                if len(options.prompts) > 1:
                    print(f"\n> {question}")
                await ask(decoder, target, question, options)

    asyncio.run(answer())


def _evaluate(options: argparse.Namespace) -> None:
    let_threads_sleep()
    from onceedit_ray.editing.run import edit_plugin
    from onceedit_ray.evaluation.edit_and_evaluate import edit_and_evaluate
    from onceedit_ray.fusion.system import open_decoder
    from onceedit_ray.knowledge.store import open_store

    config = load_config(options.config)
    results = Results(options.results)
    scored = edit_and_evaluate(
        config,
        results,
        f"onceedit evaluate --config {options.config}",
        lambda: edit_plugin(config, open_store(), _say, activate=False),
        lambda version: contextlib.nullcontext(open_decoder(config, version, _say)),
        _say,
    )
    print(f"{scored.table}\n\nresults: {results.named(config.name)}")


def _compare(options: argparse.Namespace) -> int:
    let_threads_sleep()
    from onceedit_ray.comparison.cell_archive import take_archive
    from onceedit_ray.comparison.processes import in_processes
    from onceedit_ray.comparison.run_grid import compare, report_archive

    command = f"onceedit compare --config {options.config}{f' --scale {options.scale}' if options.scale else ''}"
    grid, results = load_grid(options.config, options.scale), Results(options.results)
    if options.cells and options.at_once == 0:
        return report_archive(grid, options.cells, results, command, _say)
    if options.cells:
        take_archive(options.cells, results.folder)
    executor = in_processes(options.at_once) if options.at_once > 0 else None
    return compare(grid, results, command, executor, _say)


def _serve(options: argparse.Namespace) -> None:
    check_extra("serve", "serving")
    prepare_environment()  # before the import of ray, which reads the environment
    from onceedit_ray.cluster.serve_args import ServeArgs
    from onceedit_ray.cluster.serve_here import serve_here
    from onceedit_ray.editing.served_run import servers_of

    servers = servers_of(options.target)
    args = ServeArgs(
        config=options.config and options.config.resolve(),
        servers=servers,
        version=options.version,
        keys_file=options.keys,
        edit_keys_file=options.edit_keys,
        admin_keys_file=options.admin_keys,
        engine_keys=tuple(options.engine_key),
    )
    beside: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if options.playground is not None:
        check_extra("playground", "the playground")
        free_port("127.0.0.1", options.playground, "--playground")
        beside = page_process(options.host, options.port, options.playground)
    serve_here(args, options.host, options.port, _say, beside, options.metrics_port)


def _playground(options: argparse.Namespace) -> None:
    check_extra("playground", "the playground")
    from onceedit_ray.playground.server import serve_page

    serve_page(options.url, options.host, options.port, _say)


def _completion(options: argparse.Namespace) -> None:
    import shtab

    print(shtab.complete(_with_files(_parser()), options.shell))


def _with_files(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, where each argument that is a path is completed as one."""
    import shtab

    for action in parser._actions:  # argparse has no other way to walk a parser
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _with_files(inner)
        elif action.type in (local_path, data_path):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="onceedit", description="Correct a fact once; every LLM you run answers with it."
    )
    parser.add_argument("--version", action="version", version=f"onceedit {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="write a run file and example edits into a folder, to begin with")
    init.add_argument("folder", nargs="?", type=local_path, default=Path("."), metavar="FOLDER", help="default: here")
    init.set_defaults(run=_init)

    demo = commands.add_parser("demo", help="edit once, and show what each target says in chat before and after")
    demo.add_argument("--verbose", action="store_true", help="show bars of what takes time, too")
    _with_config(demo)
    demo.set_defaults(run=_demo)

    models = commands.add_parser("models", help="list and fetch models; add targets to a running server, remove them")
    add_target_actions(add_model_actions(models))

    checking = commands.add_parser("validate", help="check a run file, its data and its names before a long run")
    checking.add_argument("config", type=local_path)
    checking.add_argument("--scale", help="of a grid file: one of its scales")
    add_json(checking)
    checking.set_defaults(run=validate)

    edit = commands.add_parser("edit", help="edit the plug-in once and make the version active")
    _with_config(edit)
    edit.set_defaults(run=_edit)

    add_version_actions(commands.add_parser("versions", help="list, show, activate and delete versions of the plug-in"))
    add_edit_actions(commands.add_parser("edits", help="list, add and delete the edits of a server, or of the store"))
    add_reader_actions(commands.add_parser("reader", help="plug-ins that read facts"))

    prepare = commands.add_parser("prepare", help="compute what a baseline editor needs: statistics, a trained network")
    prepare.add_argument("method", metavar="METHOD", help="a baseline: rome, memit, mend ...")
    prepare.add_argument("--model", action="append", required=True, metavar="MODEL", help="may be given several times")
    prepare.add_argument(
        "--corpus", action="append", default=[], type=local_path, metavar="FILE", help="ordinary texts"
    )
    prepare.add_argument("--training", type=local_path, metavar="FILE", help="the dataset's training part")
    prepare.add_argument(
        "--edits", type=local_path, metavar="FILE", help="the edits to be made, which are left out of the training part"
    )
    prepare.add_argument("--threads", type=int, default=0, metavar="N", help="0: every core")
    prepare.set_defaults(run=_prepare)

    generate = commands.add_parser("generate", help="ask one target, or all of them side by side")
    generate.add_argument("prompts", nargs="+", metavar="PROMPT")
    generate.add_argument("--model", required=True, metavar="NAME", help="a target of the run file, or 'all'")
    generate.add_argument("--shape", default="raw", choices=["raw", "qa", "template", "chat"], help="how it is asked")
    generate.add_argument("--strategy", help="fusion strategy (default: the run file's)")
    generate.add_argument("--max-new-tokens", type=int, metavar="N")
    generate.add_argument("--version", dest="version", metavar="ID", help="plug-in version (default: the run file's)")
    generate.add_argument("--unedited", action="store_true", help="show the unedited target's answer too")
    _with_config(generate)
    generate.set_defaults(run=_generate)

    evaluate = commands.add_parser("evaluate", help="edit if need be, score every target, write results/<run>/")
    _with_results(evaluate)
    _with_config(evaluate)
    evaluate.set_defaults(run=_evaluate)

    comparing = commands.add_parser("compare", help="methods side by side: the cells of a grid file, results/<grid>/")
    comparing.add_argument(
        "--config", type=local_path, required=True, help="a grid file, such as configs/paper_table1.yaml"
    )
    comparing.add_argument("--scale", help="one of the grid file's scales, such as 'small'")
    comparing.add_argument(
        "--at-once",
        type=int,
        default=1,
        metavar="N",
        help="cells computed at the same time; 0: report what is finished",
    )
    _with_results(comparing)
    comparing.add_argument(
        "--cells",
        type=local_path,
        metavar="FILE",
        help="finished cells, such as docs/results/paper_table1/cells.parquet; --at-once 0 needs nothing else",
    )
    comparing.set_defaults(run=_compare)

    serving = commands.add_parser("serve", help="start an OpenAI-compatible server, with every target by its name")
    serving.add_argument("--host", default="127.0.0.1", help="where to listen; other than this machine needs API keys")
    serving.add_argument("--port", type=int, default=8000, metavar="N")
    serving.add_argument(
        "--metrics-port", type=int, metavar="N", help="where Prometheus reads the metrics (default: any free port)"
    )
    serving.add_argument(
        "--keys", type=local_path, metavar="FILE", help="API keys, one a line; also $ONCEEDIT_API_KEYS"
    )
    serving.add_argument(
        "--edit-keys", type=local_path, metavar="FILE", help="keys for editing; also $ONCEEDIT_EDIT_KEYS"
    )
    serving.add_argument(
        "--admin-keys",
        type=local_path,
        metavar="FILE",
        help="keys for adding and removing targets; also $ONCEEDIT_ADMIN_KEYS",
    )
    serving.add_argument(
        "--engine-key",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="a variable with a key that targets added at that address may use; may be repeated",
    )
    serving.add_argument("--version", dest="version", metavar="ID", help="plug-in version (default: the run file's)")
    serving.add_argument(
        "--playground",
        type=int,
        nargs="?",
        const=DEFAULT_PORT,
        metavar="PORT",
        help=f"serve the playground too, in a process of its own at 127.0.0.1 (default port: {DEFAULT_PORT})",
    )
    serving.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="a target that a server of OpenAI's API has, such as llama=http://127.0.0.1:8000/v1 (docs/engines.md); "
        "may be repeated; without --config these are the only targets",
    )
    _with_config(serving)
    serving.set_defaults(run=_serve)

    playground = commands.add_parser("playground", help="a web page to try a server's API")
    playground.add_argument("--url", required=True, help="of the API, such as http://127.0.0.1:8000/v1")
    playground.add_argument(
        "--host", default="127.0.0.1", help="where to listen; other than this machine needs API keys"
    )
    playground.add_argument("--port", type=int, default=DEFAULT_PORT, metavar="N", help="0: any that is free")
    playground.set_defaults(run=_playground)

    completion = commands.add_parser("completion", help="what a shell needs to complete this command")
    completion.add_argument("shell", choices=["bash", "zsh"])
    completion.set_defaults(run=_completion)
    return parser


def _with_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        default=os.environ.get("ONCEEDIT_RESULTS", "results"),
        metavar="PLACE",
        help="a folder, or a URI such as s3://bucket/results (default: $ONCEEDIT_RESULTS, else results)",
    )


def _with_config(parser: argparse.ArgumentParser) -> None:
    places = " or ".join(place.as_posix() for place in PLACES)
    parser.add_argument("--config", type=local_path, metavar="FILE", help=f"run file (default: {places})")
    parser.set_defaults(of_a_run=True)


if __name__ == "__main__":
    sys.exit(main())
