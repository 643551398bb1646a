"""What people apply, run and build: manifests, samples, the compose file, image names."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cachepolicy import names
from cachepolicy.document import read_document
from cachepolicy.spec import CachePolicySpec, name_refusal, parse_spec
from cachepolicy_operator import render
from cachepolicy_operator.policyfile import read_policies
from cachepolicy_operator.render import render_document
from cachepolicy_operator.resources.network_policy import OPERATOR_LABELS
from cachepolicy_operator.settings import OperatorSettings

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
BUILDS = ("base", "overlays/kind")
SAMPLES = sorted((MANIFESTS / "samples").glob("*.yaml"))

Object = dict[str, Any]


def kustomize(folder: Path) -> list[Object]:
    """The objects of a kustomization; skips where there is no kubectl to build it."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH: kustomizations cannot be built here")
    built = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=50
    )
    assert built.returncode == 0, built.stderr
    return [item for item in yaml.safe_load_all(built.stdout) if item]


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def containers(deployment: Object) -> list[Object]:
    return list(deployment["spec"]["template"]["spec"]["containers"])


# ------------------------------------------------------------------------------------------------ Kubernetes


@pytest.mark.parametrize("build", BUILDS)
def test_a_build_brings_the_crd_and_the_operator(build: str) -> None:
    """Every entry point for a cluster is complete: one apply is enough."""
    objects = kustomize(MANIFESTS / build)
    crd = of_kind(objects, "CustomResourceDefinition")[f"{names.PLURAL}.{names.GROUP}"]
    assert crd == yaml.safe_load((ROOT / "crds" / "cachepolicies.yaml").read_text())
    assert "cachepolicy-operator" in of_kind(objects, "Deployment")


@pytest.mark.parametrize("build", BUILDS)
def test_every_pod_is_allowed_in_a_restricted_namespace(build: str) -> None:
    """Pod Security Standards, level restricted, and a root file system that nothing writes to."""
    objects = kustomize(MANIFESTS / build)
    for deployment in of_kind(objects, "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) & {"projected", "secret", "emptyDir"} for volume in pod.get("volumes", []))
        for container in containers(deployment):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert set(container["resources"]) == {"requests", "limits"}
            assert container["readinessProbe"]


@pytest.mark.parametrize("build", BUILDS)
def test_every_namespace_refuses_other_pods(build: str) -> None:
    for namespace in of_kind(kustomize(MANIFESTS / build), "Namespace").values():
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_operator_may_not_list_secrets_and_nothing_by_wildcard() -> None:
    """Least privilege: secrets one by one, no '*', no write to a CachePolicy but to its status."""
    role = of_kind(kustomize(MANIFESTS / "base"), "ClusterRole")["cachepolicy-operator"]
    verbs: dict[str, set[str]] = {}
    for rule in role["rules"]:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        for resource in rule["resources"]:
            verbs.setdefault(resource, set()).update(rule["verbs"])
    assert verbs["secrets"] == {"get", "create", "patch"}
    assert verbs["cachepolicies"] == {"get", "list", "watch"}
    assert verbs["cachepolicies/status"] == {"update"}
    assert verbs["persistentvolumeclaims"] == {"list", "patch"}
    assert not any("exec" in resource or "finalizers" in resource for resource in verbs)


def test_the_network_policy_lets_in_the_operator_that_is_deployed() -> None:
    deployment = of_kind(kustomize(MANIFESTS / "base"), "Deployment")["cachepolicy-operator"]
    assert deployment["spec"]["template"]["metadata"]["labels"].items() >= OPERATOR_LABELS.items()
    assert deployment["metadata"]["namespace"] == render.OPERATOR_NAMESPACE


def test_the_overlay_for_one_namespace_has_roles_only_and_the_same_rules() -> None:
    objects = kustomize(MANIFESTS / "overlays/namespaced")
    kinds = {item["kind"] for item in objects}
    assert kinds == {"ServiceAccount", "Role", "RoleBinding", "Deployment"}
    assert {item["metadata"]["namespace"] for item in objects} == {"masterclaw"}
    cluster = of_kind(kustomize(MANIFESTS / "base"), "ClusterRole")["cachepolicy-operator"]
    assert of_kind(objects, "Role")["cachepolicy-operator-policies"]["rules"] == cluster["rules"]
    (container,) = containers(of_kind(objects, "Deployment")["cachepolicy-operator"])
    watched = {item["name"]: item.get("valueFrom") for item in container["env"]}
    assert watched["CACHEPOLICY_WATCH_NAMESPACES"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}
    for binding in of_kind(objects, "RoleBinding").values():
        (subject,) = binding["subjects"]
        assert subject["namespace"] == "masterclaw"


def test_controllers_of_service_binding_may_find_the_binding() -> None:
    role = of_kind(kustomize(MANIFESTS / "base"), "ClusterRole")["cachepolicy-servicebinding"]
    assert role["metadata"]["labels"] == {"servicebinding.io/controller": "true"}
    (rule,) = role["rules"]
    assert (rule["resources"], rule["verbs"]) == (["cachepolicies"], ["get", "list", "watch"])


def test_the_operator_deployment_agrees_with_its_settings() -> None:
    """Environment and ports of the Deployment are such that the operator takes them."""
    deployment = of_kind(kustomize(MANIFESTS / "base"), "Deployment")["cachepolicy-operator"]
    (container,) = containers(deployment)
    given = {item["name"]: item.get("value", "any-name") for item in container["env"]}
    settings = OperatorSettings.from_environment(given)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"metrics": settings.metrics_port, "health": settings.health_port}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"  # a Lease says which one acts
    assert deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_kind_uses_the_images_that_make_builds() -> None:
    makefile = (ROOT / "Makefile").read_text()
    built = set(re.findall(r"^(?:OPERATOR|CORE)_IMAGE := (\S+)$", makefile, re.MULTILINE))
    used = {
        container["image"]
        for deployment in of_kind(kustomize(MANIFESTS / "overlays/kind"), "Deployment").values()
        for container in containers(deployment)
    }
    assert used == built == {"cachepolicy-operator:dev", "cachepolicy-core:dev"}


