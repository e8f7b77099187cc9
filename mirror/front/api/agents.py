"""What kinds of clients do that the rest of us must know."""

# containers/image, and who is made of it.
_TAKES_ALL_FROM_ONE = ("containers/", "cri-o/", "podman/", "buildah/", "skopeo/")


def takes_all_from_one(agent: str) -> bool:
    """Whether a client with this `User-Agent` has no second place to ask once it has a manifest.

    containers/image chooses a mirror by the manifest, and takes every blob from there
    (`docker_image_src.go`, newImageSource).
    """
    return agent.lower().startswith(_TAKES_ALL_FROM_ONE)
