"""What the project tells people to type, write and read is there, and parses."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from mirror.config import Config
from mirror.setup.clients import make_guide

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
FIRST_SCREEN = README.partition("\n## ")[0]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "mirror/README.md", "deploy/README.md"]

PORT = Config().server.listen[0][1]
MIRROR = f"127.0.0.1:{PORT}"


def _blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", FIRST_SCREEN, re.MULTILINE | re.DOTALL)
    assert found, f"no block of {language} on the first screen"
    return found


def test_the_first_screen_shows_dockers_daemon_json() -> None:
    [block] = _blocks("json")
    assert json.loads(block) == {"registry-mirrors": [f"http://{MIRROR}"]}


def test_the_first_screen_shows_containerds_hosts_toml() -> None:
    [hosts] = [document for document in map(tomllib.loads, _blocks("toml")) if "host" in document]
    assert hosts["server"] == "https://registry-1.docker.io"
    assert hosts["host"] == {f"http://{MIRROR}": {"capabilities": ["pull", "resolve"]}}


def test_the_first_screen_shows_podmans_registries_conf() -> None:
    documents = map(tomllib.loads, _blocks("toml"))
    [[registry]] = [document["registry"] for document in documents if "registry" in document]
    assert registry["location"] == "docker.io"
    assert registry["mirror"] == [{"location": f"{MIRROR}/docker.io", "insecure": True}]


def test_the_first_screen_shows_what_mirror_setup_prints() -> None:
    shown = [*_blocks("json"), *_blocks("toml")]
    for client in ("docker", "containerd", "podman"):
        [file] = [
            file
            for file in make_guide(client, Config(), address="127.0.0.1").files
            if file.path in FIRST_SCREEN
        ]
        assert _parsed(file.content) in [_parsed(block) for block in shown]


def test_the_first_screen_shows_how_to_serve_and_how_to_test() -> None:
    assert {"serve", "test"} <= set(re.findall(r"\bmake (\w+)", FIRST_SCREEN))
    assert f"port {PORT}" in FIRST_SCREEN
    assert f"./{Config().store.root}" in FIRST_SCREEN


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join((CHECKOUT / document).read_text() for document in DOCUMENTS)
    named = set(re.findall(r"(?:\$ |`|^ {4})make (\w+)", text, re.MULTILINE))
    assert named
    assert named - targets == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(document: str) -> None:
    page = CHECKOUT / document
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if "://" not in link and not (target.exists() and anchor in {"", *_anchors(target)}):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_configuration_file_that_is_named_is_there(document: str) -> None:
    for name in set(re.findall(r"\bconfig/[\w-]+\.toml", (CHECKOUT / document).read_text())):
        assert (CHECKOUT / name).is_file(), name


def _parsed(text: str) -> object:
    return json.loads(text) if text.startswith("{") else tomllib.loads(text)


def _anchors(page: Path) -> set[str]:
    """What a forge calls the headings of a page."""
    if page.suffix != ".md":
        return set()
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
