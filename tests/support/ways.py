"""Registries by their names: what each does that others do not.

Of `source` stands where it is known from; "unverified" is what one was told, or remembers, and
tests are lenient there. `tests.support.named` does it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.auth import ACR_SERVICE

USER, PROOF = "robot$mirror", "s3cr:t/ü &%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What one registry does."""

    title: str
    namespace: str  # its name in image names
    source: str = ""

    # Who is let in.
    auth: Literal["open", "bearer", "basic"] = "bearer"
    user: str = USER
    proof: str = PROOF
    needs_password: bool = False  # nobody is let in without
    service: str = "registry"
    tokens_at: str = "/token"
    token_server_elsewhere: bool = False  # its realm is on another host
    challenged_scope: str | None = None  # instead of the repository's
    challenge: str = 'Basic realm="registry"'
    tokens_as: Literal["token", "access_token", "both"] = "token"
    expires_in: bool = True
    resets_token_server: bool = False  # the first connection to it
    denies_with: Literal["401", "403", "token 403"] = "401"  # what one may not have
    refuses_with: int = 401  # wrong names and passwords
    over_with: Literal["401", "bare 401", "400"] = "401"  # tokens whose time is over
    missing_as_denied: bool = False  # a repository that there is not

    # What it sends.
    fields: Mapping[str, str] = field(default_factory=dict)  # in each answer
    manifest_fields: Mapping[str, str] = field(default_factory=dict)
    limited_fields: Mapping[str, str] = field(default_factory=dict)  # beside a 429
    errors: Literal["spec", "html", "statuses"] = "spec"
    names_digests: bool = True

    # Blobs.
    redirects_with: int = 0
    storage_on: Literal["https", "http"] = "https"
    head_of_blob: int = 0  # its answer to each
    storage_takes_get_only: bool = False
    is_chunked: bool = False  # no lengths

    # Lists.
    paging: Literal["last", "token", "none", "absolute"] = "last"
    beside_tags: Mapping[str, Any] = field(default_factory=dict)
    referrers: int = 200  # else the status that says that it knows none

    # How it is reached.
    prefix: str = ""  # of all of its repositories
    leads_on: str = ""  # below this, on another host, where it sends everything but blobs
    tls: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the mirror's endpoint

    def __str__(self) -> str:
        return self.title


