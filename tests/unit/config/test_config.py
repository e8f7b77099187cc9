import ipaddress
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import BaseModel

from mirror.config import (
    Config,
    ConfigError,
    Endpoint,
    Notify,
    Pin,
    Shared,
    Upstream,
    Warm,
    inherited_sockets,
    load,
    parse,
)
from mirror.config.bandwidth import Bandwidth

FILES = Path(__file__).parents[3] / "config"
GHCR: dict[str, Any] = {"endpoints": [{"url": "https://ghcr.io"}]}


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(tomllib.loads(text))
    return caught.value.problems


def endpoint(settings: str) -> str:
    return f'[[upstream."ghcr.io".endpoints]]\nurl = "https://ghcr.io"\n{settings}\n'


# --- defaults and shipped files ---


def test_without_a_file_docker_hub_is_mirrored_on_port_5000() -> None:
    config = load(None, environ={})
    assert config.server.listen == (("0.0.0.0", 5000),)  # noqa: S104 - what users are promised
    assert config.server.admin_listen == ("127.0.0.1", 5001)
    assert config.store.root == Path("mirror-data")
    hub = config.upstream["docker.io"]
    assert [each.url for each in hub.endpoints] == ["https://registry-1.docker.io"]
    assert (hub.default, hub.access) == (True, "mirror")
    assert hub.aliases == ("index.docker.io", "registry-1.docker.io")


def test_each_default_is_the_documented_one() -> None:
    config = Config()
    assert config.server.drain_timeout == 30
    assert config.server.allowed_networks == ()
    assert config.store.max_size == 100 * 2**30
    assert config.store.min_free == 2 * 2**30
    assert config.store.memory_cache == 128 * 2**20
    assert config.store.forget_after == 90 * 24 * 3600
    assert (config.tags.fresh_for, config.tags.stale_for) == (60, 30 * 24 * 3600)
    assert config.tags.missing_for == 10
    assert (config.fill.connections, config.fill.segment_size) == (4, 8 * 2**20)
    assert (config.fill.max_active, config.fill.attempts) == (32, 8)
    assert (config.fill.connect_timeout, config.fill.stall_timeout) == (5, 20)
    assert config.fill.keep_partial_for == 24 * 3600
    assert (config.log.level, config.log.format) == ("info", "text")
    (hub,) = config.upstream["docker.io"].endpoints
    assert (hub.tags, hub.token_hosts, hub.allow_http_redirect) == (True, (), False)
    assert (hub.max_connections, hub.max_bandwidth) == (None, None)


@pytest.mark.parametrize("name", ["docker.io", "Docker.IO"])
def test_docker_hubs_table_may_hold_nothing_but_what_differs(name: str) -> None:
    url = "https://hub.mirror.test"
    [hub] = parse({"upstream": {name: {"endpoints": [{"url": url}]}}}).upstream.values()
    assert hub.default
    assert hub.aliases == ("index.docker.io", "registry-1.docker.io")
    assert [endpoint.url for endpoint in hub.endpoints] == [url]
    [hub] = parse({"upstream": {name: {"access": "client"}}}).upstream.values()
    assert [endpoint.url for endpoint in hub.endpoints] == ["https://registry-1.docker.io"]


def test_docker_hubs_defaults_give_way_to_what_is_written() -> None:
    hub = {"endpoints": [{"url": "https://hub.test"}], "default": False, "aliases": []}
    config = parse({"upstream": {"docker.io": hub}})
    assert (config.upstream["docker.io"].default, config.upstream["docker.io"].aliases) == (
        False,
        (),
    )
    others = {"ghcr.io": GHCR | {"default": True}, "registry-1.docker.io": GHCR, "docker.io": {}}
    config = parse({"upstream": others})
    assert not config.upstream["docker.io"].default
    assert config.upstream["docker.io"].aliases == ("index.docker.io",)


def test_without_docker_hubs_table_others_stand_alone() -> None:
    assert [*parse({"upstream": {"ghcr.io": GHCR}}).upstream] == ["ghcr.io"]


def test_the_reference_file_changes_nothing() -> None:
    assert load(FILES / "mirror.toml") == Config()


def sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Each table of the file, by the header it has in the reference."""
    found: dict[str, type[BaseModel]] = {
        f"[{name}]": field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    found["# [shared]"] = Shared
    hub = '[upstream."docker.io"]'
    return found | {hub: Upstream, f"[{hub.replace(']', '.endpoints]')}]": Endpoint}


@pytest.mark.parametrize(("header", "section"), sections(Config).items())
def test_the_reference_file_explains_every_setting(header: str, section: type[BaseModel]) -> None:
    text = (FILES / "mirror.toml").read_text(encoding="utf-8")
    _, _, table = text.partition(f"\n{header}\n")
    table, *_ = re.split(r"^\[", table, maxsplit=1, flags=re.MULTILINE)
    for name, field in section.model_fields.items():
        if name == "endpoints":  # tables of their own
            continue
        commented = field.default is None or section is Shared
        line = re.search(rf"^{'# ' if commented else ''}{name} = .+", table, flags=re.MULTILINE)
        assert line, f"{header} {name}"
        assert commented or "#" in line[0], f"{header} {name} has no comment"


def test_the_commented_settings_of_the_reference_can_be_used(tmp_path: Path) -> None:
    text = (FILES / "mirror.toml").read_text(encoding="utf-8")
    secret = tmp_path / "secret"
    secret.write_text("x")
    text = re.sub(r'"/etc/mirror/[^"]*"', f'"{secret}"', text)
    text = re.sub(r"^# credential_helper = .*", "", text, flags=re.MULTILINE)  # instead of others
    settings = r"^# (\w+ = |\[\[|\[shared\])"
    config = parse(tomllib.loads(re.sub(settings, r"\1", text, flags=re.MULTILINE)))
    (hub,) = config.upstream["docker.io"].endpoints
    assert config.server.htpasswd_file == hub.password_file == hub.ca_file == secret
    assert (hub.username, hub.max_connections) == ("someone", 8)
    assert hub.max_bandwidth == Bandwidth(10_000_000)
    [pin] = config.pin
    assert set(pin.model_fields_set) == set(Pin.model_fields)
    assert pin.refresh == Pin(image="a").refresh
    assert config.shared is not None
    assert set(config.shared.model_fields_set) == set(Shared.model_fields)
    [warm] = config.warm
    assert set(warm.model_fields_set) == set(Warm.model_fields)
    [hook] = config.notify
    assert {*hook.model_fields_set, "url_file"} == set(Notify.model_fields)


@pytest.mark.parametrize("file", sorted(FILES.glob("*.toml")), ids=lambda file: file.name)
def test_every_shipped_file_is_valid(file: Path, tmp_path: Path) -> None:
    secret = tmp_path / "acr-password"
    secret.write_text("x")
    text = file.read_text(encoding="utf-8").replace("/etc/mirror/acr-password", str(secret))
    assert [name for name, each in parse(tomllib.loads(text)).upstream.items() if each.default]


def test_an_accelerator_is_asked_for_bytes_before_docker_hub_and_for_tags_only_without_it(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "acr-password"
    secret.write_text("x")
    text = (FILES / "aliyun.toml").read_text(encoding="utf-8")
    config = parse(tomllib.loads(text.replace("/etc/mirror/acr-password", str(secret))))
    accelerator, hub = config.upstream["docker.io"].endpoints
    assert (accelerator.tags, hub.tags) == ("fallback", True)
    assert accelerator.host.endswith(".mirror.aliyuncs.com")
    (private,) = config.upstream["registry.cn-hangzhou.aliyuncs.com"].endpoints
    assert private.password_file == secret


def test_who_may_read_by_its_own_credentials_alone_does_not_push_with_the_mirrors() -> None:
    # A mount would give it what the mirror's may read.
    (problem,) = problems(
        '[server]\nhtpasswd_file = "/dev/null"\n'
        '[upstream."ghcr.io"]\naccess = "client"\npush = "mirror"\n' + endpoint("")
    )
    assert 'push = "client"' in problem


# --- which file ---


def test_the_command_lines_file_wins_over_the_environments(tmp_path: Path) -> None:
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text('[log]\nlevel = "debug"')
    two.write_text('[log]\nlevel = "error"')
    environ = {"MIRROR_CONFIG": str(two)}
    assert load(one, environ).log.level == "debug"
    assert load(None, environ).log.level == "error"
    assert load(None, {"MIRROR_CONFIG": ""}) == Config()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file") as caught:
        load(tmp_path / "none.toml")
    assert caught.value.source.endswith("none.toml")


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"[server", b"listen = 5000:", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_not_toml_says_where(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mirror.toml"
    file.write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"mirror\.toml: not TOML: .*(line|position|end of document)"
    ):
        load(file)


# --- what can be wrong ---


def test_everything_that_is_wrong_is_told_at_once_with_its_path() -> None:
    found = problems(
        """
        stroe = 1
        [server]
        listen = 5000
        drain_time = "1s"
        allowed_networks = ["10.0.0.0/8", "10.0.0.1/8", 3.5]
        [store]
        max_size = 100
        [tags]
        fresh_for = "soon"
        [fill]
        connections = 0
        attempts = true
        zzz = 1
        [log]
        level = "loud"
        [upstream."quay.io"]
        endpoints = []
        [upstream."a b"]
        default = "no"
        endpoints = 3
        [upstream."ghcr.io"]
        endpoint = []
        [upstream."gcr.io"]
        endpoints = [{ url = "https://gcr.io", usrname = "a" }, {}]
        """
    )
    assert found == [
        'server.listen: not an address; write it like "0.0.0.0:5000" or "[::]:5000"',
        (
            "server.allowed_networks[1]: not a network (10.0.0.1/8 has host bits set);"
            ' write it like "10.0.0.0/8"'
        ),
        (
            "server.allowed_networks[2]: not a network ('3.5' does not appear to be an IPv4 or IPv6"
            ' network); write it like "10.0.0.0/8"'
        ),
        "server.drain_time: unknown key; did you mean drain_timeout?",
        'store.max_size: not a size; write it like "512 MiB" or "100 GB"',
        'tags.fresh_for: not a duration; write it like "500ms", "30s", "1m30s" or "30d"',
        "fill.connections: must be greater than or equal to 1",
        "fill.attempts: must be a whole number",
        "fill.zzz: unknown key",
        "log.level: must be 'debug', 'info', 'warning' or 'error'",
        'upstream."quay.io": endpoints is empty: name at least one URL',
        'upstream."a b": not a registry host; write it like "ghcr.io" or "registry.local:5000"',
        'upstream."a b".default: must be true or false',
        'upstream."a b".endpoints: must be a list',
        'upstream."ghcr.io".endpoint: unknown key; did you mean endpoints?',
        'upstream."gcr.io".endpoints[0].usrname: unknown key; did you mean username?',
        'upstream."gcr.io".endpoints[1].url: is required',
        "stroe: unknown key; did you mean store?",
    ]


def test_the_error_has_a_line_for_each_problem_and_the_file_on_each_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"a": 1, "b": 2}, source="mirror.toml")
    assert str(caught.value) == "mirror.toml: a: unknown key\nmirror.toml: b: unknown key"


@pytest.mark.parametrize("section", ["server", "store", "tags", "fill", "log", "upstream"])
def test_a_table_is_told_from_a_value(section: str) -> None:
    assert problems(f"{section} = 1") == [f"{section}: must be a table"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[server]\ntls_certificate_file = "F"', "server: tls_certificate_file and"),
        ('[server]\ntls_private_key_file = "F"', "server: tls_certificate_file and"),
        ('[server]\nclient_ca_file = "F"', "server: client_ca_file needs tls_certificate_file"),
        (
            '[server]\nlisten = "10.0.0.1:1"\nadmin_listen = "0.0.0.0:1"',
            "server: listen and admin_listen are the same port",
        ),
        (
            '[server]\nlisten = "[::1]:1"\nadmin_listen = "[::1]:1"',
            "server: listen and admin_listen are the same port",
        ),
        (endpoint('username = "a"'), "username and password_file go together"),
        (endpoint('password_file = "F"'), "username and password_file go together"),
        (endpoint("tags = false"), "at least one endpoint must answer for tags"),
        (endpoint('tags = "fallback"'), "at least one endpoint must answer for tags"),
        (endpoint("") + endpoint(""), "the same endpoint URL stands there twice"),
        (
            (
                '[upstream]\n"a.io" = { default = true, endpoints = [{ url = "https://a.io" }] }\n'
                '"b.io" = { default = true, endpoints = [{ url = "https://b.io" }] }'
            ),
            "only one upstream can be the default, not a.io and b.io",
        ),
        ("[upstream]", "upstream is empty"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    text: str, expected: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    (problem,) = problems(text.replace('"F"', f'"{file}"'))
    assert expected in problem


def test_names_that_stand_for_two_registries_are_all_told() -> None:
    other = {"endpoints": [{"url": "https://other.io"}]}
    with pytest.raises(ConfigError) as caught:
        parse(
            {
                "upstream": {
                    "ghcr.io": GHCR | {"aliases": ["x.io", "other.io"], "hosts": ["m.local"]},
                    "other.io": other | {"aliases": ["X.io"], "hosts": ["M.local"]},
                }
            }
        )
    assert caught.value.problems == [
        (
            "other.io stands for both other.io and ghcr.io;"
            " x.io stands for both ghcr.io and other.io;"
            " m.local stands for both ghcr.io and other.io"
        )
    ]


def test_one_registry_in_two_spellings_is_not_two_registries() -> None:
    with pytest.raises(ConfigError, match=r"ghcr\.io is configured twice, in different spelling"):
        parse({"upstream": {"ghcr.io": GHCR, "GHCR.io": GHCR}})


def test_a_name_may_be_an_alias_of_itself_and_a_host() -> None:
    config = parse({"upstream": {"GHCR.io": GHCR | {"aliases": ["ghcr.io"], "hosts": ["ghcr.io"]}}})
    assert list(config.upstream) == ["ghcr.io"]


# --- the grammar of values ---


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:5000", ("::1", 5000)),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    config = parse({"server": {"listen": text}})
    assert config.server.listen == (address,)
    assert config.redacted()["server"]["listen"] == text


@pytest.mark.parametrize(
    "text",
    ["", "5000", ":5000", "h:", "h:x", "h:65536", "h:-1", "::1:5000", "[::1]", "h:\u0663", "a b:1"],
)
def test_anything_else_is_not_an_address(text: str) -> None:
    (problem,) = problems(f'[server]\nlisten = "{text}"')
    assert problem.startswith("server.listen: not an address")


def test_ports_that_the_system_chooses_do_not_collide() -> None:
    config = parse({"server": {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}})
    assert config.server.listen == (config.server.admin_listen,)


def test_networks_are_of_either_family() -> None:
    config = parse({"server": {"allowed_networks": ["10.0.0.0/8", "fd00::/8", "192.0.2.7"]}})
    assert ipaddress.ip_address("10.1.2.3") in config.server.allowed_networks[0]
    shown = config.redacted()["server"]["allowed_networks"]
    assert list(shown) == ["10.0.0.0/8", "fd00::/8", "192.0.2.7/32"]


@pytest.mark.parametrize("count", [1, 2, 64])
def test_there_are_as_many_workers_as_a_number_says(count: int) -> None:
    assert parse({"server": {"workers": count}}).server.worker_count == count


def test_without_a_number_there_is_a_worker_for_each_core_that_may_be_used_but_no_crowd() -> None:
    for settings in ({}, {"server": {"workers": "auto"}}):
        server = parse(settings).server
        assert server.workers == "auto"
        usable = os.sched_getaffinity(0)
        assert server.worker_count == min(len(usable), 4)
        try:
            os.sched_setaffinity(0, {min(usable)})
            assert server.worker_count == 1
        finally:
            os.sched_setaffinity(0, usable)


@pytest.mark.parametrize("nonsense", ["0", "-1", "1.0", "1.5", "true", '"2"', '"many"', "[2]"])
def test_anything_else_is_no_number_of_workers_and_one_problem(nonsense: str) -> None:
    [problem] = problems(f"[server]\nworkers = {nonsense}")
    assert problem.startswith("server.workers: ")


@pytest.mark.parametrize(
    ("url", "kept", "host"),
    [
        ("https://registry-1.docker.io", "https://registry-1.docker.io", "registry-1.docker.io"),
        ("https://GHCR.io/", "https://ghcr.io", "ghcr.io"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000", "127.0.0.1:5000"),
        ("https://quay.io:443", "https://quay.io:443", "quay.io"),
        ("http://quay.io:443", "http://quay.io:443", "quay.io:443"),
        ("http://[::1]:5000/Hub/", "http://[::1]:5000/Hub", "[::1]:5000"),
    ],
)
def test_an_endpoint_is_known_by_its_url(url: str, kept: str, host: str) -> None:
    found = Endpoint(url=url)
    assert (found.url, found.host) == (kept, host)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ghcr.io",
        "//ghcr.io",
        "ftp://ghcr.io",
        "https://",
        "https://:443",
        "https://ghcr.io:0",
        "https://ghcr.io:99999",
        "https://[::1",
        "https://gh cr.io",
        "https://ghcr.io/v2/",
        "https://ghcr.io?a=b",
        "https://ghcr.io#a",
        "https://user:hunter2@ghcr.io",
        "https://hunter2@ghcr.io",
        "https://user:hunter2#@ghcr.io",
    ],
)
def test_any_other_url_is_refused_without_being_repeated(url: str) -> None:
    (problem,) = problems(f'[[upstream."ghcr.io".endpoints]]\nurl = "{url}"')
    assert problem.startswith('upstream."ghcr.io".endpoints[0].url: ')
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("max_connections = 0", "must be greater than or equal to 1"),
        ('max_bandwidth = "0 B"', "must be more than zero"),
        ('tags = "yes"', 'must be true, false or "fallback"'),
        ("token_hosts = ['https://a.io/token']", "not a registry host"),
        ("ca_file = '/nowhere/ca.crt'", "cannot be read: No such file or directory"),
        ("ca_file = '/'", "cannot be read: Is a directory"),
    ],
)
def test_an_endpoints_settings_are_checked(settings: str, expected: str) -> None:
    (problem,) = problems(endpoint(settings))
    assert expected in problem


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("connections = 65", "fill.connections: must be less than or equal to 64"),
        ('segment_size = "63 KiB"', "fill.segment_size: must be at least 64 KiB"),
        ('connect_timeout = "0s"', "fill.connect_timeout: must be more than zero"),
        ('stall_timeout = "0s"', "fill.stall_timeout: must be more than zero"),
        ("max_active = 1.0", "fill.max_active: must be a whole number"),
    ],
)
def test_a_download_must_be_able_to_begin_and_to_end(settings: str, expected: str) -> None:
    assert problems(f"[fill]\n{settings}") == [expected]


# --- secrets ---


@pytest.fixture
def private(tmp_path: Path) -> Config:
    (tmp_path / "password").write_text("hunter2")
    return parse(
        {
            "upstream": {
                "ghcr.io": {
                    "endpoints": [
                        {
                            "url": "https://ghcr.io",
                            "username": "someone",
                            "password_file": str(tmp_path / "password"),
                            "max_bandwidth": "1 MiB",
                        }
                    ]
                }
            },
            "server": {"allowed_networks": ["10.0.0.0/8"]},
            "tags": {"fresh_for": "90s"},
        }
    )


def test_the_effective_configuration_tells_no_secret(private: Config) -> None:
    for shown in (repr(private), str(private.redacted()), private.model_dump_json()):
        assert "someone" in shown
        assert "hunter2" not in shown


def test_the_effective_configuration_is_a_configuration_file(private: Config) -> None:
    for config in (Config(), private):
        assert parse(tomllib.loads(tomli_w.dumps(config.redacted()))) == config


@pytest.mark.parametrize("key", ["password", "password_file"])
def test_a_password_in_the_wrong_place_is_not_repeated(key: str) -> None:
    (problem,) = problems(endpoint(f'username = "a"\n{key} = "hunter2"'))
    assert key in problem
    assert "hunter2" not in problem


def test_a_relative_file_that_is_missing_is_told_with_where_it_was_looked_for() -> None:
    (problem,) = problems(endpoint('username = "a"\npassword_file = "secrets/password"'))
    assert problem.endswith(f"cannot be read: No such file or directory (relative to {Path.cwd()})")


def test_a_configuration_does_not_change_once_it_is_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().server.listen = (("127.0.0.1", 1),)  # type: ignore[misc]


# --- what newcomers write ---


def test_a_byte_order_mark_is_no_part_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text('[log]\nlevel = "debug"', encoding="utf-8-sig")
    assert load(file, environ={}).log.level == "debug"


@pytest.mark.parametrize("name", ["docker.io", "registry.cn-hangzhou.aliyuncs.com"])
def test_an_upstream_without_quotes_is_told_to_use_them(name: str) -> None:
    text = f'[upstream.{name}]\n[[upstream.{name}.endpoints]]\nurl = "https://ghcr.io"'
    (problem,) = problems(text)
    assert 'written in quotes, like [upstream."docker.io"]' in problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nworkers = 100000", "server.workers: not a number of processes"),
        ('[store]\nmax_size = "0 B"', "store.max_size: must be more than zero"),
        ('[store]\nroot = "~/mirror"', "store.root: only shells know"),
        ('[server]\nhtpasswd_file = "~anna/htpasswd"', "server.htpasswd_file: only shells know"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith(words)


@pytest.mark.parametrize("size", ["100 GB", "10 MB", "64 KiB", "1 TiB", "1 KB", "1000001 B"])
def test_a_size_is_shown_as_it_was_written(size: str) -> None:
    store = parse({"store": {"max_size": size}}).redacted()["store"]
    assert store["max_size"] == size


def test_a_mirror_may_listen_on_several_addresses() -> None:
    document = {"server": {"listen": ["127.0.0.1:5000", "[::1]:5010"]}}
    config = parse(document)
    assert config.server.listen == (("127.0.0.1", 5000), ("::1", 5010))
    assert config.redacted()["server"]["listen"] == document["server"]["listen"]
    assert parse(config.redacted()) == config


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ([], "is empty"),
        (["127.0.0.1:5000", "127.0.0.1:5000"], "twice"),
        (["127.0.0.1:5000", "127.0.0.1:5001"], "same port"),
        (["127.0.0.1:5000", "nonsense"], "not an address"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(listen: list[str], words: str) -> None:
    [problem] = problems(f"[server]\nlisten = {listen}")
    assert words in problem


def test_sockets_of_a_service_manager_are_those_that_were_passed_to_this_process() -> None:
    mine = str(os.getpid())
    assert inherited_sockets({"LISTEN_PID": mine, "LISTEN_FDS": "2"}) == (3, 4)
    for others in ({}, {"LISTEN_PID": "1", "LISTEN_FDS": "2"}, {"LISTEN_PID": mine}):
        assert inherited_sockets(others) == ()


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("docker.io/library/python:3.12", "docker.io/library/python:3.12"),
        ("python", "docker.io/library/python:latest"),
        (f"a/b@sha256:{'0' * 64}", f"docker.io/a/b@sha256:{'0' * 64}"),
    ],
)
def test_a_pinned_image_is_named_as_people_name_images(image: str, name: str) -> None:
    [pin] = parse({"pin": [{"image": image}]}).pin
    assert (pin.name, pin.wanted) == (name, [])


@pytest.mark.parametrize(
    ("pin", "words"),
    [
        ([{"image": "Not An Image"}], "pin[0].image: "),
        ([{"image": "quay.io/a/b:1"}], 'there is no [upstream."quay.io"]'),
        ([{"image": "a"}, {"image": "docker.io/library/a:latest"}], "is pinned twice"),
        ([{"image": "mine.test/a:1"}], "without credentials of its own"),
        ([{"image": "secret/a:1"}], "docker.io secret/a is not served"),
        ([{"image": "a", "platforms": ["amd64"]}], 'write it like "linux/arm64"'),
        ([{"image": "a", "platform": "linux/amd64"}], "did you mean platforms?"),
        ([{"image": "a", "refresh": "0s"}], "pin[0].refresh: must be more than zero"),
        ([{}], "pin[0].image: is required"),
    ],
)
def test_a_pin_that_cannot_be_followed_is_told(pin: list[dict[str, Any]], words: str) -> None:
    upstreams = {
        "docker.io": {"endpoints": [{"url": "https://hub.test"}], "deny": ["secret/**"]},
        "mine.test": {"access": "client", "endpoints": [{"url": "https://mine.test"}]},
    }
    with pytest.raises(ConfigError) as error:
        parse({"pin": pin, "upstream": upstreams})
    assert words in str(error.value)


@pytest.mark.parametrize("interval", ["1h", "23h"])
def test_an_interval_of_scrubbing_is_days_or_never(interval: str) -> None:
    assert parse({"store": {"scrub_interval": "0s"}}).store.scrub_interval == 0
    with pytest.raises(ConfigError, match="at least"):
        parse({"store": {"scrub_interval": interval}})


@pytest.mark.parametrize(
    ("warm", "words"),
    [
        ([{"image": "a:*", "at": "* * *"}], "warm[0].at: has 3 fields"),
        ([{"image": "a:*", "at": "0 0 30 2 *"}], "warm[0].at: names no day"),
        ([{"image": "a:*"}], "warm[0].at: is required"),
        ([{"image": "a:[*", "at": "@daily"}], "warm[0].image: "),
        ([{"image": "a", "at": "@daily"}, {"image": "a:latest", "at": "@weekly"}], "warmed twice"),
        ([{"image": "quay.io/a:1", "at": "@daily"}], 'there is no [upstream."quay.io"]'),
        ([{"image": "a", "at": "@daily", "max_bandwidth": "0 B"}], "max_bandwidth: must be more"),
        ([{"image": "a", "at": "@daily", "leave_quotas": 5}], "did you mean leave_quota?"),
        ([{"image": "a", "at": "@daily", "platforms": ["x"]}], 'write it like "linux/arm64"'),
    ],
)
def test_what_cannot_be_warmed_is_told(warm: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse({"warm": warm})
    assert words in str(error.value)


def test_what_is_warmed_is_shown_as_it_is_written() -> None:
    warm = {"image": "python:3.*-slim", "at": "30 3 * * mon-fri", "max_bandwidth": "2 MB"}
    shown = parse({"warm": [warm]}).redacted()
    assert parse(shown) == parse({"warm": [warm]})
    [told] = shown["warm"]
    assert (told["image"], told["at"]) == ("docker.io/library/python:3.*-slim", "30 3 * * mon-fri")


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        ({}, "notify[0]: write either url, or url_file"),
        ({"url": "https://a", "url_file": "SECRET"}, "write either url, or url_file"),
        ({"url": "ftp://a/hunter2"}, "notify[0].url: not a webhook's URL"),
        ({"url": "https://me:hunter2@a/"}, "notify[0].url: holds credentials"),
        ({"url": "https://a/#hunter2"}, "has no fragment"),
        ({"url": "http://a/hunter2", "header_file": "SECRET"}, "a secret in the clear"),
        ({"url": "https://a", "header": "X Token"}, "notify[0].header: "),
        (
            {"url": "https://a", "occasions": ["disks"]},
            "notify[0].occasions[0]: must be 'upstream'",
        ),
        ({"url": "https://a", "headers_file": "x"}, "did you mean header_file?"),
    ],
)
def test_a_webhook_that_cannot_be_meant_is_told_and_its_address_is_not(
    hook: dict[str, Any], words: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    hook = {name: str(secret) if it == "SECRET" else it for name, it in hook.items()}
    with pytest.raises(ConfigError) as error:
        parse({"notify": [hook]})
    assert words in str(error.value)
    assert "hunter2" not in str(error.value)


def test_a_secret_may_go_to_this_host_without_tls(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("Bearer x\n")
    [hook] = parse({"notify": [{"url": "http://127.0.0.1/", "header_file": str(secret)}]}).notify
    assert hook.read_headers() == {"Authorization": "Bearer x"}


@pytest.mark.parametrize("address", ["nowhere", "http://hooks.example/T0"])
def test_a_secret_address_is_looked_at_when_it_is_read(tmp_path: Path, address: str) -> None:
    file = tmp_path / "address"
    file.write_text(address)
    [hook] = parse({"notify": [{"url_file": str(file)}]}).notify
    with pytest.raises(ValueError, match=r"not a webhook|in the clear"):
        hook.read_address()
