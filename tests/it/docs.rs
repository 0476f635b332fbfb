//! What the documents say of the tests is true.

/// All `word::word` in backquotes.
fn names(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.contains("::") && !word.contains(['*', ' ', '/', '<'])).collect()
}

#[test]
fn every_state_names_a_test_that_is_there() {
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read_to_string(format!("{root}/docs/states.md")).unwrap();
    let names = names(&text);
    assert!(names.len() > 50, "{names:?}");
    for name in names {
        let path: Vec<&str> = name.split("::").collect();
        let base = format!("{root}/tests/it/{}", path.join("/"));
        let is_module =
            [format!("{base}.rs"), format!("{base}/mod.rs")].iter().any(|file| std::fs::exists(file).unwrap());
        let (function, module) = path.split_last().unwrap();
        let file = format!("{root}/tests/it/{}.rs", module.join("/"));
        let is_function = std::fs::read_to_string(file).is_ok_and(|code| code.contains(&format!("fn {function}(")));
        assert!(is_module || is_function, "docs/states.md: there is no test {name}");
    }
    for row in
        text.lines().filter(|line| line.starts_with("| ") && !line.contains("---") && !line.starts_with("| state"))
    {
        let cell = row.trim_end_matches('|').rsplit('|').next().unwrap().trim();
        assert!(cell.contains('`') || cell == "the same", "docs/states.md: no test is named: {row}");
    }
}
