"""Manifests: valid by the real schemas, and by our own checks for what those let pass."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from launch.kubernetes_launches import ASKED, FULL, JOB, LAUNCH_ID, OPTIONS, job_of, launch, plan
from launch.launcher_contract import HOSTILE, SECRETS, shown_secrets

from surge_sweeps.errors import SurgeError
from surge_sweeps.launch.kubernetes import KubernetesLauncher, KubernetesOptions, check_manifest
from surge_sweeps.launch.kubernetes.manifest import manifests
from surge_sweeps.launch.plan import Plan, Resources, Task
from surge_sweeps.launch.target import Target

kubernetes_validate = pytest.importorskip("kubernetes_validate")

#: From the first in which backoffLimitPerIndex is on by default.
VERSIONS = tuple(f"1.{minor}" for minor in range(29, 38))
GOLDEN = Path(__file__).parent / "kubernetes_data" / "job.yaml"

Document = dict[str, Any]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("asked", "options"), [(Resources(), OPTIONS), (ASKED, FULL)], ids=["least", "all"])
def test_manifests_are_valid_by_the_schemas_of(
    version: str, asked: Resources, options: KubernetesOptions
) -> None:
    for document in manifests(plan(resources=asked), options):
        assert kubernetes_validate.validate(document, version, strict=True) == version
    assert check_manifest(manifests(plan(resources=asked), options)) == []


def test_the_schemas_see_a_misspelt_key() -> None:
    job = job_of()
    job["spec"]["paralelism"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, VERSIONS[-1], strict=True)


def test_the_job_reads_as_the_example_does() -> None:
    text = KubernetesLauncher(FULL).describe(launch_of(plan(resources=ASKED)))
    _, _, job = text.rpartition("---\n")
    assert job == GOLDEN.read_text()


def launch_of(given: Plan) -> Any:
    from surge_sweeps.launch.folder import Launch

    return Launch(given, Path("/nowhere"))


def test_what_is_described_is_what_is_made() -> None:
    given = plan(resources=ASKED)
    text = KubernetesLauncher(FULL).describe(launch_of(given))
    assert list(yaml.safe_load_all(text)) == manifests(given, FULL)
    assert text.startswith("# Launch ")
    assert "a loss that diverges is one" in text


def test_the_plan_travels_with_the_folder_of_the_image() -> None:
    config, job = manifests(plan(), replace(OPTIONS, working_folder="/code"))
    travelled = Plan.from_json(config["data"]["plan.json"])
    assert travelled == replace(plan(), working_folder=Path("/code"))
    assert job["spec"]["completions"] == len(travelled.tasks)
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["workingDir"] == "/code"


def test_a_pod_reads_the_plan_where_it_is_told_the_launch_is() -> None:
    spec = job_of()["spec"]["template"]["spec"]
    folder = spec["containers"][0]["command"][-2]
    mounts = {mount["mountPath"]: mount for mount in spec["containers"][0]["volumeMounts"]}
    assert mounts[f"{folder}/plan.json"]["subPath"] == "plan.json"
    assert not mounts[folder].get("readOnly")


def test_without_a_claim_it_says_that_trials_start_over() -> None:
    assert "starts over" in KubernetesLauncher(OPTIONS).describe(launch_of(plan()))
    assert "starts over" not in KubernetesLauncher(FULL).describe(launch_of(plan()))


def test_hostile_names_stay_what_they_are() -> None:
    name = f"{HOSTILE}\n---\nkind: Secret\n# $(JOB_COMPLETION_INDEX)"
    given = plan(name=name, project=name)
    text = KubernetesLauncher(OPTIONS).describe(launch_of(given))
    documents = list(yaml.safe_load_all(text))
    assert [document["kind"] for document in documents] == ["ConfigMap", "Job"]
    travelled = Plan.from_json(documents[0]["data"]["plan.json"])
    assert (travelled.project, travelled.sweeps[0].name) == (name, name)
    assert "$(" not in json.dumps(documents[1])


def test_no_secret_of_the_environment_is_in_a_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SECRETS.items():
        monkeypatch.setenv(variable, value)
    text = KubernetesLauncher(FULL).describe(launch_of(plan(resources=ASKED)))
    assert shown_secrets(text) == []
    assert "name: mlflow" in text


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://127.0.0.1:5000", "the pod itself"),
        ("http://localhost:5000", "the pod itself"),
        ("http://[::1]:5000", "the pod itself"),
        ("postgresql://me@127.9.9.9/mlflow", "the pod itself"),
        ("sqlite:////home/me/mlflow.db", "a file of this machine"),
        ("/home/me/mlruns", "a file of this machine"),
        ("https://me:hunter2@mlflow.example.org", "holds a password"),
        ("http://[bad", "cannot be read"),
        (None, "nothing tells the pods"),
    ],
)
def test_a_store_that_pods_cannot_reach_is_refused(uri: str | None, says: str) -> None:
    with pytest.raises(SurgeError, match=says) as caught:
        manifests(plan(uri=uri), OPTIONS)
    assert caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_the_address_of_a_store_may_come_by_a_secret() -> None:
    assert manifests(plan(uri=None), replace(OPTIONS, env_from_secret=("mlflow",)))


def test_pods_must_be_logged_in_to_wandb() -> None:
    given = plan(uri=None, tracker="wandb", project="me/digits")
    assert manifests(given, replace(OPTIONS, env_from_secret=("wandb",)))
    with pytest.raises(SurgeError, match="nothing logs the pods in") as caught:
        manifests(given, OPTIONS)
    assert "WANDB_API_KEY" in caught.value.hint


def test_without_a_secret_an_address_with_a_password_is_told_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    target = Target.of("digits", "mlflow", "https://me:hunter2@mlflow.example.org")
    with pytest.raises(SurgeError, match="an address with a password in it") as caught:
        manifests(plan(uri=target.uri), OPTIONS)
    assert "--set env_from_secret=NAME" in caught.value.hint
    assert "Give its address with --uri" not in caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_files_must_lie_on_the_claim(tmp_path: Path) -> None:
    claimed = replace(OPTIONS, claim="sweeps", mount_path=str(tmp_path), claim_is_here=True)
    given = plan(uri=None, tracker="files", project=f"{tmp_path}/runs")
    assert manifests(given, claimed)
    for options, project in (
        (replace(claimed, claim=None), f"{tmp_path}/runs"),
        (claimed, "/home/me/runs"),
        (claimed, f"{tmp_path}/../runs"),
    ):
        with pytest.raises(SurgeError, match="be lost with them"):
            manifests(replace(given, project=project), options)


def test_files_on_a_claim_must_be_seen_here(tmp_path: Path) -> None:
    # A folder alone may have been made here by an earlier call.
    (tmp_path / "runs").mkdir()
    given = plan(uri=None, tracker="files", project=f"{tmp_path}/runs")
    claimed = replace(OPTIONS, claim="sweeps", mount_path=str(tmp_path))
    with pytest.raises(SurgeError, match=r"does not see it at .*Mount the claim's file system at"):
        manifests(given, claimed)
    missing = replace(claimed, mount_path=f"{tmp_path}/none", claim_is_here=True)
    with pytest.raises(SurgeError, match="does not see it at"):
        manifests(replace(given, project=f"{tmp_path}/none/runs"), missing)
    (tmp_path / "mount").symlink_to("/dev")
    assert os.path.ismount("/dev")
    mounted = replace(claimed, mount_path=f"{tmp_path}/mount")
    assert manifests(replace(given, project=f"{tmp_path}/mount/runs"), mounted)


@pytest.mark.parametrize(
    ("asked", "says"),
    [(Resources(gpus_per_task=0.5), "whole GPUs"), (Resources(nodes=2), "one pod on one node")],
)
def test_resources_that_a_pod_cannot_have_are_refused(asked: Resources, says: str) -> None:
    with pytest.raises(SurgeError, match=says):
        manifests(plan(resources=asked), OPTIONS)


def test_several_processes_need_no_more_of_the_manifest() -> None:
    given = plan(resources=Resources(gpus_per_task=4, processes_per_node=4))
    container = job_of(given)["spec"]["template"]["spec"]["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"


def test_a_plan_that_is_too_large_is_refused() -> None:
    task = Task("trial", 0, plan().tasks[0].trials)
    with pytest.raises(SurgeError, match="a ConfigMap holds") as caught:
        manifests(plan(tasks=(task,) * 12_000), OPTIONS)
    assert "fewer sweeps" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"image": ""},
        {"image": "me/sweeps; touch owned"},
        {"namespace": "Research"},
        {"namespace": "a.b"},
        {"python": "sh -c"},
        {"working_folder": "code"},
        {"claim": "my_claim"},
        {"mount_path": "data"},
        {"mount_path": "/data/$(HOME)"},
        {"mount_path": "/a:b"},
        {"env_from_secret": ("ok", "not ok")},
        {"image_pull_secrets": ("A",)},
        {"service_account": "Me"},
        {"queue": "my queue"},
        {"node_selector": {"a b": "c"}},
        {"node_selector": {"a": "c d"}},
        {"tolerations": ("a b",)},
        {"tolerations": ("gpu:Sometimes",)},
        {"gpu_resource": "a/b/c"},
        {"at_most": 0},
        {"shared_memory_gb": 0},
        {"grace_seconds": 0},
        {"retries": -1},
        {"keep_hours": -1},
    ],
    ids=str,
)
def test_options_that_kubernetes_would_refuse_are_refused_first(change: dict[str, Any]) -> None:
    with pytest.raises(SurgeError) as caught:
        KubernetesOptions(**{"image": "me/sweeps", **change})
    assert caught.value.hint


# Nearly each passes the schema: `change` spoils a Job that is good otherwise, and `says` is what the checks say of it.
def _set(path: str, value: object) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        *parents, last = [int(key) if key.isdecimal() else key for key in path.split(".")]
        item: Any = document
        for key in parents:
            item = item[key]
        if value is None:
            del item[last]
        else:
            item[last] = value

    return change


POD = "spec.template.spec"
RULES = "spec.podFailurePolicy.rules"
SPOILT: list[tuple[str, Callable[[Document], None], str]] = [
    ("restart", _set(f"{POD}.restartPolicy", "Always"), "restartPolicy is 'Always'"),
    ("restart on failure", _set(f"{POD}.restartPolicy", "OnFailure"), "restartPolicy is 'OnFailure'"),
    ("no mode", _set("spec.completionMode", None), "must be Indexed"),
    ("fewer indexes", _set("spec.completions", 2), "the plan has 3 tasks"),
    ("more indexes", _set("spec.completions", 4), "the plan has 3 tasks"),
    ("nothing at a time", _set("spec.parallelism", 0), "no task ever runs"),
    ("too many at a time", _set("spec.parallelism", 100_001), "above 100,000"),
    ("long name", _set("metadata.name", "s" * 62), "longer than 63"),
    ("dotted name", _set("metadata.name", "a.b"), "holds a '.'"),
    ("bad name", _set("metadata.name", "Surge"), "no name of lower-case"),
    ("bad namespace", _set("metadata.namespace", "My_space"), "no name of a namespace"),
    ("label", _set("metadata.labels.note", "two words"), "is no label"),
    ("long label", _set("metadata.labels.note", "x" * 64), "is no label"),
    ("label's name", _set("metadata.labels.a b", "x"), "no name of a label"),
    ("pod label", _set("spec.template.metadata.labels.note", "a b"), "is no label"),
    ("no limit per index", _set("spec.backoffLimitPerIndex", None), "end all others"),
    ("negative limit", _set("spec.backoffLimitPerIndex", -1), "0 or more"),
    ("failed indexes", _set("spec.maxFailedIndexes", 4), "above completions"),
    ("deadline", _set("spec.activeDeadlineSeconds", 0), "1 or more"),
    ("suspended for ever", _set("spec.suspend", True), "nothing will start it"),
    ("two pods", _set("spec.podReplacementPolicy", "TerminatingOrFailed"), "two pods do one trial"),
    ("no policy", _set("spec.podFailurePolicy", None), "is run again"),
    ("order", lambda job: job["spec"]["podFailurePolicy"]["rules"].reverse(), "above all exit codes"),
    ("failed is ignored", _set(f"{RULES}.2.action", "Ignore"), "must be FailIndex"),
    ("failed ends all", _set(f"{RULES}.2.action", "FailJob"), "must be FailIndex"),
    ("failed is counted", _set(f"{RULES}.2", None), "is run again"),
    ("unknown action", _set(f"{RULES}.2.action", "Retry"), "is none of"),
    ("operator", _set(f"{RULES}.1.onExitCodes.operator", "Is"), "neither In nor NotIn"),
    ("code 0", _set(f"{RULES}.1.onExitCodes.values", [0, 85]), "0 is no exit code"),
    ("order of codes", _set(f"{RULES}.1.onExitCodes.values", [143, 85]), "must rise"),
    ("codes twice", _set(f"{RULES}.1.onExitCodes.values", [85, 85]), "must rise"),
    ("no codes", _set(f"{RULES}.1.onExitCodes.values", []), "between 1 and 255"),
    ("container", _set(f"{RULES}.1.onExitCodes.containerName", "main"), "no container 'main'"),
    ("status", _set(f"{RULES}.0.onPodConditions.0.status", "true"), "in quotes"),
    ("both", _set(f"{RULES}.1.onPodConditions", [{"type": "Ready", "status": "True"}]), "either"),
    ("neither", _set(f"{RULES}.1", {"action": "Ignore"}), "either"),
    ("pod's deadline", _set(f"{POD}.activeDeadlineSeconds", 0), "1 or more"),
    ("renamed container", _set(f"{POD}.containers.0.name", "main"), "no container 'trial'"),
    ("no image", _set(f"{POD}.containers.0.image", None), "needs an image"),
    ("mount of nothing", _set(f"{POD}.containers.0.volumeMounts.0.name", "data"), "no volume 'data'"),
    ("relative mount", _set(f"{POD}.containers.0.volumeMounts.0.mountPath", "data"), "absolute"),
    ("mounted twice", _set(f"{POD}.containers.0.volumeMounts.0.mountPath", "/surge-launch"), "one path"),
    ("another plan", _set(f"{POD}.volumes.2.configMap.name", "other"), "ConfigMap with the plan"),
    ("volume twice", _set(f"{POD}.volumes.1.name", "state"), "two volumes"),
    ("half a GPU", _set(f"{POD}.containers.0.resources", {"limits": {"nvidia.com/gpu": "0.5"}}), "whole"),
    ("amount", _set(f"{POD}.containers.0.resources", {"limits": {"memory": "16 GB"}}), "no amount"),
    (
        "unlimited GPU",
        _set(f"{POD}.containers.0.resources", {"requests": {"nvidia.com/gpu": "1"}}),
        "must be the same",
    ),
    ("secret", _set(f"{POD}.containers.0.env.0", {"name": "WANDB_API_KEY", "value": "x"}), "envFrom"),
    ("password", _set(f"{POD}.containers.0.env.0", {"name": "STORE", "value": "a://b:c@d"}), "envFrom"),
]


@pytest.mark.parametrize(("change", "says"), [item[1:] for item in SPOILT], ids=[item[0] for item in SPOILT])
def test_the_checks_see_what_the_schema_lets_pass(change: Callable[[Document], None], says: str) -> None:
    documents = copy.deepcopy(manifests(plan(), OPTIONS))
    change(documents[1])
    assert any(says in problem for problem in check_manifest(documents)), check_manifest(documents)


def test_most_of_that_really_passes_the_schema() -> None:
    passing = 0
    for _, change, _ in SPOILT:
        job = copy.deepcopy(job_of())
        change(job)
        try:
            kubernetes_validate.validate(job, VERSIONS[-1], strict=True)
            passing += 1
        except kubernetes_validate.ValidationError:
            continue
    assert passing > 0.9 * len(SPOILT)


@pytest.mark.parametrize(
    "documents",
    [[None], ["text", 3], [{"kind": "Job", "apiVersion": "batch/v1"}], [{"kind": "Job", "spec": [1]}]],
    ids=str,
)
def test_the_checks_take_whatever_is_in_a_file(documents: list[object]) -> None:
    assert check_manifest(documents)


@pytest.mark.parametrize(
    "job",
    [
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": None,
            "spec": {"podFailurePolicy": {"rules": [1]}},
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": 3, "labels": {1: 2}},
            "spec": {
                "completions": True,
                "template": {
                    "spec": {"containers": [{"resources": {"limits": {"cpu": {}}}}, 4], "volumes": {}}
                },
            },
        },
    ],
)
def test_the_checks_take_a_job_of_any_shape(job: Document) -> None:
    assert check_manifest([job])


def test_a_plan_that_is_none_is_told() -> None:
    config, job = manifests(plan(), OPTIONS)
    assert any(
        "no plan" in problem for problem in check_manifest([{**config, "data": {"plan.json": "{"}}, job])
    )
    assert any("more than" in problem for problem in check_manifest([config, job, job]))


def test_a_launch_without_options_cannot_be_described(tmp_path: Path) -> None:
    recorded = launch(tmp_path)
    with pytest.raises(SurgeError, match="no image"):
        KubernetesLauncher.of(recorded).describe(recorded)
    assert LAUNCH_ID in JOB


def test_the_check_of_the_guide_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Path(__file__).parents[2] / "docs" / "kubernetes.md"
    if not guide.is_file():
        pytest.skip("the guide is not part of what is installed")
    (code,) = re.findall(r"```python\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    text = KubernetesLauncher(FULL).describe(launch_of(plan(resources=ASKED)))
    (tmp_path / "job.yaml").write_text(text.replace("restartPolicy: Never", "restartPolicy: Always"))
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "restartPolicy is 'Always'" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_the_claims_of_the_guide_are_valid() -> None:
    guide = Path(__file__).parents[2] / "docs" / "kubernetes.md"
    if not guide.is_file():
        pytest.skip("the guide is not part of what is installed")
    (text,) = re.findall(r"```yaml\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    kubernetes_validate.validate(yaml.safe_load(text), VERSIONS[-1], strict=True)
