"""``kubectl-cachepolicy``: what a person does with CachePolicies beside ``kubectl``.

As ``kubectl-cachepolicy`` on PATH it is also ``kubectl cachepolicy``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from cachepolicy.document import Endpoint
from cachepolicy.names import Role
from cachepolicy_operator import edits, render, validate
from cachepolicy_operator.settings import DEFAULT_REDIS_IMAGE

OK, WRONG, USAGE = 0, 1, 2
_EXIT_CODES = """\
exit codes:
  0  everything asked for was done; every file is valid
  1  a CachePolicy is wrong or, for status, not ready; the stack could not run, or the cluster refused; the reason is
     on standard error
  2  wrong use, or a file that cannot be read
"""
_EDITS = {
    "pause": edits.PAUSE,
    "resume": edits.RESUME,
    "hibernate": edits.HIBERNATE,
    "wake": edits.WAKE,
}
_GITOPS = """
It changes the CachePolicy in the cluster, and warns where Argo CD or Flux keeps that as it is in Git."""
_PLAN = """
The API server checks the file without storing it, and what the operator would do is worked out from the objects that
are there. It needs the right to read them, Secrets included. Effects: Rejected, Recreate (a StatefulSet around its
running pod), Delete, Restart (of a Redis pod), Create, Live. A directive of redis.conf is told as Live; where Redis takes
it at its start only, it is tried first and costs one restart."""
_RENDER = """
Secrets hold placeholders: the real values are made in the cluster, once. Directives of spec.redis.managed.*.config
are left out: Redis takes them live, and what it took is written into its file."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except validate.UnreadableFileError as error:
        print(error, file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # the reader (head, less) has left
        sys.stderr.close()
        return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kubectl-cachepolicy",
        description="Check CachePolicies, see what the operator makes of them, and run one on this machine.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_validate(_verb(verbs, "validate", "check files offline, by the same rules as the operator's"))
    _add_render(
        _verb(verbs, "render", "print every object that the operator makes of a CachePolicy", _RENDER)
    )
    _add_plan(_verb(verbs, "plan", "tell what applying a file would change in the cluster, and how", _PLAN))
    _add_status(_verb(verbs, "status", "show a CachePolicy in the cluster: conditions, Redis, Core, objects"))
    for name, change in _EDITS.items():
        _add_edit(_verb(verbs, name, change.said.partition(": ")[2], _GITOPS), change)
    _add_rotate(_verb(verbs, "rotate", "replace Core's password in Redis; no connection is lost", _GITOPS))
    _add_purge(_verb(verbs, "purge", "empty the caches of a CachePolicy, or one scope of them", _GITOPS))
    _add_dev(_verb(verbs, "dev", "run a CachePolicy here: Redis, two replicas of Core, a stand-in provider"))
    return parser


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, more: str = ""
) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.{more}",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


# ------------------------------------------------------------------------------------------------ validate


def _add_validate(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "files", nargs="+", metavar="FILE", help="YAML of one or more documents; - is standard input"
    )
    verb.set_defaults(run=_validate)


def _validate(options: argparse.Namespace) -> int:
    return OK if validate.validate(options.files, sys.stdout, sys.stderr) else WRONG


# -------------------------------------------------------------------------------------------------- render


