"""What ships in `deploy/` is true: it loads, it fits together, and the names in it exist."""

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mirror.config import Config, load, parse
from mirror.config.units import parse_duration
from mirror.setup.clients import CLIENTS, make_guide
from mirror.shared.address import parse_address
from mirror.telemetry.collectors import StoreTotals
from mirror.telemetry.metrics import FillOutcome, Metrics, NoticeOutcome
from mirror.telemetry.shared import TABLES, BlobFigures, SharedFigures
from mirror.telemetry.traffic import Kind, Result, Sort
from tests.support.mirror import running_mirror, upstream_at
from tests.support.process import run
from tests.support.require import require

CHECKOUT = Path(__file__).parents[2]
DEPLOY = CHECKOUT / "deploy"
PROMETHEUS = DEPLOY / "prometheus"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
KUBERNETES = (DEPLOY / "kubernetes" / "mirrors.yaml").read_text()
README = (DEPLOY / "README.md").read_text()
UNIT = (DEPLOY / "mirror.service").read_text()
RULES = (PROMETHEUS / "rules.yml").read_text()
ALERTS = (PROMETHEUS / "alerts.yml").read_text()
DASHBOARD = (DEPLOY / "grafana" / "mirror.json").read_text()
QUERIES = RULES + ALERTS + DASHBOARD.replace('\\"', '"')

DRAIN_SECONDS = Config().server.drain_timeout


async def test_prometheus_accepts_the_scrape_configuration_and_all_rules() -> None:
    require("promtool")
    await run("promtool", "check", "config", PROMETHEUS / "prometheus.yml")


async def test_the_rules_compute_and_the_alerts_fire_as_their_tests_say() -> None:
    require("promtool")
    await run("promtool", "test", "rules", PROMETHEUS / "tests.yml")


async def test_every_metric_is_exported_as_prometheus_wants_metrics(tmp_path: Path) -> None:
    require("promtool")
    exposition = tmp_path / "metrics.txt"
    exposition.write_bytes(_every_metric())
    checked = await run("sh", "-c", f"promtool check metrics < {exposition}")
    assert checked.stdout + checked.stderr == ""


def test_rules_alerts_and_dashboard_ask_for_metrics_that_exist() -> None:
    families = list(text_string_to_metric_families(_every_metric().decode()))
    assert [family.name for family in families if not family.samples] == []
    exported = {sample.name for family in families for sample in family.samples}
    asked = set(re.findall(r"(?<![:\w])mirror_\w+\b(?!:)", QUERIES))
    assert asked - exported == set()


def test_alerts_and_dashboard_ask_for_rules_that_are_recorded() -> None:
    groups = yaml.safe_load(RULES)["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"]}
    assert set(re.findall(r"\b[a-z_]+:mirror_\w+:\w+\b", QUERIES)) - recorded == set()


def test_rules_alerts_and_dashboard_ask_for_label_values_that_exist() -> None:
    for label, known in (("result", Result), ("outcome", (*FillOutcome, *NoticeOutcome))):
        asked = set("|".join(re.findall(rf'\b{label}=~?"([^"]*)"', QUERIES)).split("|"))
        assert asked
        assert asked - {str(value) for value in known} == set()


def test_each_alert_leads_to_its_part_of_the_runbook() -> None:
    groups = yaml.safe_load(ALERTS)["groups"]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
    runbook = (DEPLOY / "RUNBOOK.md").read_text()
    parts = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", runbook, re.MULTILINE | re.DOTALL))
    assert parts.keys() == rules.keys()
    for name, rule in rules.items():
        base, _, anchor = rule["annotations"]["runbook_url"].rpartition("#")
        assert anchor == name.lower()  # as GitHub, GitLab and Gitea make anchors of headings
        assert str((DEPLOY / "RUNBOOK.md").relative_to(CHECKOUT)) in base
        assert "**Do:** " in parts[name]
        assert rule["labels"]["severity"] in parts[name].lower()


def test_what_leads_to_the_runbook_leads_to_a_part_that_there_is() -> None:
    runbook = (DEPLOY / "RUNBOOK.md").read_text()
    parts = {it.lower() for it in re.findall(r"^## (\w+)$", runbook, re.MULTILINE)}
    led = re.findall(r"RUNBOOK\.md#(\w+)", README) + re.findall(r"\]\(#(mirror\w+)\)", runbook)
    assert led
    assert {*led} <= parts
    assert re.findall(r"`(Mirror[A-Z]\w+)`", README) == []


