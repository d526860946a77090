//! A token service as registries use it: it checks a login and signs what may be done
//! (distribution's "Token Authentication Specification").

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::json;

use super::certificates::{Pair, authority};
use super::registry::{Registry, output};

/// Who signs, and for whom. Registry and service must agree on the words.
const ISSUER: &str = "token service of the test";
const SERVICE: &str = "registry of the test";

/// A service on loopback.
pub(crate) struct Tokens {
    port: u16,
    certificate: PathBuf,
    /// Tokens that were handed out.
    pub(crate) issued: Arc<Mutex<Vec<String>>>,
    _dir: Arc<tempfile::TempDir>,
    /// Of its own: the tests' threads wait for tools that wait for the service.
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
struct Desk {
    keys: Arc<Pair>,
    /// `user:password`.
    login: &'static str,
    /// A refusal quotes what was given: the worst of services.
    quotes: bool,
    issued: Arc<Mutex<Vec<String>>>,
    dir: Arc<tempfile::TempDir>,
}

impl Tokens {
    /// Gives tokens to whoever knows `user:password`; others hear no, and what they said if
    /// it `quotes`.
    pub(crate) fn start(login: &'static str, quotes: bool) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let keys = Arc::new(authority(dir.path(), "tokens"));
        let desk = Desk {
            keys: Arc::clone(&keys),
            login,
            quotes,
            issued: Arc::default(),
            dir: Arc::clone(&dir),
        };
        let issued = Arc::clone(&desk.issued);
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/token", get(token)).with_state(desk);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
        Self {
            port,
            certificate: keys.certificate.clone(),
            issued,
            _dir: dir,
            runtime: Some(runtime),
        }
    }

    /// Closes the service; its port refuses from now on.
    pub(crate) async fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            tokio::task::spawn_blocking(move || drop(runtime))
                .await
                .unwrap();
        }
    }

    /// A registry that sends logins here.
    pub(crate) fn registry(&self) -> Registry {
        let section = format!(
            "auth:\n  token:\n    realm: http://127.0.0.1:{}/token\n    service: {SERVICE}\n    issuer: {ISSUER}\n    rootcertbundle: {}",
            self.port,
            self.certificate.display()
        );
        Registry::with("", &section)
    }
}

impl Drop for Tokens {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn token(
    State(desk): State<Desk>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let expected = format!("Basic {}", BASE64_STANDARD.encode(desk.login));
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    if given != Some(expected.as_str()) || query.get("service").is_none_or(|s| s != SERVICE) {
        let quoted = given.filter(|_| desk.quotes).unwrap_or_default();
        return (StatusCode::UNAUTHORIZED, format!("no {quoted}")).into_response();
    }
    let scope = query.get("scope").map_or("", String::as_str);
    let token = desk.sign(scope);
    desk.issued.lock().unwrap().push(token.clone());
    axum::Json(json!({ "token": token, "expires_in": 300 })).into_response()
}

impl Desk {
    /// A JSON Web Token for `repository:NAME:ACTIONS`, with the certificate beside it.
    fn sign(&self, scope: &str) -> String {
        let now = jiff::Timestamp::now().as_second();
        let access: Vec<_> = match scope.splitn(3, ':').collect::<Vec<_>>()[..] {
            [kind, name, actions] => vec![json!({
                "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()
            })],
            _ => Vec::new(),
        };
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": "test", "jti": format!("{now}"),
            "iat": now, "nbf": now - 60, "exp": now + 300, "access": access
        });
        let der = output(
            "openssl",
            &[
                "x509",
                "-outform",
                "DER",
                "-in",
                path(&self.keys.certificate),
            ],
        );
        let head = json!({"typ": "JWT", "alg": "RS256", "x5c": [BASE64_STANDARD.encode(der)]});
        let part = |value: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&head), part(&claims));
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        std::fs::write(file.path(), &text).unwrap();
        let key = path(&self.keys.key);
        let signature = output(
            "openssl",
            &["dgst", "-sha256", "-sign", key, path(file.path())],
        );
        format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
