//! The OpenAPI document under `api/` is the one that these sources make.

use std::path::Path;

#[test]
fn the_document_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../api/openapi.json");
    let fresh = hearthd::api::openapi();
    if std::env::var_os("HEARTH_UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &fresh).unwrap();
    }
    let present = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        present == fresh,
        "api/openapi.json is stale; renew it with: cargo xtask generate"
    );
}

/// Every operation says what it does, how it is called in code, and how it fails.
#[test]
fn every_operation_is_described() {
    let document: serde_json::Value = serde_json::from_str(&hearthd::api::openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut names = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let called = format!("{method} {path}");
            assert!(
                !operation["summary"].as_str().unwrap_or("").is_empty(),
                "{called}"
            );
            let name = operation["operationId"].as_str().unwrap();
            assert!(names.insert(name.to_owned()), "{called}: {name} is taken");
            let responses = operation["responses"].as_object().unwrap();
            let fails = responses
                .keys()
                .any(|code| code == "default" || code.starts_with(['4', '5']));
            assert!(fails, "{called} does not say how it fails");
        }
    }
    assert!(names.len() >= 33, "{}", names.len());
}