def test_the_log_lines_that_the_readme_explains_are_written_by_the_mirror() -> None:
    section = README.partition("### What the log says")[2].partition("\n### ")[0]
    explained = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert explained
    source = "".join(path.read_text() for path in (CHECKOUT / "mirror").rglob("*.py"))
    assert [line for line in explained if line not in source] == []


def test_the_files_shown_in_the_readme_parse() -> None:
    blocks = re.findall(r"^```toml$(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        tomllib.loads(block)


def test_the_hosts_toml_in_the_readme_is_what_mirror_setup_prints() -> None:
    example = r"it is `(/etc/containerd/\S+)`:\n\n```toml\n(.*?)^```$"
    found = re.search(example, README, re.MULTILINE | re.DOTALL)
    assert found
    config = load(CHECKOUT / "config" / "many-registries.toml")
    files = make_guide("containerd", config, address="mirror.example").files
    assert found[2] in [file.content for file in files if file.path == found[1]]


def test_the_readme_tells_of_every_client_that_mirror_setup_knows() -> None:
    section = README.partition("## Point hosts at it")[2].partition("\n## ")[0]
    rows = "".join(re.findall(r"^\| (`.*?) \|", section, re.MULTILINE))
    assert re.findall(r"`([^`]+)`", rows) == [*CLIENTS]


def test_package_service_image_and_command_have_one_name() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    image = re.findall(r"--tag (\S+) \.", README + DOCKERFILE)
    compose, shared = _compose(), _compose("compose.shared.yaml")["services"]
    names = [project["name"], *project["scripts"], *image, compose["name"]]
    names += [compose["services"]["mirror"]["image"], (DEPLOY / "mirror.service").stem]
    names += [service["image"] for service in shared.values() if "build" in service]
    assert {*names} == {"mirror"}


def test_the_unit_gives_the_mirror_longer_to_end_than_it_takes_to_drain() -> None:
    assert float(_unit()["TimeoutStopSec"]) > DRAIN_SECONDS


def test_the_unit_lets_what_scrubs_be_less_important_than_everything_else() -> None:
    *_, denied, allowed = re.findall(r"^SystemCallFilter=(.*)$", UNIT, re.MULTILINE)
    assert denied.startswith("~")
    assert {"sched_setscheduler", "setpriority"} == set(allowed.split())


async def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    require("systemd-analyze")
    unit, listening = tmp_path / "mirror.service", tmp_path / "mirror.socket"
    unit.write_text(UNIT.replace("/opt/mirror/bin/mirror", "/bin/true"))
    listening.write_text((DEPLOY / "mirror.socket").read_text())
    checked = await run("systemd-analyze", "verify", "--man=no", unit, listening)
    said = checked.stdout + checked.stderr  # what it would complain about
    assert str(unit) not in said
    assert str(listening) not in said


async def test_the_unit_starts_a_verb_that_takes_its_configuration() -> None:
    program, verb, option, file = _unit()["ExecStart"].split()
    assert (Path(program).name, Path(file).suffix) == ("mirror", ".toml")
    shown = await run(sys.executable, "-m", "mirror", verb, "--help")
    assert option in shown.stdout


async def test_the_unit_does_not_restart_what_a_broken_configuration_stopped(
    tmp_path: Path,
) -> None:
    broken = tmp_path / "mirror.toml"
    broken.write_text("[sever]\n")
    ended = await run(sys.executable, "-m", "mirror", "serve", "--config", broken, check=False)
    assert ended.returncode == int(_unit()["RestartPreventExitStatus"])


def test_the_container_differs_from_the_defaults_only_where_a_container_must() -> None:
    config = load(DEPLOY / "container.toml")
    server = config.server.model_copy(update={"admin_listen": Config().server.admin_listen})
    store = config.store.model_copy(update={"root": Config().store.root})
    assert config.model_copy(update={"server": server, "store": store}) == Config()
    assert f"VOLUME {config.store.root}\n" in DOCKERFILE


def test_the_dockerfile_copies_files_that_are_in_the_checkout() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)
    assert copied
    assert [path for path in copied if not (CHECKOUT / path).exists()] == []


def test_the_image_holds_only_what_the_lock_file_proves() -> None:
    assert "--require-hashes" in DOCKERFILE
    locked = re.findall(
        r"^[\w.-]+==.*(?:\n .*)*", (DEPLOY / "requirements.txt").read_text(), re.MULTILINE
    )
    assert locked
    assert [entry for entry in locked if "--hash=sha256:" not in entry] == []


