#!/usr/bin/env bash
# Installs those of the named Debian packages that are missing; says which where it cannot.
# Tests that need a missing program are skipped with that reason (and fail under CI=true).
set -euo pipefail

missing=()
for package in "$@"; do
  [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
    missing+=("$package")
done
((${#missing[@]})) || exit 0

if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
  echo "not installed: ${missing[*]} (as root on Debian they would be, now)" >&2
  exit 0
fi

# Debian makes a cluster of databases with PostgreSQL: tests make their own.
if [[ ! -e /etc/postgresql-common/createcluster.conf ]]; then
  mkdir -p /etc/postgresql-common
  echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
fi

# The daemons among them must not start by themselves: tests start their own.
policy=/usr/sbin/policy-rc.d
saved=$(mktemp --directory)
restore() {
  rm -f "$policy"
  [[ ! -e $saved/policy-rc.d ]] || mv "$saved/policy-rc.d" "$policy"
  rmdir "$saved"
}
trap restore EXIT
[[ ! -e $policy ]] || mv "$policy" "$saved/"
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

echo "installing: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2 || true # what is known already may do
for package in "${missing[@]}"; do
  apt-get install --quiet=2 --yes --no-install-recommends "$package" >/dev/null ||
    echo "could not install: $package" >&2
done