def _add_render(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("file", metavar="FILE", help="YAML with one CachePolicy; - is standard input")
    verb.add_argument(
        "--only", choices=render.PARTS, help="print this file's content alone, without the object around it"
    )
    verb.add_argument(
        "--default-image",
        metavar="IMAGE",
        default=DEFAULT_REDIS_IMAGE,
        help="image where spec.redis.managed.image is absent (%(default)s)",
    )
    for role in Role:
        verb.add_argument(
            f"--{role}-url",
            type=_url,
            metavar="URL",
            help=f"address of the {role} server in policy.json instead of its Service, such as redis://{role}:6379",
        )
    verb.set_defaults(run=_render)


def _render(options: argparse.Namespace) -> int:
    manifest = validate.one_policy(options.file, sys.stderr)
    if manifest is None:
        return WRONG
    endpoints = {role: url for role in Role if (url := getattr(options, f"{role}_url"))}
    objects = render.render_objects(manifest, options.default_image, endpoints)
    if options.only is None:
        for sentence in render.directives_left_out(manifest):
            print(f"# {sentence}")
        render.write_yaml(objects, sys.stdout)
        return OK
    try:
        sys.stdout.write(render.render_part(objects, manifest.name, options.only))
    except render.NoSuchPartError as error:
        print(error, file=sys.stderr)
        return WRONG
    return OK


def _url(text: str) -> str:
    try:
        return Endpoint(url=text).url
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise argparse.ArgumentTypeError(f"{reason}; such as redis://state:6379") from None


# ------------------------------------------------------------------------------------------------ cluster


def _add_cluster(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("name", metavar="NAME", help="name of the CachePolicy")
    verb.add_argument("-n", "--namespace", help="its namespace (that of the current context)")
    verb.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig (KUBECONFIG, else ~/.kube/config)")


def _add_plan(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("-f", "--file", required=True, metavar="FILE", help="YAML with one CachePolicy")
    verb.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig (KUBECONFIG, else ~/.kube/config)")
    verb.add_argument(
        *("-o", "--output"), choices=("tree", "json", "yaml"), default="tree", help="form (%(default)s)"
    )
    verb.add_argument(
        "--default-image",
        metavar="IMAGE",
        default=DEFAULT_REDIS_IMAGE,
        help="image of a new policy that names none (%(default)s)",
    )
    verb.add_argument(
        "--operator-namespace",
        metavar="NAMESPACE",
        default=render.OPERATOR_NAMESPACE,
        help="where the operator runs (%(default)s)",
    )
    verb.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from cachepolicy_operator import verbs

    manifest = validate.one_policy(options.file, sys.stderr)
    if manifest is None:
        return WRONG
    content = yaml.safe_load(validate.read_text(options.file))
    return verbs.plan(options, manifest, content)


def _add_status(verb: argparse.ArgumentParser) -> None:
    _add_cluster(verb)
    verb.add_argument("-w", "--watch", action="store_true", help="show it again whenever it changes")
    verb.add_argument(
        *("-o", "--output"), choices=("tree", "json", "yaml"), default="tree", help="form (%(default)s)"
    )
    verb.set_defaults(run=_status)


def _status(options: argparse.Namespace) -> int:
    from cachepolicy_operator import verbs

    return verbs.status(options)


def _add_edit(verb: argparse.ArgumentParser, change: edits.Edit) -> None:
    _add_cluster(verb)
    verb.set_defaults(run=_edit, change=change)


def _edit(options: argparse.Namespace) -> int:
    from cachepolicy_operator import verbs

    return verbs.edit(options, options.change)


def _add_rotate(verb: argparse.ArgumentParser) -> None:
    _add_cluster(verb)
    verb.set_defaults(run=_rotate)


def _rotate(options: argparse.Namespace) -> int:
    from cachepolicy_operator import verbs

    return verbs.rotate(options)


def _add_purge(verb: argparse.ArgumentParser) -> None:
    _add_cluster(verb)
    scopes = verb.add_mutually_exclusive_group()
    scopes.add_argument("--kind", choices=("responses", "embeddings"), help="one of the two caches")
    for name in ("tenant", "provider", "model", "tag"):
        scopes.add_argument(
            f"--{name}", help=f"what is cached of this {name}; without any option: everything"
        )
    verb.set_defaults(run=_purge)


def _purge(options: argparse.Namespace) -> int:
    from cachepolicy_operator import verbs

    return verbs.purge(options)


# ----------------------------------------------------------------------------------------------------- dev


def _add_dev(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("file", metavar="FILE", help="YAML with one CachePolicy; edits of it are followed")
    verb.add_argument(
        "--port", type=_port, default=8080, help="port of the first replica on 127.0.0.1 (%(default)s)"
    )
    verb.add_argument(
        "--replicas",
        type=int,
        default=2,
        choices=range(1, 9),
        metavar="1…8",
        help="replicas of Core (%(default)s)",
    )
    verb.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="data folder (default: below $XDG_STATE_HOME, by namespace and name)",
    )
    verb.add_argument("--upstream", metavar="URL", help="base URL of a real provider instead of the stand-in")
    verb.add_argument("--upstream-api-key-file", type=Path, metavar="FILE", help="file with its API key")
    verb.set_defaults(run=_dev)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 65535, not {text[:20]!r}")
    return int(text)


def _dev(options: argparse.Namespace) -> int:
    from cachepolicy_operator.dev import run

    return OK if run(options) else WRONG


if __name__ == "__main__":
    sys.exit(main())
