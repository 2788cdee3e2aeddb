#!/bin/sh
# Lays out a root file system for a program that needs glibc, libstdc++ and certificates, out of Debian's packages:
#   make-root.sh FOLDER        runs as root on Debian; deploy/Dockerfile calls it.
# What was unpacked is noted in var/lib/dpkg/status.d, where scanners of images look for it.
set -eu

root=$1
packages="libc6 libgcc-s1 libstdc++6"
export DEBIAN_FRONTEND=noninteractive

apt-get update -qq
apt-get install -y -qq --no-install-recommends ca-certificates >/dev/null

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$root/var/lib/dpkg/status.d"
# Where Debian puts libraries for this processor, `x86_64-linux-gnu` for one; as in Debian, /lib is a link to /usr/lib.
mkdir -p "$root/usr/lib" "$root/usr/lib64" "$root/usr/bin"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
(cd "$work" && chmod 755 . && apt-get -o APT::Sandbox::User=root download -qq $packages)
for file in "$work"/*.deb; do
    package=$(dpkg-deb --field "$file" Package)
    dpkg-deb --fsys-tarfile "$file" | tar --extract --directory "$root" --keep-directory-symlink
    dpkg-deb --field "$file" >"$root/var/lib/dpkg/status.d/$package"
    dpkg-deb --ctrl-tarfile "$file" | tar --extract --to-stdout ./md5sums >"$root/var/lib/dpkg/status.d/$package.md5sums"
done

# Texts for people, character sets that nobody converts, and tools of the debugger's.
find "$root/usr/share" -mindepth 1 -maxdepth 1 ! -name doc -exec rm -rf {} +
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/lib" -type d -name gconv -prune -exec rm -rf {} +
find "$root/usr/lib" -type d -name audit -prune -exec rm -rf {} +
find "$root" -depth -type d -empty -delete

mkdir -p "$root/etc/ssl/certs"
cp --dereference /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
cp /etc/debian_version "$root/etc/"
cp --dereference /etc/os-release "$root/etc/os-release"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
cat >"$root/etc/passwd" <<'PASSWD'
root:x:0:0:root:/root:/sbin/nologin
lensgate:x:65532:65532:lensgate:/var/lib/lensgate:/sbin/nologin
PASSWD
cat >"$root/etc/group" <<'GROUP'
root:x:0:
lensgate:x:65532:
GROUP
install -d "$root/proc" "$root/sys" "$root/dev" "$root/run"
install -d -m 1777 "$root/tmp"
# A new volume takes its owner from the folder that it is laid over.
install -d -o 65532 -g 65532 -m 0750 "$root/var/lib/lensgate" "$root/var/lib/lensgate/data" "$root/var/lib/lensgate/model-store"
install -d "$root/var/lib/lensgate/config"
