//! A change that was begun is made to its end, though its client hangs up: a handler that is dropped
//! between a commit and what follows it would leave the loop asleep.

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use hearth_types::problem::Code;

use super::error::ApiError;

/// What comes from elsewhere, as long as somebody wants it: without its client there is nothing
/// to finish.
const BROUGHT: [&str; 2] = ["/v1/images", "/v1/kernels"];
/// The end of the path of an archive that is copied into a guest.
const ARCHIVE: &str = "/archive";

/// Lets a request that changes something run in a task of its own.
pub(super) async fn finish_changes(request: Request, next: Next) -> Response {
    let reads = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    let path = request.uri().path();
    let brought = path.ends_with(ARCHIVE) || BROUGHT.iter().any(|begin| path.starts_with(begin));
    if reads || brought {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(error) => {
            tracing::error!(error = %error, "a request was not answered");
            let words = "the request was interrupted; the log says why";
            ApiError::new(Code::Internal, words).into_response()
        }
    }
}
