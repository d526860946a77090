//! What the documents name exists: the tests and benches of `docs/guarantees.md`, and the
//! files that documents link to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A function with a test attribute, or a name that a macro of the file makes a test of.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_fn = |line: &str| {
        line.split_once("fn ")
            .and_then(|(_, rest)| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    let is_attribute = |line: &&&str| line.starts_with("#[") || line.starts_with("//");
    let as_function = lines.iter().enumerate().any(|(at, line)| {
        let above = lines.get(..at).unwrap_or_default();
        let mut above = above.iter().rev().take_while(is_attribute);
        is_fn(line) && above.any(|line| line.starts_with("#[") && line.contains("test"))
    });
    let in_macro = || {
        let words = |line: &&str| {
            !line.starts_with("//")
                && (line.contains("=>") || line.ends_with(','))
                && line
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .any(|word| word == name)
        };
        source.contains("macro_rules!") && lines.iter().any(words)
    };
    as_function || in_macro()
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let text = read(&root().join("docs/guarantees.md")).expect("docs/guarantees.md");
    let named: BTreeSet<_> = quoted(&text)
        .filter_map(|word| word.split_once(".rs::"))
        .collect();
    assert!(named.len() > 50, "only {} tests are named", named.len());
    let missing: Vec<String> = named
        .into_iter()
        .filter(|(file, test)| {
            let path = root().join("crates").join(format!("{file}.rs"));
            !read(&path).is_some_and(|source| has_test(&source, test))
        })
        .map(|(file, test)| format!("{file}.rs::{test}"))
        .collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_guarantee_names_benches_that_exist() {
    let text = read(&root().join("docs/guarantees.md")).expect("docs/guarantees.md");
    let benches = read(&root().join("xtask/src/bench.rs")).expect("the list of benches");
    let mut named = 0;
    for part in text.split("bench").skip(1) {
        // "bench `a`", "benches `a`, `b`": names go on as long as only commas part them.
        let part = part.strip_prefix("es").unwrap_or(part);
        let mut pieces = part.split('`');
        while pieces.next().is_some_and(|gap| gap == " " || gap == ", ") {
            let name = pieces.next().unwrap_or_default();
            assert!(
                benches.contains(&format!("name: \"{name}\"")),
                "there is no bench {name}"
            );
            named += 1;
        }
    }
    assert!(named > 5, "only {named} benches are named");
}

#[test]
fn links_lead_to_files() {
    let mut documents = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/adr", "docs/runbooks"] {
        let entries = std::fs::read_dir(root().join(folder)).expect("a folder of documents");
        documents.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    documents.retain(|path| path.extension().is_some_and(|end| end == "md"));
    for document in documents {
        let text = read(&document).expect("a document");
        let folder = document.parent().expect("documents are in folders");
        for link in text.split("](").skip(1) {
            let link = link.split([')', '#']).next().unwrap_or_default();
            if link.is_empty() || link.contains("://") {
                continue;
            }
            assert!(
                folder.join(link).exists(),
                "{} links to {link}, which is not there",
                document.display()
            );
        }
    }
}