def test_only_core_is_a_consumer() -> None:
    """The label on any other pod would count it as Core and wait for its acknowledgement."""
    deployments = of_kind(kustomize(MANIFESTS / "overlays/kind"), "Deployment")
    labelled = {
        name: item["spec"]["template"]["metadata"]["labels"].get(names.LABEL_POLICY)
        for name, item in deployments.items()
    }
    assert labelled == {"core": "core", "standin": None, "cachepolicy-operator": None}


def test_the_sample_api_keys_are_the_ones_that_its_comment_names() -> None:
    """They are samples and say so; only their hashes stand in the Secret."""
    text = (MANIFESTS / "overlays/kind/core/api-keys.yaml").read_text()
    people = re.findall(r"^#   (sample-key-\S+) +(\S+) +(\S+)$", text, re.MULTILINE)
    entries = json.loads(yaml.safe_load(text)["stringData"]["keys.json"])
    assert entries == {
        hashlib.sha256(key.encode()).hexdigest(): {"tenant": tenant, "user": user}
        for key, tenant, user in people
    }
    assert "Replace them" in text


# --------------------------------------------------------------------------------------- consumer component


def readme_blocks() -> dict[str, str]:
    """YAML blocks of the component's README, the later ones of a file after the earlier ones."""
    text = (MANIFESTS / "components/consumer/README.md").read_text()
    blocks: dict[str, str] = {}
    for name, body in re.findall(r"```yaml\n# (\S+)\n(.*?)```", text, re.DOTALL):
        blocks[name] = blocks.get(name, "") + body
    return blocks


def policy_sources(pod: Mapping[str, Any]) -> list[str]:
    (volume,) = (item for item in pod["volumes"] if item["name"] == "cachepolicy")
    sources = [source.get("configMap") or source["secret"] for source in volume["projected"]["sources"]]
    assert all(source["optional"] is True for source in sources)
    return [source["name"] for source in sources]


