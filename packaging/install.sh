#!/bin/bash
# Puts virtkeep below a prefix, or takes it away again. The one list of what goes where: the Debian packages, the RPM
# and the container image are made with it.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
usage: packaging/install.sh [--drop-in|--only-drop-in] [--no-systemd] [--uninstall] [PREFIX]
  PREFIX           [default: /usr/local]
  --drop-in        virtnbdbackup, virtnbdrestore and virtnbdmap, too, as links to virtkeep, with their pages
  --only-drop-in   nothing but these
  --no-systemd     no units
  --uninstall      removes what an installation with the same PREFIX puts there; never the configuration, never a backup
  DESTDIR          a directory that stands for /, as packages are made
  VIRTKEEP_BIN     the program [default: target/release/virtkeep]
  VIRTKEEP_ZSH     where zsh looks for completions [default: PREFIX/share/zsh/site-functions]
  VIRTKEEP_SYSCONF where the configuration is [default: /etc, which is where the program looks]
An existing configuration file stays as it is.
END
}

die() { echo "install: error: $1" >&2 && { [ -z "${2-}" ] || echo "hint: $2" >&2; } && exit 1; }

main=yes dropin='' systemd=yes uninstall='' prefix=''
for argument; do
    case $argument in
    --drop-in) dropin=yes ;;
    --only-drop-in) dropin=yes main='' ;;
    --no-systemd) systemd='' ;;
    --uninstall) uninstall=yes ;;
    -h | --help) usage && exit ;;
    -*) usage >&2 && exit 2 ;;
    *) [ -z "$prefix" ] || { usage >&2 && exit 2; } && prefix=$argument ;;
    esac
done
prefix=${prefix:-/usr/local}
case $prefix in
/*) prefix=${prefix%/} ;;
*) die "PREFIX must be an absolute path: $prefix" ;;
esac
destination=${DESTDIR-}
config=${VIRTKEEP_SYSCONF-/etc}/virtkeep/virtkeep.toml
zsh=${VIRTKEEP_ZSH-$prefix/share/zsh/site-functions}
bin=${VIRTKEEP_BIN-target/release/virtkeep}

line() { printf '%s\t%s\t%s\n' "$@"; }

# What is installed: mode, source, target; a link's mode is "link".
files() {
    if [ -n "$main" ]; then
        line 755 "$bin" "$prefix/bin/virtkeep"
        local file
        for file in packaging/man/virtkeep*.1; do line 644 "$file" "$prefix/share/man/man1/${file##*/}"; done
        line 644 "packaging/completions/virtkeep.bash" "$prefix/share/bash-completion/completions/virtkeep"
        line 644 "packaging/completions/_virtkeep" "$zsh/_virtkeep"
        line 644 "packaging/completions/virtkeep.fish" "$prefix/share/fish/vendor_completions.d/virtkeep.fish"
        for file in README.md docs/*.md docs/*.svg; do
            # The book's alone.
            [ "$file" = docs/SUMMARY.md ] || line 644 "$file" "$prefix/share/doc/virtkeep/${file##*/}"
        done
        for file in packaging/examples/* packaging/virtkeep.toml; do
            line 644 "$file" "$prefix/share/doc/virtkeep/examples/${file##*/}"
        done
        if [ -n "$systemd" ]; then
            for file in packaging/systemd/*.service packaging/systemd/*.timer; do
                line 644 "$file" "$prefix/lib/systemd/system/${file##*/}"
            done
            line 755 "packaging/systemd/failed" "$prefix/libexec/virtkeep/failed"
        fi
    fi
    if [ -n "$dropin" ]; then
        local name
        for name in virtnbdbackup virtnbdrestore virtnbdmap; do
            line link "virtkeep" "$prefix/bin/$name"
            line 644 "packaging/man/$name.1" "$prefix/share/man/man1/$name.1"
        done
    fi
}

# Units name the program with its whole path.
put() { # MODE SOURCE TARGET
    local target=$destination$3
    case $1 in
    link) mkdir -p "${target%/*}" && ln -sfn "$2" "$target" ;;
    *) install -D -m "$1" "$2" "$target" ;;
    esac
    case $3 in
    */systemd/system/*) sed -i "s|@PREFIX@|$prefix|g" "$target" ;;
    esac
}

# The example with a place for backups, so that a timer needs no more than being enabled.
put_config() {
    [ ! -e "$destination$config" ] || return 0
    mkdir -p "$destination${config%/*}"
    sed 's/^# \(\[backup\]\)$/\1/; s/^# \(output = "[^"]*%d[^"]*"\)$/\1/' packaging/virtkeep.toml >"$destination$config"
    chmod 644 "$destination$config"
}

# Directories that are nobody else's.
own_directories=("$prefix/share/doc/virtkeep/examples" "$prefix/share/doc/virtkeep" "$prefix/libexec/virtkeep")

if [ -n "$uninstall" ]; then
    while IFS=$'\t' read -r _ _ target; do rm -f "$destination$target" "$destination$target.gz"; done < <(files)
    for directory in "${own_directories[@]}"; do
        [ ! -d "$destination$directory" ] || rmdir "$destination$directory" 2>/dev/null || true
    done
    [ -z "$main" ] || [ ! -e "$destination$config" ] || echo "install: the configuration stays: $destination$config" >&2
    exit
fi

[ -z "$main" ] || [ -x "$bin" ] || die "the program is not there: $bin" "cargo build --release --locked, or VIRTKEEP_BIN"
while IFS=$'\t' read -r mode source target; do put "$mode" "$source" "$target"; done < <(files)
[ -z "$main" ] || put_config
if [ -n "$main" ] && [ -n "$systemd" ] && [ -z "$destination" ]; then
    case $prefix in
    /usr | /usr/local) [ ! -d /run/systemd/system ] || systemctl daemon-reload ;;
    *) echo "install: systemd does not look into $prefix/lib/systemd/system: systemctl link the units there" >&2 ;;
    esac
fi
