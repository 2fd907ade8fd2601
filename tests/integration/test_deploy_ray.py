"""The files under deploy/ray are whole: what they name is there, and what they start is ours and locked in."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.cli.main import find_verb, parser_for
from headrace.cli.run_cluster import placement
from headrace.runtime import demand
from headrace.runtime.ray_connection import HEALTH

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "ray"


def manifests() -> list[dict[str, Any]]:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in FOLDER.glob("*.yaml")}
    return [one for name in listed for one in yaml.safe_load_all((FOLDER / name).read_text())]


def job() -> dict[str, Any]:
    return next(one["spec"] for one in manifests() if one["kind"] == "RayJob")


def pods() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    cluster = job()["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"], cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group, group["template"]


def test_every_manifest_says_what_it_is() -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests() if one["apiVersion"]]
    assert len(set(names)) == len(names)


def test_the_job_is_a_command_line_of_ours_and_its_places_exist() -> None:
    program, *words = shlex.split(job()["entrypoint"])
    assert program == "headrace"
    read = vars(parser_for(find_verb(words[0])).parse_args(words[1:]))
    assert read["cluster"] == "auto"
    places = placement(read["place"])
    assert set(places.devices) == {"head", "server", "worker"}
    head = demand(places, "head")
    declared = json.loads(json.loads(job()["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["resources"]))
    assert set(head.others) == set(declared)  # the head of the run stays with its disk
    for _, _, template in pods():  # table servers write their parts of a checkpoint wherever they are
        paths = [mount["mountPath"] for mount in template["spec"]["containers"][0]["volumeMounts"]]
        assert any(str(read["checkpoints"]).startswith(f"{path}/") for path in paths)
    mounted = {mount["mountPath"] for mount in next(pods())[2]["spec"]["containers"][0]["volumeMounts"]}
    assert any(str(read["folder"]).startswith(f"{path}/") for path in mounted)
    counts = {"worker": read["workers"], "server": read["servers"], "head": 1}
    cores = sum(demand(places, role).cpus * count for role, count in counts.items())
    room = sum(float(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
               * group.get("replicas", 1) for _, group, _ in pods())  # fmt: skip
    assert cores <= room


def test_ray_is_the_pinned_one_and_asks_for_a_token() -> None:
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned is not None
    cluster = job()["rayClusterSpec"]
    assert cluster["rayVersion"] == pinned[1]
    assert cluster["authOptions"] == {"mode": "token"}
    for group in cluster["workerGroupSpecs"]:
        assert 0 < group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_pods_are_locked_in_and_give_up_a_silent_machine_soon() -> None:
    claims = {one["metadata"]["name"] for one in manifests() if one["kind"] == "PersistentVolumeClaim"}
    for name, _, template in pods():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is (name == "head")  # the autoscaler's
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            assert "persistentVolumeClaim" not in volume or volume["persistentVolumeClaim"]["claimName"] in claims
        for box in pod["containers"]:
            assert box["securityContext"] == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                              "capabilities": {"drop": ["ALL"]}}  # fmt: skip
            assert {"requests", "limits"} <= box["resources"].keys()
            assert {mount["name"] for mount in box["volumeMounts"]} <= volumes.keys()
            assert any(mount["mountPath"] == "/tmp" for mount in box["volumeMounts"])  # where Ray keeps its sessions
            told = {one["name"]: one["value"] for one in box["env"]}
            assert told == {f"RAY_health_check_{what}": str(value) for what, value in HEALTH.items()}


def test_the_network_lets_in_the_runs_own_pods() -> None:
    policy = next(one["spec"] for one in manifests() if one["kind"] == "NetworkPolicy")
    for _, _, template in pods():
        assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ours = policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
    for side, key in (("ingress", "from"), ("egress", "to")):
        allowed = [peer["podSelector"]["matchLabels"] for rule in policy[side] for peer in rule.get(key, ())]
        assert {"app.kubernetes.io/component": ours} in allowed


def test_the_image_adds_to_ours_and_runs_as_nobody_special() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    assert re.findall(r"^FROM (.*)$", text, re.M) == ["headrace:0.1.0"]
    assert re.findall(r"^USER (.*)$", text, re.M)[-1] == "10001:10001"
    named = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["images"][0]["name"]
    assert {box["image"] for _, _, template in pods() for box in template["spec"]["containers"]} == {named}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_puts_the_manifests_together() -> None:
    run = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
