"""What the documentation says is so: examples run, names exist, and nothing that exists is missing.

Examples that need a cluster are parsed here and run in tests/cluster: `kubectl apply -k manifests/overlays/kind`, the samples
and the printed columns in test_lifecycle.py, changes and refusals of quickstart-kind.md in test_changes.py and
test_admission.py, requests to Core and `POST /cache/clear` in test_serving.py, repairs in test_repair.py.
Building images and Docker Compose need Docker: `.ci/run` builds the images, test_manifests.py holds the Compose file.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import Metric
from pydantic import BaseModel
from tests.servers import Server

from cachepolicy import acknowledgement, capabilities, crd, directives, names
from cachepolicy.document import read_document, revision_of
from cachepolicy.durations import Duration
from cachepolicy.quantities import Quantity
from cachepolicy.spec import CachePolicySpec, parse_spec
from cachepolicy_cli import cli as mc
from cachepolicy_cli import completion
from cachepolicy_cli.failure import Exit
from cachepolicy_operator import cli, report
from cachepolicy_operator.metrics import Metrics
from cachepolicy_operator.policyfile import read_policies
from cachepolicy_operator.redis_look import DownReason
from cachepolicy_operator.settings import OperatorSettings
from cachepolicy_operator.validate import refused_edits
from cachepolicy_runtime import CacheRuntime, exposition, keys
from cachepolicy_runtime.asgi.endpoints import openapi
from cachepolicy_runtime.asgi.endpoints.clear import ClearRequest
from cachepolicy_runtime.asgi.endpoints.explain import ExplainRequest
from cachepolicy_runtime.asgi.endpoints.warm import WarmBatch

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "manifests").rglob("README.md")),
]
CACHEPOLICY, RUNTIME, OPERATOR, GATEWAY, CACHING = (
    ROOT / "docs" / name
    for name in ("cachepolicy.md", "runtime.md", "operator.md", "gateway.md", "caching.md")
)
ENDPOINTS, MC = ROOT / "docs" / "endpoints.md", ROOT / "docs" / "mc.md"
SOURCES = {
    "operator": ROOT / "operator" / "cachepolicy_operator",
    "runtime": ROOT / "runtime" / "cachepolicy_runtime",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the line on which it begins."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for page in PAGES
        for text in [page.read_text()]
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        if match[1] in languages
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next one of the same or a higher level, without blocks."""
    match = re.search(rf"^(#+) {re.escape(heading)}$", text := prose(page), re.MULTILINE)
    assert match is not None, f"{page.name} has no heading {heading!r}"
    rest = text[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """Cells of all tables, without their headings."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("|---"):
            found.pop()
        elif line.startswith("|"):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def ids(value: object) -> str:
    return str(value)


# -------------------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("block", blocks("yaml"), ids=ids)
def test_yaml_is_what_it_says(block: Block) -> None:
    """Every CachePolicy in the documentation is one that the API server takes."""
    documents = [item for item in yaml.safe_load_all(block.text) if item]
    assert documents
    if any(item.get("kind") == names.KIND for item in documents):
        found = read_policies(block.text)
        assert not found.problems
        assert len(found.policies) == len(documents)


@pytest.mark.parametrize("block", blocks("json"), ids=ids)
def test_json_is_what_it_says(block: Block) -> None:
    """Documents are such that a reader takes them whole, and reports such that the operator does."""
    content = json.loads(block.text)
    if "redis" in content:
        reading = read_document(block.text.encode())
        assert reading.ignored == ()
        assert set(content) | {"sessions", "embeddingCache", "purge"} == {
            item.alias or name for name, item in type(reading.document).model_fields.items()
        }
    elif "enforces" in content:
        read = acknowledgement.Acknowledgement.from_json(block.text)
        assert read is not None
        assert json.loads(read.to_json()) == content


def test_the_documented_revision_is_explained_as_it_is_made() -> None:
    """A revision has 16 hex digits and depends on neither itself nor the sequence."""
    (block,) = (item for item in blocks("json") if '"requires"' in item.text)
    content = json.loads(block.text)
    assert re.fullmatch("[0-9a-f]{16}", content["revision"])
    assert revision_of(content) == revision_of({**content, "revision": "", "sequence": 1})


async def test_the_documented_answers_have_the_fields_of_real_ones() -> None:
    """/cache/health and /cache/stats, by the shape of what a process in memory answers."""
    runtime = CacheRuntime.from_env(identify=lambda scope: None, environ={})
    answers = {"reasons": runtime.health(), "process": await runtime.stats()}
    for field, real in answers.items():
        (block,) = (item for item in blocks("json") if f'"{field}"' in item.text)
        assert shape(json.loads(block.text)) == shape(real)


def shape(content: Any, path: str = "") -> set[str]:
    """Paths of the fields; below maps that are keyed by names, only the maps."""
    if not isinstance(content, Mapping) or path.endswith(("providers", "stores.state", "stores.cache")):
        return {path}
    return {leaf for key, value in content.items() for leaf in shape(value, f"{path}.{key}")}


# ---------------------------------------------------------------------------------------------------- Python


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No variable of ours is set: the examples run in memory."""
    for variable in environment_variables("runtime"):
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


def executed(block: Block) -> dict[str, Any]:
    # A module of its own: FastAPI looks for annotations where a function was defined.
    module = ModuleType(f"docs_{block.page.stem.lower()}_{block.line}")
    sys.modules[module.__name__] = module
    exec(compile(block.text, str(block), "exec"), module.__dict__)  # noqa: S102 - that is the test
    return module.__dict__


async def client_of(app: Any, headers: Mapping[str, str]) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="https://core.test", headers=dict(headers)
    )


