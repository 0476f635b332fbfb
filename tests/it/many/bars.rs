//! Progress of several domains on a terminal.

use super::{arguments, data};
use crate::support::{Lab, SLOWLY, program, random_disk, run};

#[test]
fn each_domain_has_its_bars() {
    let lab = Lab::up();
    for name in ["one", "a-name-that-is-longer-than-its-room"] {
        lab.domain(name, &[&random_disk(&lab, 36)]);
    }
    let output = lab.fresh_directory();
    // Not what they have by default, no bars.
    let words = arguments(&lab, &output, &["--all", SLOWLY, "--parallel", "2"]);
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| *word != "-n").collect();
    // A terminal of 80 columns.
    let command = format!("stty cols 80; exec {} '{}'", program().display(), words.join("' '"));
    let run = run("script", &[&"-qefc", &command, &"/dev/null"]).ends_with(0);
    for bar in ["one: vda            █", "…than-its-room: vda █"] {
        assert!(run.stdout.contains(bar), "no {bar:?} in {}", run.stdout);
    }
    // What is told to whom draws them is not for people.
    assert!(!run.stdout.contains("virtkeep-"), "{}", run.stdout);
    assert!(run.stdout.contains("2 domains"), "{}", run.stdout);
    assert_eq!(data(&output.join("one")), ["vda.full.data"]);
}
