"""Lines for `htpasswd_file`."""

import bcrypt

_LONGEST = 72  # bytes: bcrypt looks at no more


def make_line(name: str, password: str) -> str:
    """A name and the bcrypt hash of its password. Raises ValueError."""
    secret = password.encode()
    if not name or ":" in name or not name.isprintable():
        raise ValueError("a name is printable, and holds no colon (RFC 7617)")
    if not secret or len(secret) > _LONGEST:
        raise ValueError(f"a password has 1 to {_LONGEST} bytes")
    return f"{name}:{bcrypt.hashpw(secret, bcrypt.gensalt()).decode()}"
