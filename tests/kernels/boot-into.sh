#!/usr/bin/env bash
# In a VM of Debian 12: installs a kernel of another suite of Debian, and has the next boot take it.
#   boot-into.sh SUITE PACKAGE=VERSION ...
set -euo pipefail
suite=$1
shift
uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -1)
cat >/etc/apt/sources.list.d/kernel.sources <<SOURCES
Types: deb
URIs: $uri
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
# Nothing of it but what is asked for, and what that needs.
printf 'Package: *\nPin: release n=%s\nPin-Priority: 100\n' "$suite" >/etc/apt/preferences.d/kernel
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --allow-downgrades "$@"
for package in "$@"; do
  case "$package" in
    linux-image-*) release=${package%%=*} && release=${release#linux-image-} ;;
  esac
done
# GRUB's menu begins with the newest, which need not be this one.
sed -i '/^GRUB_DEFAULT=/d' /etc/default/grub
echo "GRUB_DEFAULT='Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux $release'" >>/etc/default/grub
update-grub
