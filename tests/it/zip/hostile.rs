//! Zip files that are damaged, or made to do harm.

use super::Piped;
use crate::support::{Lab, MIB, run, virtkeep};

#[test]
fn what_is_wrong_with_a_zip_file_is_said() {
    let lab = Lab::up();
    let piped = Piped::new(&lab, &["vda:8M"]);
    piped.case.domain.write("vda", 0x11, 0, 2 * MIB);
    piped.backs_up("full.zip", &[]);
    let whole = std::fs::read(piped.path("full.zip")).unwrap();
    let refused = |name: &str, status: i32, words: &[&str]| {
        let (out, input) = (lab.fresh_directory().join("out"), piped.path(name));
        for command in ["dump", "verify", "restore"] {
            let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&command, &"-i", &input];
            if command == "restore" {
                arguments.extend([&"-o" as &dyn AsRef<std::ffi::OsStr>, &out]);
            }
            virtkeep(&arguments).ends_with(status).says(&[name, "hint: "]).says(words);
        }
        assert!(!out.exists());
    };
    for length in [0, 10, whole.len() / 2, whole.len() - 1] {
        std::fs::write(piped.path("cut.zip"), &whole[..length]).unwrap();
        let words: &[&str] = if length > 10 { &["cut short"] } else { &[] };
        if length == 0 {
            virtkeep(&[&"dump", &"-i", &piped.path("cut.zip")]).ends_with(4).says(&["cut.zip", "empty"]);
        } else {
            refused("cut.zip", 4, words);
        }
    }
    std::fs::write(piped.path("none.zip"), "no zip file, but long enough to be looked into").unwrap();
    refused("none.zip", 2, &["zip"]);
    let pack = "import sys, zipfile
source = zipfile.ZipFile(sys.argv[1])
target = zipfile.ZipFile(sys.argv[2], 'w', int(sys.argv[3]))
for name in source.namelist():
    target.writestr(sys.argv[4] + name, source.read(name))
target.close()";
    let packed = |name: &str, method: &str, prefix: &str| {
        run("python3", &[&"-c", &pack, &piped.path("full.zip"), &piped.path(name), &method, &prefix]).succeeds();
    };
    packed("packed.zip", "8", "");
    refused("packed.zip", 1, &["compressed", "unzip"]);
    // Names that lead out of a set are no names of a set.
    packed("evil.zip", "0", "../../");
    virtkeep(&[&"verify", &"-i", &piped.path("evil.zip")]).ends_with(1).says(&["no restore point"]);
    packed("again.zip", "0", "");
    virtkeep(&[&"verify", &"-i", &piped.path("again.zip")]).succeeds();
    let missing = format!("{},{}", piped.path("full.zip").display(), piped.path("nowhere.zip").display());
    virtkeep(&[&"dump", &"-i", &missing]).ends_with(1).says(&["nowhere.zip", "hint: "]);
    virtkeep(&[&"dump", &"-i", &piped.path("full.zip"), &"-i", &piped.work]).ends_with(2).says(&["hint: "]);

    // Every byte of the data is proven.
    let mut damaged = whole.clone();
    damaged[MIB as usize] ^= 1;
    std::fs::write(piped.path("damaged.zip"), damaged).unwrap();
    virtkeep(&[&"verify", &"-i", &piped.path("damaged.zip")]).ends_with(4).says(&["damage", "vda"]);
    let out = lab.fresh_directory().join("out");
    virtkeep(&[&"restore", &"-i", &piped.path("damaged.zip"), &"-o", &out]).ends_with(4).says(&["vda.full.data"]);
    assert!(!out.join("d-vda.qcow2").exists());
}
