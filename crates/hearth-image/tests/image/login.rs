//! Registries that want a login: by name and password, and by a token service. Needs root,
//! docker-registry, skopeo, umoci and openssl.

use std::path::PathBuf;

use hearth_image::{ImageError, PullRequest};
use hearth_types::api::RegistryAuth;

use crate::common::content::{layout, request, tar};
use crate::common::registry::{Registry, need, need_tools};
use crate::common::spy::Spy;
use crate::common::tokens::Tokens;
use crate::common::{NoProgress, Store, need_root};

const PASSWORD: &str = "correct horse 8c1f";
const WRONG: &str = "battery staple 77d0";
const LOGIN: &str = "alice:correct horse 8c1f";
/// bcrypt of [`PASSWORD`] at its least cost, as `htpasswd -B` makes it.
const HTPASSWD: &str = "alice:$2y$05$abcdefghijklmnopqrstuuOgwSyxVqRHRojOMnt0MBmexfPfivXXi\n";

fn ready() -> bool {
    need_root() && need_tools() && need(&["openssl"])
}

fn login(reference: &str, password: &str) -> PullRequest {
    PullRequest {
        auth: Some(RegistryAuth {
            username: "alice".to_owned(),
            password: password.to_owned(),
        }),
        ..request(reference)
    }
}

fn small_layout(store: &Store) -> PathBuf {
    let dir = store.dir.path().join("layout");
    layout(&dir, "v1", &[tar(&[("hello", "world")])]);
    dir
}

/// An error as people read it: with its causes, its debug form and its advice.
fn all_of(error: &ImageError) -> String {
    let mut text = format!("{error:?}\n{error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text + "\n" + &error.hint().unwrap_or_default()
}

/// Refused in words: which registry, which image, who asked and what to do.
fn assert_refused(error: &ImageError, port: u16, asker: &str) {
    assert!(matches!(error, ImageError::Login { .. }), "{error:?}");
    let registry = format!("127.0.0.1:{port}");
    assert_eq!(
        error.to_string(),
        format!("{registry} does not give app to {asker}")
    );
    let hint = error.hint().unwrap();
    assert!(
        hint.ends_with(&format!("docker login {registry}")),
        "{hint}"
    );
}

/// Nothing of these is in a text.
fn assert_secret(text: &str, secrets: &[&str]) {
    use base64::Engine as _;
    for secret in secrets {
        let packed = base64::prelude::BASE64_STANDARD.encode(format!("alice:{secret}"));
        for form in [secret, packed.as_str()] {
            assert!(!text.contains(form), "a secret is told:\n{text}");
        }
    }
}

#[tokio::test]
async fn a_login_by_password() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let passwords = store.dir.path().join("htpasswd");
    std::fs::write(&passwords, HTPASSWD).unwrap();
    let registry = Registry::with_passwords(&passwords);
    let dir = small_layout(&store);
    let reference = registry.push_as(&["--dest-creds", LOGIN], &dir, "v1", "app:1");
    let (spy, _guard) = Spy::listen();
    let images = &store.images;

    let error = images
        .pull(request(&reference), &NoProgress)
        .await
        .unwrap_err();
    assert_refused(&error, registry.port, "anybody who has not logged in");
    let error = images
        .pull(login(&reference, WRONG), &NoProgress)
        .await
        .unwrap_err();
    assert_refused(&error, registry.port, "user \"alice\"");
    let told = all_of(&error);
    assert!(store.image_folders().is_empty());

    let record = images
        .pull(login(&reference, PASSWORD), &NoProgress)
        .await
        .unwrap();
    assert_eq!(store.mount(&record.id).read("hello"), b"world");
    assert!(spy.text().contains("Pulling image manifest from"));
    assert_secret(&(told + &spy.text()), &[PASSWORD, WRONG]);
}

#[tokio::test]
async fn a_login_by_token() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let tokens = Tokens::start(LOGIN, false);
    let registry = tokens.registry();
    let dir = small_layout(&store);
    let reference = registry.push_as(&["--dest-creds", LOGIN], &dir, "v1", "app:1");
    tokens.issued.lock().unwrap().clear();
    let (spy, _guard) = Spy::listen();
    let images = &store.images;

    let error = images
        .pull(request(&reference), &NoProgress)
        .await
        .unwrap_err();
    assert_refused(&error, registry.port, "anybody who has not logged in");
    let mut told = all_of(&error);
    let error = images
        .pull(login(&reference, WRONG), &NoProgress)
        .await
        .unwrap_err();
    assert_refused(&error, registry.port, "user \"alice\"");
    told += &all_of(&error);
    assert!(tokens.issued.lock().unwrap().is_empty());

    let record = images
        .pull(login(&reference, PASSWORD), &NoProgress)
        .await
        .unwrap();
    assert_eq!(store.mount(&record.id).read("hello"), b"world");
    let issued = tokens.issued.lock().unwrap().clone();
    assert_eq!(
        issued.len(),
        1,
        "one token serves manifest, config and layer"
    );
    let mut secrets: Vec<&str> = issued.iter().map(String::as_str).collect();
    secrets.extend([PASSWORD, WRONG]);
    assert_secret(&(told + &spy.text()), &secrets);
}

/// What the service says in its refusal is not repeated.
#[tokio::test]
async fn a_token_service_that_quotes_the_login_is_not_quoted() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let tokens = Tokens::start(LOGIN, true);
    let registry = tokens.registry();
    let reference = format!("127.0.0.1:{}/app:1", registry.port);
    let pull = store.images.pull(login(&reference, WRONG), &NoProgress);
    let error = pull.await.unwrap_err();
    assert_refused(&error, registry.port, "user \"alice\"");
    assert_secret(&all_of(&error), &[WRONG]);
}

/// A service that is down is not a wrong password.
#[tokio::test]
async fn a_token_service_that_is_down_is_named() {
    if !ready() {
        return;
    }
    let store = Store::new();
    let mut tokens = Tokens::start(LOGIN, false);
    let registry = tokens.registry();
    let dir = small_layout(&store);
    let reference = registry.push_as(&["--dest-creds", LOGIN], &dir, "v1", "app:1");
    tokens.stop().await;
    let error = store
        .images
        .pull(login(&reference, PASSWORD), &NoProgress)
        .await
        .unwrap_err();
    assert!(
        matches!(
            &error,
            ImageError::Login {
                source: Some(_),
                ..
            }
        ),
        "{error:?}"
    );
    let told = all_of(&error);
    assert!(told.contains("/token"), "{told}");
    assert!(told.contains("try again later"), "{told}");
    assert_secret(&told, &[PASSWORD]);
}