DOCKER_HUB = Ways(
    title="Docker Hub",
    namespace="docker.io",
    source="docs.docker.com, and its answers; referrers: unverified",
    service="registry.docker.io",
    token_server_elsewhere=True,
    tokens_as="both",
    missing_as_denied=True,
    manifest_fields={
        "ratelimit-limit": "100;w=21600",
        "ratelimit-remaining": "76;w=21600",
        "docker-ratelimit-source": "192.0.2.1",
    },
    limited_fields={"Retry-After": "600", "ratelimit-remaining": "0;w=21600"},
    redirects_with=307,
    referrers=404,
)
DOCKER_HARDENED = Ways(
    title="Docker Hardened Images",
    namespace="dhi.io",
    source="docker/hub-feedback#2530: no challenge with the 401 for a token that is over",
    service="registry.docker.io",
    needs_password=True,
    over_with="bare 401",
    redirects_with=307,
)
ACR_PERSONAL = Ways(
    title="Alibaba ACR (personal)",
    namespace="registry.cn-hangzhou.aliyuncs.com",
    source="traces of 2018 to 2026; HEAD at OSS: unverified",
    service=ACR_SERVICE,
    token_server_elsewhere=True,
    tokens_as="both",
    resets_token_server=True,
    missing_as_denied=True,
    redirects_with=307,
    storage_on="http",
    storage_takes_get_only=True,
    referrers=404,
    tls=True,
    settings={"allow_http_redirect": True},
)
ACR_ENTERPRISE = Ways(
    title="Alibaba ACR (enterprise)",
    namespace="company-registry.cn-beijing.cr.aliyuncs.com",
    source="traces; referrers: unverified",
    service="registry.aliyuncs.com:cn-beijing:china:cri-abc",
    needs_password=True,
    token_server_elsewhere=True,
    tokens_as="access_token",
    resets_token_server=True,
    denies_with="403",
    redirects_with=307,
    tls=True,
)
GHCR = Ways(
    title="GHCR",
    namespace="ghcr.io",
    source="cloudflare/serverless-registry#149, apple/container#183; 404 for referrers:"
    " dataaxiom/ghcr-cleanup-action#13",
    service="ghcr.io",
    expires_in=False,
    denies_with="token 403",
    refuses_with=403,
    missing_as_denied=True,
    redirects_with=307,
    referrers=404,
)
QUAY = Ways(
    title="Quay",
    namespace="quay.io",
    source="quay/quay; no expires_in: earthly/earthly#890",
    service="quay.io",
    tokens_at="/v2/auth",
    expires_in=False,
    missing_as_denied=True,
    redirects_with=302,
    paging="token",
)
K8S = Ways(
    title="registry.k8s.io",
    namespace="registry.k8s.io",
    source="kubernetes/registry.k8s.io (archeio)",
    auth="open",
    redirects_with=307,
    leads_on="k8s-artifacts-prod/images",
)
GCR = Ways(
    title="GCR",
    namespace="gcr.io",
    source="its answers; 403 for what is private: unverified",
    service="gcr.io",
    tokens_at="/v2/token",
    user="_json_key",
    proof='{"type": "service_account",\n "private_key": "-----BEGIN: x"}',
    denies_with="403",
    fields={f"X-Field-{number}": "v" * 1000 for number in range(21)},
    redirects_with=302,
    paging="none",
    beside_tags={"child": [], "manifest": {}},
    referrers=404,
)
ARTIFACT_REGISTRY = Ways(
    title="Artifact Registry",
    namespace="europe-docker.pkg.dev",
    source="its answers",
    service="europe-docker.pkg.dev",
    tokens_at="/v2/token",
    user="oauth2accesstoken",
    denies_with="403",
    missing_as_denied=True,
    fields={f"X-Field-{number}": "v" for number in range(200)},
    redirects_with=302,
    paging="absolute",
    prefix="project/repository",
)
ECR = Ways(
    title="ECR",
    namespace="123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    source="403 without a challenge for a password that is over: flipt-io/flipt#3043",
    auth="basic",
    user="AWS",
    needs_password=True,
    challenge='Basic realm="https://123456789012.dkr.ecr.eu-west-1.amazonaws.com/"'
    ',service="ecr.amazonaws.com"',
    denies_with="403",
    refuses_with=403,
    redirects_with=307,
    storage_takes_get_only=True,
    paging="last",
)
ECR_PUBLIC = Ways(
    title="ECR Public",
    namespace="public.ecr.aws",
    source="aws/containers-roadmap#2671 (401 for HEAD), #2835 (400 for a token that is over)",
    service="public.ecr.aws",
    tokens_at="/token/",
    challenged_scope="aws",
    over_with="400",
    head_of_blob=401,
    redirects_with=307,
    referrers=404,
)
GITLAB = Ways(
    title="GitLab",
    namespace="registry.gitlab.com",
    source="oras-project/oras-go#1396 (no referrers)",
    service="container_registry",
    tokens_at="/jwt/auth",
    token_server_elsewhere=True,
    denies_with="token 403",
    missing_as_denied=True,
    redirects_with=307,
    referrers=404,
)
HARBOR = Ways(
    title="Harbor (a proxy project)",
    namespace="hub.harbor.example",
    source="goharbor/harbor",
    service="harbor-registry",
    tokens_at="/service/token",
    missing_as_denied=True,
    fields={"Set-Cookie": "sid=1; Path=/; HttpOnly", "X-Request-Id": "1"},
    prefix="hub-proxy",
)
NEXUS = Ways(
    title="Nexus",
    namespace="nexus.example:5000",
    source="crazy-max/diun#1614; lists without pages: unverified",
    auth="basic",
    needs_password=True,
    challenge='BASIC realm="Sonatype Nexus Repository Manager"',
    errors="html",
    denies_with="403",
    paging="none",
    referrers=404,
)
ARTIFACTORY = Ways(
    title="Artifactory",
    namespace="company.jfrog.io",
    source="JFrog's REST API; lengths: unverified",
    service="company.jfrog.io",
    tokens_at="/artifactory/api/docker/docker-remote/v2/token",
    needs_password=True,
    denies_with="403",
    errors="statuses",
    fields={"X-JFrog-Version": "Artifactory/7", "X-Artifactory-Id": "a"},
    is_chunked=True,
    prefix="docker-remote",
    referrers=404,
)
AZURE = Ways(
    title="Azure",
    namespace="company.azurecr.io",
    source="Azure/acr",
    service="company.azurecr.io",
    tokens_at="/oauth2/token",
    tokens_as="access_token",
    needs_password=True,
    expires_in=False,
    redirects_with=307,
)
DISTRIBUTION = Ways(
    title="docker-registry with htpasswd",
    namespace="registry.example:5000",
    source="distribution/distribution",
    auth="basic",
    needs_password=True,
    challenge='Basic realm="Registry Realm"',
    fields={"Docker-Distribution-Api-Version": "registry/2.0"},
    referrers=404,
)
STRIPPED = Ways(
    title="a registry behind a proxy that strips digests",
    namespace="registry.internal",
    source="distribution/distribution#3848, quay/quay#1310",
    auth="open",
    names_digests=False,
    is_chunked=True,
    errors="html",
    referrers=404,
)

ALL = (
    DOCKER_HUB, DOCKER_HARDENED, ACR_PERSONAL, ACR_ENTERPRISE, GHCR, QUAY, K8S, GCR,
    ARTIFACT_REGISTRY, ECR, ECR_PUBLIC, GITLAB, HARBOR, NEXUS, ARTIFACTORY, AZURE, DISTRIBUTION,
    STRIPPED,
)  # fmt: skip