@pytest.mark.parametrize(("replaced", "policy"), [(False, "core"), (True, "chat-policy")])
def test_the_component_connects_a_deployment_as_its_readme_says(
    tmp_path: Path, replaced: bool, policy: str
) -> None:
    """The README's own lines, for the policy "core" and for one of another name (with a dash in it)."""
    shutil.copytree(MANIFESTS / "components", tmp_path / "components")
    app = tmp_path / "apps" / "chat"
    app.mkdir(parents=True)
    kustomization = yaml.safe_load(readme_blocks()["kustomization.yaml"])
    if not replaced:
        del kustomization["replacements"]
    (app / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    annotations = {f"{names.GROUP}/consumer": "true", names.LABEL_POLICY: policy}
    (app / "deployment.yaml").write_text(
        yaml.safe_dump_all(
            [deployment("chat", "core", annotations=annotations), deployment("other", "other", {})]
        )
    )
    built = of_kind(kustomize(app), "Deployment")
    assert built["other"] == deployment("other", "other", {})

    template = built["chat"]["spec"]["template"]
    assert template["metadata"]["labels"] == {"app": "chat", names.LABEL_POLICY: policy}
    (container,) = template["spec"]["containers"]
    environment = {item["name"]: item for item in container["env"]}
    assert environment["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    (mount,) = container["volumeMounts"]
    assert mount["mountPath"] == environment["CACHEPOLICY_DIR"]["value"]
    assert "subPath" not in mount  # such a file never follows a change
    assert policy_sources(template["spec"]) == [
        names.core_config_map(policy),
        names.core_secret(policy),
        names.core_keys_secret(policy),
    ]


def deployment(name: str, container: str, annotations: dict[str, str]) -> Object:
    metadata: Object = {"name": name} | ({"annotations": annotations} if annotations else {})
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": container, "image": "example.com/app:1"}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
    }


# --------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_valid(sample: Path) -> None:
    item = yaml.safe_load(sample.read_text())
    assert (item["apiVersion"], item["kind"]) == (names.API_VERSION, names.KIND)
    assert item["metadata"]["namespace"] == "masterclaw"
    assert item["metadata"]["name"] == sample.stem
    assert name_refusal(sample.stem) is None
    assert isinstance(parse_spec(item["spec"]), CachePolicySpec)


def field_names(schema: Mapping[str, Any]) -> Iterator[str]:
    for definition in (schema, *schema["$defs"].values()):
        yield from definition.get("properties", {})


def test_the_complete_sample_names_every_field() -> None:
    """Whoever reads core.yaml has seen every field; those best left out stand there as comments."""
    text = (MANIFESTS / "samples" / "core.yaml").read_text()
    fields = set(field_names(CachePolicySpec.model_json_schema(by_alias=True)))
    missing = {name for name in fields if not re.search(rf"\b{name}:", text)}
    assert not missing


# --------------------------------------------------------------------------------------------------- compose


def compose() -> Object:
    loaded: Object = yaml.safe_load((MANIFESTS / "compose" / "docker-compose.yaml").read_text())
    return loaded


def test_compose_publishes_core_alone_and_only_on_this_machine() -> None:
    services = compose()["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"core-1", "core-2"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    assert compose()["networks"]["private"] == {"internal": True}
    assert all(services[name]["networks"] == ["private"] for name in ("state", "cache", "standin"))


def test_compose_core_waits_until_redis_says_pong() -> None:
    services = compose()["services"]
    for server in ("state", "cache"):
        assert services[server]["healthcheck"]["test"][1].endswith("| grep -qx PONG")
        for core in ("core-1", "core-2"):
            assert services[core]["depends_on"][server] == {"condition": "service_healthy"}


def test_compose_keeps_state_on_a_volume_and_the_cache_in_memory() -> None:
    services = compose()["services"]
    assert "state:/data" in services["state"]["volumes"]
    assert services["cache"]["tmpfs"] == ["/data"]


def test_compose_mounts_only_what_is_prepared_and_holds_no_secret(tmp_path: Path) -> None:
    """Every folder that the compose file mounts is one that prepare.py writes, readable by the containers' users."""
    prepare_into(tmp_path / "generated")
    for service in compose()["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                folder = tmp_path / source
                assert volume.endswith(":ro")
                assert stat.S_IMODE(folder.stat().st_mode) == 0o755
                assert all(file.stat().st_mode & stat.S_IROTH for file in folder.iterdir())
    assert stat.S_IMODE((tmp_path / "generated").stat().st_mode) == 0o700
    assert "generated/" in (ROOT / ".gitignore").read_text()


def test_compose_document_is_the_one_that_render_prints(tmp_path: Path) -> None:
    prepare_into(tmp_path / "generated")
    document = read_document((tmp_path / "generated/policy/policy.json").read_bytes()).document
    module = prepare_module()
    (manifest,) = read_policies(module.SAMPLE.read_text()).policies
    assert document.revision == render_document(manifest, module.ENDPOINTS).revision


def test_preparing_again_keeps_secrets_and_moves_the_document_on(tmp_path: Path) -> None:
    """Running replicas take the new document, and their passwords still work."""
    target = tmp_path / "generated"
    prepare_into(target)
    before = {file: file.read_bytes() for file in target.rglob("*") if file.is_file()}
    first = read_document((target / "policy/policy.json").read_bytes()).document
    prepare_into(target)
    assert {file: file.read_bytes() for file in target.rglob("*") if file.is_file()} == before

    prepare_into(target, change=("limit: 60", "limit: 61"))
    changed = {file for file, content in before.items() if file.read_bytes() != content}
    assert changed == {target / "policy/policy.json"}
    second = read_document((target / "policy/policy.json").read_bytes()).document
    assert second.sequence > first.sequence
    assert second.revision != first.revision


def prepare_module() -> Any:
    spec = importlib.util.spec_from_file_location("compose_prepare", MANIFESTS / "compose" / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepare_into(target: Path, change: tuple[str, str] | None = None) -> None:
    module = prepare_module()
    text = module.SAMPLE.read_text()
    (manifest,) = read_policies(text.replace(*change) if change else text).policies
    module.prepare(manifest, target, now_ms=1_800_000_000_000)


# ---------------------------------------------------------------------------------------------------- images


def test_makefile_and_dockerfile_pin_one_uv() -> None:
    in_makefile = re.findall(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    in_dockerfile = re.findall(r"^ARG UV_VERSION=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert in_makefile == in_dockerfile
    assert len(in_makefile) == 1


def test_images_run_as_a_numeric_user() -> None:
    """runAsNonRoot can check a number; a name it cannot."""
    users = re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert users == ["65532:65532"]