PYTHON = blocks("python")
APPS = [block for block in PYTHON if "app = FastAPI" in block.text]


@pytest.mark.parametrize("block", [block for block in PYTHON if block not in APPS], ids=ids)
def test_python_runs(block: Block, no_environment: pytest.MonkeyPatch) -> None:
    """Examples assert what they promise."""
    executed(block)


@pytest.mark.parametrize("block", APPS, ids=ids)
async def test_an_application_keeps_sessions(block: Block, no_environment: pytest.MonkeyPatch) -> None:
    """The FastAPI examples as they stand: a session counts, health answers, without a limit."""
    app = executed(block)["app"]
    async with app.router.lifespan_context(app), await client_of(app, {}) as client:
        counted = [(await client.post("/visits")).json()["visits"] for _ in range(3)]
        health = (await client.get("/cache/health")).json()
    assert counted == [1, 2, 3]
    assert health["status"] == "up"
    assert health["stores"] == {"state": {"status": "memory"}, "cache": {"status": "memory"}}


async def test_the_application_answers_from_the_cache(no_environment: pytest.MonkeyPatch) -> None:
    """The example of runtime.md: the same request of the same tenant is a hit, one without a key is not cached."""
    (block,) = (block for block in APPS if block.page == RUNTIME)
    app = executed(block)["app"]
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    alice = {"Authorization": "Bearer key-of-alice"}
    async with app.router.lifespan_context(app), await client_of(app, {}) as client:
        first = await client.post("/ask", json=body, headers=alice)
        second = await client.post("/ask", json=body, headers=alice)
        fresh = await client.post("/ask", json=body, headers={**alice, "Cache-Control": "no-cache"})
        stranger = await client.post("/ask", json=body)
    assert first.headers["cache-status"] == "CachePolicy; fwd=uri-miss; fwd-status=200; stored"
    assert re.fullmatch(r"CachePolicy; hit; ttl=\d+", second.headers["cache-status"])
    assert second.headers["age"] == "0"
    assert second.json() == first.json()
    assert fresh.headers["cache-status"] == "CachePolicy; fwd=request; fwd-status=200; stored"
    assert stranger.headers["cache-status"] == "CachePolicy; fwd=bypass; detail=no-identity"


