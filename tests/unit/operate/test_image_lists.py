"""What lists of images name."""

from pathlib import Path

import pytest

from mirror.operate.image_lists import read_images

PLAIN = """
# what the cluster needs
docker.io/library/python:3.12   # for jobs
ghcr.io/org/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
registry.local:5000/app:1

docker.io/library/python:3.12
"""
COMPOSE = """
name: shop
services:
  db: {image: "postgres:17"}
  web:
    image: ghcr.io/org/web:1
    volumes: [data:/data, {type: image, source: x}]
  built: {build: .}
volumes: {data: {}}
"""
KUBERNETES = """
apiVersion: v1
kind: Pod
spec:
  initContainers: [{name: i, image: "busybox:1"}]
  containers: [{name: a, image: "nginx:1"}, {name: b}]
  ephemeralContainers: [{name: e, image: "debug:1"}]
  volumes: [{name: v, image: {reference: "model:1"}}, {name: w, emptyDir: {}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: x, annotations: {image: "no:1"}}
spec: {template: {spec: {containers: [{image: "deployment:1"}]}}}
---
apiVersion: batch/v1
kind: CronJob
spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: "cron:1"}]}}}}}
---
---
apiVersion: v1
kind: List
items: [{kind: StatefulSet, spec: {template: {spec: {containers: [{image: "nginx:1"}]}}}}]
"""


def names(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "list"
    path.write_text(text, encoding="utf-8")
    return read_images(path)


def test_a_plain_list_has_an_image_on_each_line(tmp_path: Path) -> None:
    assert names(tmp_path, PLAIN) == [
        "docker.io/library/python:3.12",
        "ghcr.io/org/app@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "registry.local:5000/app:1",
    ]
    assert names(tmp_path, "\ufeffpython") == ["python"]


def test_a_compose_file_names_those_of_its_services(tmp_path: Path) -> None:
    assert names(tmp_path, COMPOSE) == ["postgres:17", "ghcr.io/org/web:1"]


def test_kubernetes_manifests_name_those_of_all_containers(tmp_path: Path) -> None:
    found = ["nginx:1", "busybox:1", "debug:1", "model:1", "deployment:1", "cron:1"]
    assert names(tmp_path, KUBERNETES) == found


ALIASES = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + it)}: &{chr(98 + it)} [{', '.join([f'*{chr(97 + it)}'] * 9)}]\n" for it in range(9)
)


@pytest.mark.parametrize(
    "text",
    ["", "# nothing", "services: {a: {build: .}}", "services: [", ALIASES,
     "a: " + "[" * 5000 + "]" * 5000, "a: &a [*a]"],
)  # fmt: skip
def test_what_is_no_list_of_images_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"list"):
        names(tmp_path, text)


def merging(levels: int) -> str:
    lines = (
        f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 9)}]}}"
        for level in range(1, levels)
    )
    return "\n".join(["a0: &a0 {k: v}", *lines, "services: {a: {image: x}}"])


ALIASED = "base: &a [" + ", ".join(["{}"] * 2000) + "]\nitems:\n" + "- {containers: *a}\n" * 2000


@pytest.mark.parametrize(
    "content",
    [
        merging(40), ALIASED, "a: " + "[" * 300_000 + "]" * 300_000, "a: &a {<<: *a}",
        "a: !!timestamp abc", "a: !!int ''", "a: !!bool x",
    ],
    ids=["merged", "aliased", "deep", "itself", "time", "number", "truth"],
)  # fmt: skip
def test_a_list_that_is_made_to_do_harm_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "list"
    file.write_text(content)
    with pytest.raises(ValueError, match=f"{file} is|no list of images|names no image"):
        read_images(file)


def test_what_compose_files_share_by_merging_is_read(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        "x-web: &web {image: 'web:1', restart: always}\n"
        "x-all: &all {<<: *web, init: true}\n"
        "services: {a: {<<: [*all, *web]}, b: {<<: *all, image: 'b:1'}}\n"
    )
    assert read_images(file) == ["web:1", "b:1"]
