//! The release script, in a repository of its own.

use std::path::Path;

use serde_json::Value;

use super::ROOT;
use crate::support::{Lab, Run, listing, run};

fn shell(directory: &Path, script: &str) -> Run {
    let path = format!("{}/.cargo/bin:{}", std::env::var("HOME").unwrap_or_default(), std::env::var("PATH").unwrap());
    run("env", &[&"-C", &directory, &format!("PATH={path}"), &"bash", &"-euc", &script])
}

#[test]
fn a_release_is_all_or_nothing() {
    let lab = Lab::up();
    let tree = lab.fresh_directory();
    // What is not committed yet is part of it, too.
    let copy = format!(
        "tar -C {ROOT} --exclude=./target --exclude=./.git --exclude=./tests/fuzz -cf - . | tar xf -\n\
         git init -q . && git config user.name Test && git config user.email test@example.org\n\
         printf 'target\\n' >.gitignore && git add -A && git commit -qm begin"
    );
    shell(&tree, &copy).succeeds();
    let release = |words: &str| shell(&tree, &format!("packaging/release.sh --no-checks --no-packages {words}"));
    let head = || shell(&tree, "git rev-parse HEAD; git status --porcelain; git tag").succeeds().stdout;
    let before = head();
    release("1.2").ends_with(1).says(&["not a version"]);
    release("0.0.1").ends_with(1).says(&["is older than"]);
    shell(&tree, "echo >>README.md").succeeds();
    release("99.0.0").ends_with(1).says(&["the tree has changes"]);
    shell(&tree, "git checkout -q README.md").succeeds();
    // It fails on the way.
    shell(&tree, "printf '#!/bin/sh\\nexit 1\\n' >packaging/sbom.py && git commit -qam broken").succeeds();
    let broken = head();
    release("99.0.0").ends_with(1).says(&["the tree is as before"]);
    assert_eq!(head(), broken);
    shell(&tree, "git reset -q --hard HEAD^").succeeds();
    assert_eq!(head(), before);

    release("99.0.0").succeeds();
    assert!(head().ends_with("v99.0.0\n"), "{}", head());
    let text = |name: &str| std::fs::read_to_string(tree.join(name)).unwrap();
    assert!(text("Cargo.toml").contains("version = \"99.0.0\""));
    assert!(text("docs/changelog.md").contains("\n## 99.0.0 (20") && !text("docs/changelog.md").contains("Unreleased"));
    assert!(text("packaging/man/virtkeep.1").contains("\"virtkeep 99.0.0\""));
    let out = tree.join("target/release-99.0.0");
    assert_eq!(listing(&out), ["SHA256SUMS", "virtkeep-99.0.0.cdx.json", "virtkeep-99.0.0.tar.gz"]);
    shell(&out, "sha256sum -c SHA256SUMS && tar tzf *.tar.gz virtkeep-99.0.0/Cargo.lock").succeeds();
    let sbom: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("virtkeep-99.0.0.cdx.json")).unwrap()).unwrap();
    assert_eq!(sbom["metadata"]["component"]["purl"], "pkg:cargo/virtkeep@99.0.0");
    let names: Vec<&str> =
        sbom["components"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"rustls") && names.contains(&"virt-sys") && !names.contains(&"proptest"), "{names:?}");
    assert!(sbom["components"].as_array().unwrap().iter().all(|one| one["hashes"][0]["content"].is_string()));
    release("99.0.0").ends_with(1).says(&["the tag v99.0.0 is there already"]);
}
