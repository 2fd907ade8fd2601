"""The files under deploy/ are whole: the tools that are here accept them, and every command line is one of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.cli.main import find_verb, parser_for
from headrace.serve.tokens import make_token, write_tokens

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
ROLES = {"server", "joiner", "learner", "publisher"}
PROGRAM = "/opt/headrace/bin/headrace"


def accepted(words: list[str]) -> dict[str, Any]:
    """What our own parser reads from a command line."""
    return vars(parser_for(find_verb(words[0])).parse_args(words[1:]))


# --- systemd


def options(unit: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_every_role_has_a_unit_and_the_target_wants_them_all() -> None:
    assert {f"headrace-{role}@.service" for role in {*ROLES, "replica"}} <= {unit.name for unit in UNITS}
    wanted = options(DEPLOY / "systemd" / "headrace@.target")["Wants"][0].split()
    assert set(wanted) == {f"headrace-{role}@%i.service" for role in ROLES}


@pytest.mark.parametrize("unit", [u for u in UNITS if u.suffix == ".service"], ids=lambda unit: unit.name)
def test_a_unit_starts_what_it_says_again_and_again_as_nobody_special(unit: Path) -> None:
    said = options(unit)
    program, *words = said["ExecStart"][0].split()
    assert program == PROGRAM
    values = {"${RECIPE}": "my.recipes:shop", "${HOST}": "127.0.0.1", "${PORT}": "8080", "${RUN_FOLDER}": "/x"}
    given = [values.get(word, word) for word in words if not word.startswith("$") or word in values]
    read = accepted(given)
    role = unit.name.removeprefix("headrace-").removesuffix("@.service")
    assert read.get("role", role) == role or role in ("server", "replica")
    assert said["User"] == ["headrace"]
    assert (said["Restart"], said["KillSignal"], said["NoNewPrivileges"]) == (["always"], ["SIGTERM"], ["yes"])
    assert said["StartLimitIntervalSec"] == ["0"]  # it never gives up


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units_and_finds_them_tight(tmp_path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace(PROGRAM, sys.executable)
        (tmp_path / unit.name).write_text(text)
        (tmp_path / unit.name.replace("@.", "@shop.")).write_text(text)
    services = sorted(path.name for path in tmp_path.glob("*@shop.service"))
    run = subprocess.run(["systemd-analyze", "verify", "headrace@shop.target", *services], cwd=tmp_path,
                         capture_output=True, text=True, timeout=60)  # fmt: skip
    assert run.returncode == 0, run.stderr
    ours = [line for line in run.stderr.splitlines() if "headrace" in line]
    assert ours == []
    for service in services:
        run = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", service],
                             cwd=tmp_path, capture_output=True, text=True, timeout=60)  # fmt: skip
        assert run.returncode == 0, run.stdout[-500:] + run.stderr


# --- the image


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_image_is_built_from_files_that_are_here_and_runs_as_nobody_special() -> None:
    known = {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL",
             "ENTRYPOINT", "CMD"}  # fmt: skip
    found = instructions()
    assert {word for word, _ in found} <= known
    for word, rest in found:
        if word == "FROM":
            image = rest.split()[0]
            assert ":" in image
            assert not image.endswith(":latest")
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (DEPLOY.parent / source).exists(), source
    assert [rest for word, rest in found if word == "USER"][-1].split(":")[0].isdigit()
    assert dict(found)["ENTRYPOINT"] == '["headrace"]'


# --- Compose


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_compose_runs_every_role_locked_in() -> None:
    content = compose()
    services = content["services"]
    assert {name.partition("-")[0] for name in services} == ROLES
    for name, service in services.items():
        words = ["my.recipes:shop" if word.startswith("${RECIPE") else word for word in service["command"]]
        read = accepted(words)
        if not name.startswith("server"):
            assert read["role"] == name
            assert "ports" not in service
        else:
            assert (read["host"], str(read["tokens"])) == ("0.0.0.0", "/run/secrets/tokens")
            assert all(port.startswith("127.0.0.1:") for port in service["ports"])
            assert service["healthcheck"]["test"][0] == "CMD"
            assert service["secrets"] == ["tokens"]
        assert (service["read_only"], service["cap_drop"], service["restart"]) == (True, ["ALL"], "always")
        assert "no-new-privileges:true" in service["security_opt"]
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= {*content["volumes"], "./recipes"}
    names = [accepted(["my:r" if w.startswith("${") else w for w in services[name]["command"]])["replica"]
             for name in services if name.startswith("server")]  # fmt: skip
    assert len(set(names)) == len(names)  # acknowledgements are by name


def test_docker_compose_accepts_the_file() -> None:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if subprocess.run(["docker", "compose", "version"], capture_output=True, timeout=60).returncode:
        pytest.skip("docker has no compose here")
    run = subprocess.run(["docker", "compose", "-f", str(DEPLOY / "compose.yaml"), "config", "--quiet"],
                         env={"RECIPE": "my:r", "PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
                         timeout=60)  # fmt: skip
    assert run.returncode == 0, run.stderr


# --- Kubernetes


def manifests() -> list[dict[str, Any]]:
    folder = DEPLOY / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in folder.glob("*.yaml")}
    return [one for name in listed for one in yaml.safe_load_all((folder / name).read_text())]


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for one in manifests():
        if one["kind"] in ("StatefulSet", "Deployment"):
            yield one["metadata"]["name"], one["spec"], one["spec"]["template"]["spec"]


def test_every_manifest_says_what_it_is() -> None:
    seen = set()
    for one in manifests():
        assert {"apiVersion", "kind", "metadata"} <= set(one)
        name = (one["kind"], one["metadata"]["name"])
        assert name not in seen
        seen.add(name)


def test_selectors_select_and_volumes_are_there() -> None:
    labels = {name: spec["template"]["metadata"]["labels"] for name, spec, _ in pods()}
    for one in manifests():
        if one["kind"] == "Service":
            chosen = [name for name, has in labels.items() if one["spec"]["selector"].items() <= has.items()]
            assert len(chosen) == 1
            ports = {port["name"] for _, _, pod in pods() for box in pod["containers"] for port in box.get("ports", [])}
            assert {port["targetPort"] for port in one["spec"]["ports"]} <= ports
    claims = {one["metadata"]["name"] for one in manifests() if one["kind"] == "PersistentVolumeClaim"}
    for name, spec, pod in pods():
        assert spec["selector"]["matchLabels"].items() <= labels[name].items()
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        own = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        for box in pod["containers"]:
            assert {mount["name"] for mount in box["volumeMounts"]} <= volumes.keys() | own


def test_pods_run_every_role_locked_in() -> None:
    roles = set()
    for name, _, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for box in pod["containers"]:
            read = accepted(["my.recipes:shop" if word == "$(RECIPE)" else word for word in box["args"]])
            role = read.get("role", "server")
            assert role == box["name"]
            roles |= {role} if name == "headrace-run" else set()
            context = box["securityContext"]
            assert context == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                               "capabilities": {"drop": ["ALL"]}}  # fmt: skip
            assert {"requests", "limits"} <= box["resources"].keys()
            if role == "server":
                assert str(read["tokens"]) == "/etc/headrace/tokens"
                assert box["readinessProbe"]["httpGet"]["path"] == "/v1/ready"
                assert box["livenessProbe"]["httpGet"]["path"] == "/v1/live"
    assert roles == ROLES


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_puts_the_manifests_together(tmp_path) -> None:
    folder = tmp_path / "kubernetes"
    shutil.copytree(DEPLOY / "kubernetes", folder)
    write_tokens(folder / "tokens", [make_token("web", ["read"])[1]])
    run = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    made = list(yaml.safe_load_all(run.stdout))
    assert {"Secret", "ConfigMap", "StatefulSet", "Deployment", "NetworkPolicy"} <= {one["kind"] for one in made}
    images = {box["image"] for one in made if one["kind"] in ("StatefulSet", "Deployment")
              for box in one["spec"]["template"]["spec"]["containers"]}  # fmt: skip
    assert images == {"headrace:0.1.0"}


def test_no_secret_is_kept_here() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file():
            assert not re.search(r"headrace_[A-Za-z0-9_-]{20,}|PRIVATE KEY|sha256:[0-9a-f]{64}", path.read_text()), path
