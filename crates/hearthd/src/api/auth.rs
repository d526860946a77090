//! The bearer tokens of the TCP listener.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hearth_types::problem::Code;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::error::ApiError;

/// A token, kept as its digest: comparing digests takes the same time wherever two tokens
/// differ and however long they are.
#[derive(Clone, Debug)]
pub struct Token(Arc<[u8; 32]>);

impl Token {
    /// Takes the token's text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Arc::new(Sha256::digest(text.as_bytes()).into()))
    }

    fn admits(&self, given: &str) -> bool {
        let digest: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        digest.ct_eq(&*self.0).into()
    }
}

/// The tokens of the TCP listener.
#[derive(Clone, Debug)]
pub struct Tokens {
    all: Token,
    metrics: Option<Token>,
}

impl Tokens {
    /// One that opens everything, and perhaps one that opens `/metrics` alone.
    #[must_use]
    pub const fn new(all: Token, metrics: Option<Token>) -> Self {
        Self { all, metrics }
    }

    fn admit(&self, given: &str, path: &str) -> bool {
        let metrics = self.metrics.as_ref().filter(|_| path == "/metrics");
        self.all.admits(given) || metrics.is_some_and(|token| token.admits(given))
    }
}

/// Lets a request through if it carries a token for it or asks for what is open to all.
pub(super) async fn require_token(
    State(tokens): State<Tokens>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let open = matches!(path, "/health" | "/info");
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    if open || given.is_some_and(|(_, given)| tokens.admit(given.trim(), path)) {
        return next.run(request).await;
    }
    ApiError::new(Code::Unauthorized, "this needs the header Authorization: Bearer TOKEN")
        .hint("the token is API_TOKEN in the daemon's configuration; give it to the command line as HEARTH_TOKEN")
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_admitted() {
        let token = Token::new("correct horse");
        assert!(token.admits("correct horse"));
        for wrong in ["", "correct", "correct horse ", "Correct horse"] {
            assert!(!token.admits(wrong), "{wrong:?}");
        }
    }
}