def test_the_image_does_not_run_as_root() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)$", final, re.MULTILINE) == ["mirror"]


async def test_the_health_check_tells_a_mirror_that_serves_from_one_that_does_not(
    tmp_path: Path,
) -> None:
    found = re.search(r"^HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found
    async with running_mirror(tmp_path, {"docker.io": upstream_at("http://127.0.0.1:9")}) as mirror:
        port = mirror.admin_host.rpartition(":")[2]
        _, *arguments = json.loads(found[1].replace("5001", port))
        assert (await run(sys.executable, *arguments)).returncode == 0
        await mirror.process.stop()
        assert (await run(sys.executable, *arguments, check=False)).returncode == 1


def test_compose_mounts_files_that_are_there() -> None:
    mounts = [volume.split(":")[0] for service in _services() for volume in service["volumes"]]
    files = [DEPLOY / source for source in mounts if source.startswith(".")]
    assert files
    assert [path for path in files if not path.exists()] == []
    assert {source for source in mounts if not source.startswith(".")} == set(_compose()["volumes"])
    build = _compose()["services"]["mirror"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_compose_shows_the_admin_port_to_nobody_but_prometheus() -> None:
    mirror = _compose()["services"]["mirror"]
    assert mirror["ports"] == ["5000:5000"]
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    port = load(DEPLOY / "container.toml").server.admin_listen[1]
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": [f"mirror:{port}"]}]
    assert parse_duration(mirror["stop_grace_period"]) > DRAIN_SECONDS


def _several() -> Iterator[tuple[dict[str, Any], str]]:
    """The settings of mirrors that are one, and the URL that their database file holds."""
    told = re.search(r'^echo "(postgresql://[^"]+)"', README, flags=re.MULTILINE)
    assert told is not None
    url = told[1].replace("$secret", "secret")
    yield tomllib.loads((DEPLOY / "shared" / "mirror.toml").read_text()), url
    [settings] = _kubernetes("ConfigMap")
    told = re.search(r"database='(postgresql://[^']+)'", KUBERNETES)
    assert told is not None
    yield tomllib.loads(settings["data"]["mirror.toml"]), told[1]


def test_the_settings_of_several_mirrors_can_be_used(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    for document, url in _several():
        secret.write_text(url)
        for section in document.values():
            section |= {name: str(secret) for name in section if name.endswith("_file")}
        shared = parse(document).shared
        assert shared is not None
        assert shared.database_file == secret
        assert parse_address(url).name == "mirror"


def test_what_the_mirrors_of_a_stateful_set_mount_is_there() -> None:
    [mirrors] = _kubernetes("StatefulSet")
    pod = mirrors["spec"]["template"]["spec"]
    volumes = {it["name"]: it for it in pod["volumes"]}
    claims = {it["metadata"]["name"] for it in mirrors["spec"]["volumeClaimTemplates"]}
    [container] = pod["containers"]
    assert {it["name"] for it in container["volumeMounts"]} == volumes.keys() | claims
    for volume in volumes.values():
        if "secret" in volume:
            assert f"create secret generic {volume['secret']['secretName']} " in KUBERNETES
    assert pod["terminationGracePeriodSeconds"] > DRAIN_SECONDS


def test_compose_makes_as_many_mirrors_as_are_asked_in_front_of_them() -> None:
    compose = _compose("compose.shared.yaml")
    mirrors = {name for name in compose["services"] if name.startswith("mirror-")}
    asked = (DEPLOY / "shared" / "haproxy.cfg").read_text()
    assert set(re.findall(r"^  server (\S+) \1:5000$", asked, flags=re.MULTILINE)) == mirrors
    made = README[README.index("install --directory --mode 0700 deploy/secrets") :]
    for secret in compose["secrets"].values():
        directory, name = secret["file"].removeprefix("./").split("/")
        assert directory == "secrets"
        assert f"> {name}\n" in made


@pytest.mark.parametrize("file", ["compose.yaml", "compose.shared.yaml"])
def test_what_compose_gives_to_a_read_only_container_is_a_file(file: str) -> None:
    # It refuses to start one otherwise: it would have to write into it.
    compose = _compose(file)
    read_only = [it for it in compose["services"].values() if it.get("read_only")]
    assert read_only
    for service in read_only:
        for config in service.get("configs", ()):
            source = compose["configs"][config["source"]]
            assert source.keys() == {"file"}
            assert (DEPLOY / source["file"]).is_file()
        for secret in service.get("secrets", ()):
            assert compose["secrets"][secret].keys() == {"file"}


def test_the_parts_of_a_stateful_set_know_each_other() -> None:
    [mirrors] = _kubernetes("StatefulSet")
    template = mirrors["spec"]["template"]
    labels = template["metadata"]["labels"]
    [container] = template["spec"]["containers"]
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    server = parse({}).server
    [settings] = _kubernetes("ConfigMap")
    admin = tomllib.loads(settings["data"]["mirror.toml"])["server"]["admin_listen"]
    assert ports == {"pulls": server.listen[0][1], "admin": int(admin.rpartition(":")[2])}
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["admin"])

    services = {it["metadata"]["name"]: it["spec"] for it in _kubernetes("Service")}
    for service in services.values():
        assert service["selector"].items() <= labels.items()
        assert [it["port"] for it in service["ports"]] == [
            ports[it["name"]] for it in service["ports"]
        ]
    assert services[mirrors["spec"]["serviceName"]]["clusterIP"] == "None"
    # Whoever may pull does not reach the other one.
    [clients] = [it for it in services.values() if it.get("type") == "NodePort"]
    assert {it["name"] for it in clients["ports"]} == {"pulls"}

    selectors = [mirrors["spec"]["selector"]]
    selectors += [it["spec"]["selector"] for it in _kubernetes("PodDisruptionBudget")]
    spread = template["spec"]["affinity"]["podAntiAffinity"]
    [apart] = spread["preferredDuringSchedulingIgnoredDuringExecution"]
    selectors += [apart["podAffinityTerm"]["labelSelector"]]
    assert [it["matchLabels"] for it in selectors] == [labels] * 3


def test_grafana_is_told_where_prometheus_and_the_dashboard_are() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((provisioning / "dashboards" / "mirror.yaml").read_text())
    path = provider["providers"][0]["options"]["path"]
    volumes = _compose()["services"]["grafana"]["volumes"]
    assert f"./grafana/mirror.json:{path}/mirror.json:ro" in volumes


def test_panels_of_the_dashboard_do_not_overlap_and_name_the_chosen_data_source() -> None:
    panels = json.loads(DASHBOARD)["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (place["x"] + across, place["y"] + down)
            for across in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in panels}) == len(panels)


def _every_metric() -> bytes:
    """What `/metrics` shows when everything has happened once."""
    metrics = Metrics()
    upstream, endpoint = "docker.io", "registry-1.docker.io"
    metrics.announce(upstream, [endpoint])
    metrics.traffic.count(Sort(upstream, Kind.BLOB, "GET", 200, Result.HIT), 0.1, 100)
    metrics.upstream_requests.labels(upstream, endpoint, "blob", "GET", "200").inc()
    metrics.upstream_seconds.labels(upstream, endpoint, "blob").observe(0.1)
    metrics.upstream_up.labels(upstream, endpoint).set(1)
    metrics.upstream_credentials_refused.labels(upstream, endpoint).set(1)
    metrics.reasons.labels(upstream, "never-seen").inc()
    metrics.ratelimit_limit.labels(upstream, endpoint).set(100)
    metrics.ratelimit_remaining.labels(upstream, endpoint).set(99)
    metrics.watch_store(
        lambda: StoreTotals(blobs=1, bytes=1), read_disk=lambda: 1, read_limit=lambda: 9
    )
    metrics.watch_referenced(lambda: 2)
    metrics.watch_disk(read_free=lambda: 5, read_min_free=lambda: 3)
    metrics.certificate_ends.labels(setting="tls_certificate_file").set(1)
    names = (name for table in TABLES for name in table)
    figures = dict.fromkeys(names, 1.0)
    for collector in (SharedFigures, BlobFigures):
        metrics.registry.register(collector(lambda: figures))
    return metrics.exposition()


def _unit() -> dict[str, str]:
    unit = RawConfigParser(strict=False)  # systemd lets a key stand twice
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # its documented use
    unit.read_string(UNIT)
    return dict(unit["Service"])


def _compose(file: str = "compose.yaml") -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / file).read_text())
    return document


def _kubernetes(kind: str) -> list[dict[str, Any]]:
    return [it for it in yaml.safe_load_all(KUBERNETES) if it["kind"] == kind]


def _services() -> Iterator[dict[str, Any]]:
    yield from _compose()["services"].values()
