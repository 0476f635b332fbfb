#!/bin/bash
# Builds the RPMs around VIRTKEEP_BIN and takes them through their life in a tree below DIR that has a shell and nothing
# else. rpm's database is empty there, so what they depend on is read instead of looked for: --nodeps. For tests/packages.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "rpm: $*"; }
die() { echo "rpm: error: $*" && exit 1; }
for tool in rpmbuild rpm rpmlint; do
    command -v "$tool" >/dev/null || die "$tool is missing: apt-get install rpm rpmlint"
done
[ -x /bin/busybox ] || die "busybox is missing: apt-get install busybox-static"

dir=${1:?usage: tests/packages-rpm.sh DIR}
root=$dir/tree
rm -rf "$dir"
mkdir -p "$root/bin" "$root/run" "$root/usr/bin"
cp /bin/busybox "$root/bin/sh"
config=$root/etc/virtkeep/virtkeep.toml

packaging/rpm.sh "$dir" >/dev/null
VIRTKEEP_VERSION=0.0.9 packaging/rpm.sh "$dir/old" >/dev/null
main=$(echo "$dir"/*/virtkeep-[0-9]*.rpm) dropin=$(echo "$dir"/noarch/virtkeep-drop-in-*.rpm)
old=$(echo "$dir"/old/*/virtkeep-[0-9]*.rpm)
say "built $(basename "$main"), $(basename "$dropin")"

# Debian's rpmlint knows another distribution's customs.
cat >"$dir/rpmlint.toml" <<'END'
Filters = ["no-signature", "no-packager-tag", "no-group-tag", "invalid-license", "dangling-relative-symlink",
    "manpage-not-compressed", "no-manual-page-for-binary"]
END
rpmlint -c "$dir/rpmlint.toml" "$main" "$dropin" | tee "$dir/rpmlint.txt"
grep -q ' 0 errors' "$dir/rpmlint.txt" || die "rpmlint finds errors"

requires=$(command rpm -qp --requires "$main")
for name in 'libvirt.so.0()(64bit)' 'libnbd.so.0()(64bit)' qemu-img; do
    grep -qxF "$name" <<<"$requires" || die "it does not require $name"
done
[ "$(command rpm -qpc "$main")" = /etc/virtkeep/virtkeep.toml ] || die "the configuration is not marked as such"
command rpm -qp --conflicts "$dropin" | grep -qx virtnbdbackup || die "the drop-in does not conflict with virtnbdbackup"

# What the RPM holds is what install.sh installs, man pages compressed.
DESTDIR=$dir/list packaging/install.sh --drop-in /usr
(cd "$dir/list" && find . \( -type f -o -type l \) -printf '/%P\n') |
    sed 's|\(/man1/.*\.1\)$|\1.gz|' | LC_ALL=C sort >"$dir/wanted"
command rpm -qpl "$main" "$dropin" | grep -v -e '^/usr/share/licenses' -e '/$' | while read -r path; do
    [ -d "$dir/list$path" ] || echo "$path"
done | LC_ALL=C sort >"$dir/found"
diff "$dir/wanted" "$dir/found" || die "the RPM has other files than install.sh installs"
say "$(wc -l <"$dir/found") files, as install.sh has them"

in_tree() { command rpm --root "$root" "$@"; }
in_tree --initdb
in_tree -i --nodeps "$old"
[ -x "$root/usr/bin/virtkeep" ] || die "nothing was installed"
echo '# mine' >>"$config"
in_tree -U --nodeps "$main"
[ "$(in_tree -q --qf '%{VERSION}' virtkeep)" != 0.0.9 ] || die "it was not upgraded"
[ "$(tail -n 1 "$config")" = '# mine' ] || die "the upgrade did not keep the changed configuration"
in_tree -V --nodeps virtkeep | grep -v ' c /etc/virtkeep/virtkeep.toml' | grep . && die "files differ from the package's"
in_tree -i --nodeps "$dropin"
[ "$(readlink "$root/usr/bin/virtnbdbackup")" = virtkeep ] || die "no drop-in link"
say "installed 0.0.9, upgraded: the changed configuration is kept; the drop-in is there"
in_tree -e virtkeep-drop-in virtkeep
left=$(find "$root" -path "$root/var/lib/rpm" -prune -o -name '*virt*' ! -type d -print)
[ "$left" = "$config.rpmsave" ] || die "left behind: $left"
say "removed: the changed configuration stays as virtkeep.toml.rpmsave"