async def test_a_rendered_document_brings_limits_without_the_operator(
    no_environment: pytest.MonkeyPatch, tmp_path: Path, valkey: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """ "Without the operator" of runtime.md, with its own policy and command, on a real server."""
    (policy,) = (block for block in blocks("yaml") if block.page == RUNTIME)
    (tmp_path / "policy.yaml").write_text(policy.text)
    servers = ["--state-url", valkey.url, "--cache-url", valkey.url]
    assert cli.main(["render", str(tmp_path / "policy.yaml"), "--only", "policy.json", *servers]) == 0
    (tmp_path / "policy.json").write_text(capsys.readouterr().out)
    no_environment.setenv("CACHEPOLICY_DIR", str(tmp_path))
    no_environment.setenv("CACHEPOLICY_DEADLINE_MS", "5000")
    (example,) = (block for block in APPS if block.page == RUNTIME)
    app = executed(example)["app"]
    headers = {"Authorization": "Bearer key-of-alice"}
    async with app.router.lifespan_context(app), await client_of(app, headers) as client:
        answers = [await client.post("/visits") for _ in range(21)]
        health = (await client.get("/cache/health")).json()
    assert [answer.status_code for answer in answers] == [200] * 20 + [429]
    assert health["policy"] == "local/shop"
    (documented,) = (json.loads(block.text) for block in blocks("json") if "violated-policies" in block.text)
    refusal = answers[-1].json()
    assert set(refusal) == set(documented)
    assert (refusal["type"], refusal["title"]) == (documented["type"], documented["title"])
    assert {"ratelimit", "ratelimit-policy", "retry-after"} <= set(answers[-1].headers)


# ------------------------------------------------------------------------------------------------- commands


def commands() -> Iterator[tuple[Block, list[str]]]:
    """Every command in a console block, as words; lines that end in a backslash go on."""
    for block in blocks("console"):
        text = block.text.replace("\\\n", " ")
        for line in text.splitlines():
            if line.startswith("$ "):
                yield block, shlex.split(line.removeprefix("$ "), comments=True)


COMMANDS = list(commands())


def named(program: str) -> list[tuple[Block, list[str]]]:
    return [
        (block, words[position + 1 :])
        for block, words in COMMANDS
        for position, word in enumerate(words[:4])
        if word.removeprefix(".venv/bin/") == program and all("=" in before for before in words[:position])
    ]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named("make")
    for block, words in named("make"):
        assert {word for word in words if "=" not in word} <= targets, block


def test_verbs_and_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Every use of kubectl-cachepolicy is one that --help tells of."""
    assert named("kubectl-cachepolicy")
    for block, (verb, *words) in named("kubectl-cachepolicy"):
        with pytest.raises(SystemExit) as ended:
            cli.main([verb, "--help"])
        text = capsys.readouterr().out
        assert ended.value.code == 0, block
        assert all(word in text for word in words if word.startswith("--")), block


def test_every_option_of_dev_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["dev", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    page = ROOT / "docs" / "quickstart-laptop.md"
    assert {option for row in rows(prose(page)) for option in code(row[0])} == options


def test_every_use_of_mc_is_one_that_it_takes() -> None:
    """Parsed by the program itself, up to what the shell does with its output."""
    assert named("mc")
    for block, words in named("mc"):
        own = list(itertools.takewhile(lambda word: not word.startswith(">"), words))
        try:
            mc.parser({}).parse_args(own)
        except SystemExit:
            pytest.fail(f"{block}: mc {' '.join(words)}")


def test_every_option_of_mc_is_documented_with_its_default() -> None:
    """And no other one; variables alike."""
    tables = rows(prose(MC))
    documented = {option for row in tables for option in code(row[0]) if option.startswith("--")}
    parsers = [mc.parser({}), *completion.verbs(completion.verbs(mc.parser({}))["cache"]).values()]
    assert documented == {word for parser in parsers for word in completion.options(parser)} - {"--help"}
    variables = {code(row[1])[0]: row for row in tables if code(row[0]) and row[1].startswith("`MC_")}
    in_code = {
        node.value
        for file in (ROOT / "runtime" / "cachepolicy_cli").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("MC_")
    }
    assert set(variables) == {name for name in in_code if name.isupper()}
    parsed = mc.parser({}).parse_args(["cache", "stats"])
    for row in variables.values():
        field = code(row[0])[0].removeprefix("--").replace("-", "_")
        assert next(iter(code(row[2])), None) == getattr(parsed, field)


def test_exit_codes_of_mc_are_documented() -> None:
    assert [int(row[0]) for row in rows(section(MC, "Exit codes"))] == sorted(Exit)


def test_files_in_commands_exist() -> None:
    """Paths below manifests/ and crds/ are there; generated files are named as prepare.py writes them."""
    prepared = (ROOT / "manifests/compose/prepare.py").read_text()
    for block, words in COMMANDS:
        for path in re.findall(r"(?:manifests|crds)/[\w./-]+", " ".join(words)):
            if "/generated/" in path:
                assert re.match(r"api-key-(alice|bob)$", Path(path).name), block
                assert f'"{path.rpartition("-")[2]}"' in prepared, block
            else:
                assert (ROOT / path).exists(), f"{block}: {path}"


def patches() -> Iterator[tuple[Block, Mapping[str, Any], bool]]:
    """Merge patches of the sample policy, and whether the page says that they are refused."""
    for block in blocks("console"):
        for command, output in re.findall(
            r"^\$ (.*?)$\n((?:^[^$\n].*\n)*)", block.text.replace("\\\n", " "), re.MULTILINE
        ):
            words = shlex.split(command, comments=True)
            if "patch" in words:
                yield block, json.loads(words[words.index("-p") + 1]), "is invalid" in output


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@pytest.mark.parametrize(("block", "patch", "refused"), list(patches()), ids=ids)
def test_patches_are_taken_or_refused_as_told(block: Block, patch: Mapping[str, Any], refused: bool) -> None:
    """Patches of the sample policy, by the models and by the rules of edits."""
    before = yaml.safe_load((ROOT / "manifests/samples/core.yaml").read_text())
    old, new = (parse_spec(policy["spec"]) for policy in (before, merged(before, patch)))
    assert isinstance(old, CachePolicySpec)
    assert refused == (not isinstance(new, CachePolicySpec) or bool(list(refused_edits(old, new))))


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in PAGES:
        for extras in re.findall(r"(?:cachepolicy|'\.)\[([a-z,]+)\]", page.read_text()):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), page
        for script in re.findall(r"`(cachepolicy-gateway|mc)`", page.read_text()):
            assert script in project["scripts"]
    documented = [
        code(row[0])[0] for row in rows(section(ROOT / "README.md", "Requirements")) if code(row[0])
    ]
    assert set(project["optional-dependencies"]) <= set(documented)


def test_modules_that_are_run_exist() -> None:
    for page in PAGES:
        for module in re.findall(r"python -m ((?:cachepolicy)[\w.]+)", page.read_text()):
            assert find_spec(module) is not None, f"{page}: {module}"


# ---------------------------------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """Anchors of headings as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file, and an anchor in it where it has one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_the_text_exist(page: Path) -> None:
    for path in re.findall(r"`((?:operator|runtime|tests|manifests|crds|docs)/[\w./-]+)`", prose(page)):
        assert (ROOT / path).exists() or "/generated" in path, path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_can_be_read(page: Path) -> None:
    """Drawings and prose fit a screen; tables, links and output are as long as they are."""
    text = page.read_text()
    assert text.startswith("# ")
    assert text.count("```") % 2 == 0
    for line in prose(page).splitlines():
        assert len(line) <= 130 or line.startswith("|") or "](" in line, line
    for block in blocks(""):
        if "──" in block.text:
            assert max(map(len, block.text.splitlines())) <= 100, block


# ---------------------------------------------------------------------------------- what there is in the code


def trees(half: str) -> Iterator[ast.Module]:
    for file in sorted(SOURCES[half].rglob("*.py")):
        yield ast.parse(file.read_text())


_VARIABLE = re.compile(
    r"(?:CACHEPOLICY|REDIS|CACHE)_[A-Z_]+|HOST|PORT|POD_NAME|STANDIN_DELAY|FORWARDED_ALLOW_IPS"
)


def environment_variables(half: str) -> set[str]:
    """Names of variables in the code of one half: whole string literals."""
    return {
        node.value
        for tree in trees(half)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _VARIABLE.fullmatch(node.value)
    }


def documented_variables(page: Path) -> dict[str, str]:
    """Variable → default, from the tables of a page."""
    return {
        name[0]: row[1]
        for row in rows(prose(page))
        if (name := code(row[0])) and _VARIABLE.fullmatch(name[0])
    }


def runtime_variables() -> dict[str, str]:
    """Those of the library and those of the reference Core."""
    return documented_variables(RUNTIME) | documented_variables(GATEWAY)


def test_every_variable_of_the_runtime_is_documented() -> None:
    """And no other one; the stand-in's delay stands in the text."""
    assert set(runtime_variables()) == environment_variables("runtime") - {"STANDIN_DELAY"}
    assert "STANDIN_DELAY" in prose(GATEWAY)


def test_every_variable_of_the_operator_is_documented_with_its_default() -> None:
    documented = documented_variables(OPERATOR)
    of_core = {name for name in environment_variables("operator") if name in runtime_variables()}
    assert set(documented) == environment_variables("operator") - of_core | {"POD_NAME"}
    given = {name: code(default)[0] for name, default in documented.items() if code(default)}
    assert OperatorSettings.from_environment(given) == OperatorSettings()
    assert set(documented) - set(given) == {"CACHEPOLICY_WATCH_NAMESPACES"}


def leaves(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Paths of a structural schema's fields that hold no others; "*" for keys of a map, "[]" for items."""
    if "items" in schema:
        yield from leaves(schema["items"], f"{path}[]")
    elif isinstance(schema.get("additionalProperties"), Mapping):
        yield from leaves(schema["additionalProperties"], f"{path}.*")
    elif schema.get("properties"):
        for name, child in schema["properties"].items():
            yield from leaves(child, f"{path}.{name}".lstrip("."))
    else:
        yield path


def test_every_field_of_the_spec_is_documented() -> None:
    """The table has every field of the CRD and none besides, but some that hold other fields."""
    documented = {code(row[0])[0] for row in rows(section(CACHEPOLICY, "Fields of spec"))}
    fields = set(leaves(crd.structural_schema(CachePolicySpec)))
    assert fields <= documented
    assert {
        name for name in documented - fields if not any(leaf.startswith(name) for leaf in fields)
    } == set()


def test_defaults_are_documented_as_the_models_have_them() -> None:
    documented = {
        code(row[0])[0]: ", ".join(code(row[2])) for row in rows(section(CACHEPOLICY, "Fields of spec"))
    }
    actual = dict(defaults(CachePolicySpec))
    told = {"core.podSelector.matchLabels.*", "responseCache.providers.*.ttl", "redis.managed.image"}
    assert {path: text for path, text in documented.items() if text and path not in told} == actual


def defaults(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Path → default of every field that has a value when it is absent."""
    for name, field in model.model_fields.items():
        here = f"{path}{field.alias or name}"
        inner = model_in(field.annotation)
        if inner is not None:
            child, step = inner
            yield from defaults(child, f"{here}{step}.")
        elif field.default is not None and not field.is_required() and field.default not in ({}, ()):
            items = isinstance(field.default, tuple)
            yield here + ("[]" if items else ""), spelled(field.default)


def model_in(annotation: Any) -> tuple[type[BaseModel], str] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, ""
    origin = getattr(annotation, "__origin__", None)
    for argument in getattr(annotation, "__args__", ()):
        if found := model_in(argument):
            step = ".*" if origin is dict else "[]" if origin is tuple else ""
            return found[0], step + found[1]
    return None


def spelled(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ", ".join(default)
    return (
        str(default) if isinstance(default, (Duration, Quantity)) else str(getattr(default, "value", default))
    )


def test_every_field_of_status_is_documented() -> None:
    from cachepolicy.status import CachePolicyStatus

    documented = {name for row in rows(section(CACHEPOLICY, "Fields of status")) for name in code(row[0])}
    fields = set(leaves(crd.structural_schema(CachePolicyStatus)))
    conditions = {field for field in fields if field.startswith("conditions[]")}
    assert documented == fields - conditions | {"conditions[]"}


def test_owned_directives_are_documented() -> None:
    words = set(code(section(CACHEPOLICY, "Directives of redis.conf")))
    assert set(directives.OWNED) | set(directives.OWNED_PREFIXES) <= words


def test_columns_are_documented() -> None:
    (version,) = crd.custom_resource_definition()["spec"]["versions"]
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert [code(row[0])[0] for row in rows(section(CACHEPOLICY, "Columns of kubectl get"))] == columns


def test_condition_types_are_documented() -> None:
    from cachepolicy_operator.conditions import ConditionType

    assert [code(row[0])[0] for row in rows(section(CACHEPOLICY, "Conditions"))] == list(ConditionType)


# --------------------------------------------------------------------------------------------------- reasons

_CONSTRUCTORS = {"true", "false", "unknown"}
_CAMEL = re.compile(r"[A-Z][A-Za-z]+")


def text_of(node: ast.AST | None) -> set[str]:
    """CamelCase literals of an expression: a literal, or either side of a conditional one."""
    if isinstance(node, ast.IfExp):
        return text_of(node.body) | text_of(node.orelse)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and _CAMEL.fullmatch(node.value):
        return {node.value}
    return set()


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            target = node.func
            yield (target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")), node


def condition_reasons() -> set[str]:
    """Reasons that the operator's code can write into a condition."""
    found = {str(reason) for reason in DownReason}
    for tree in trees("operator"):
        for name, call in calls(tree):
            found |= {word for item in call.keywords if item.arg == "reason" for word in text_of(item.value)}
            if name in _CONSTRUCTORS and len(call.args) > 1:
                found |= text_of(call.args[1])
            if name == "Trouble":
                found |= text_of(call.args[0])
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == "_config_findings":
                found |= yielded(node)
            if isinstance(node, ast.Assign) and any(
                isinstance(target, ast.Name) and target.id == "reason" for target in node.targets
            ):
                found |= text_of(node.value)
            if isinstance(node, ast.arguments):
                for argument, default in zip(node.kwonlyargs, node.kw_defaults, strict=True):
                    found |= text_of(default) if argument.arg == "reason" else set()
    return found


def yielded(function: ast.FunctionDef) -> set[str]:
    """First items of the tuples that a function yields."""
    return {
        word
        for node in ast.walk(function)
        if isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple)
        for word in text_of(node.value.elts[0])
    }


def notice_reasons() -> set[str]:
    return {
        word
        for tree in trees("operator")
        for name, call in calls(tree)
        if name == "Notice"
        for word in text_of(call.args[0])
    }


#: Reasons of the kubelet, which the operator hands on.
KUBELET = {"CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "RunContainerError"}


def test_every_reason_is_documented() -> None:
    """And every documented one can be met."""
    documented = {name for row in rows(section(CACHEPOLICY, "Reasons")) for name in code(row[0])}
    assert documented == condition_reasons() | KUBELET


def test_every_event_is_documented() -> None:
    documented = {name for row in rows(section(CACHEPOLICY, "Events")) for name in code(row[0])}
    assert documented == notice_reasons()


def test_reasons_without_a_warning_are_named() -> None:
    """A person who waits for an Event knows which turns record none, and which are no warning."""
    told = set(code(section(CACHEPOLICY, "Events").partition("|")[0]))
    assert told == report._PASSING | report._MEANT | {"Ready", "Enforced"}


def test_every_reason_that_is_not_good_has_advice() -> None:
    advised = {name for row in rows(section(OPERATOR, "Troubleshooting")) for name in code(row[0])}
    good = {"Ready", "Available", "Applied", "Enforced", "Written", "NotLookedAt"}
    assert advised == (condition_reasons() | KUBELET) - good


# ------------------------------------------------------------------------------------------ operator, contract


def test_every_metric_is_documented() -> None:
    documented = {code(row[0])[0]: set(code(row[1])) for row in rows(section(OPERATOR, "Metrics"))}
    assert documented == {
        metric.name + ("_total" if metric.type == "counter" else ""): labels
        for metric, labels in collected(Metrics())
        if metric.name.startswith("cachepolicy_")
    }


def test_every_metric_of_core_is_documented() -> None:
    documented = {
        code(row[0])[0]: tuple(code(row[1])) for row in rows(section(ENDPOINTS, "GET /cache/metrics"))
    }
    assert documented == {
        f"{exposition.PREFIX}{family.name}": family.labels for family in exposition.FAMILIES
    }


def test_every_endpoint_is_documented_and_every_request_is_one_that_it_takes() -> None:
    documented = {
        name.split()[1] for row in rows(prose(ENDPOINTS)) for name in code(row[0]) if " /cache" in name
    }
    assert documented == {f"/cache{path}" for path in openapi.DOCUMENT["paths"]}
    asked = [json.loads(block.text) for block in blocks("json") if block.page == ENDPOINTS]
    assert sum("requests" in body and bool(WarmBatch.model_validate(body)) for body in asked) == 1
    assert sum("tenant" in body and bool(ExplainRequest.model_validate(body)) for body in asked) == 1
    bodies = [cell for row in rows(section(ENDPOINTS, "POST /cache/clear")) for cell in code(row[0])]
    assert all(ClearRequest.model_validate_json(body) for body in bodies)


def collected(metrics: Metrics) -> Iterator[tuple[Metric, set[str]]]:
    """Metrics of the registry with the labels that they are declared with."""
    declared = {
        item._name: set(item._labelnames) for item in vars(metrics).values() if hasattr(item, "_labelnames")
    }
    for metric in metrics.registry.collect():
        yield metric, declared.get(metric.name, set())


def test_permissions_are_documented_as_they_are() -> None:
    role = next(
        item
        for item in yaml.safe_load_all((ROOT / "manifests/base/rbac.yaml").read_text())
        if item["kind"] == "ClusterRole"
    )
    actual = {
        (group or "core", resource): rule["verbs"]
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    documented = {
        (row[0].strip("`"), resource): row[2].split(", ")
        for row in rows(section(OPERATOR, "Permissions"))
        for resource in code(row[1])
    }
    assert documented == actual


def test_key_layout_is_documented() -> None:
    """The table of architecture.md has the rows that the docstring of cachepolicy.keys has."""
    from cachepolicy import keys as layout

    page = ROOT / "docs" / "architecture.md"
    documented = [code(row[0])[0].replace("<tenant>}", "<scope>}") for row in rows(section(page, "Keys"))]
    in_code = re.findall(r"^``((?:P:|cpctl:)[^`]+)``", layout.__doc__ or "", re.MULTILINE)
    assert [key.replace("<digest>", "<d>") for key in documented] == in_code


def test_capabilities_are_documented() -> None:
    assert set(code(section(ROOT / "docs" / "architecture.md", "The document"))) >= capabilities.ALL


def test_what_is_in_a_cache_key_is_documented() -> None:
    words = set(code(section(CACHING, "Response cache")))
    assert set(keys.LISTED_HEADERS) | keys.IGNORED_FIELDS <= words


def test_every_word_of_a_cache_status_is_documented() -> None:
    """Why a cache was not used, and why an answer was not stored: the words that these functions return."""
    in_code = {
        node.value.value
        for file in ("response_places.py", "embeddings.py", "answers.py")
        for node in ast.walk(ast.parse((SOURCES["runtime"] / file).read_text()))
        if isinstance(node, ast.Return)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    tables = rows(section(CACHING, "Cache-Status"))
    documented = {word for row in tables for word in code(row[0]) if "CachePolicy" not in word}
    # Returned by expressions, not by a literal of their own.
    computed = {"empty", "finish-reason", "usage", "credential", "store-unavailable", "no-store"}
    assert documented == in_code | computed
