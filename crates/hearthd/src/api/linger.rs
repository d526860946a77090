//! What a client still sends when its answer is there.
//!
//! Who is refused in the middle of a long upload hears why only if its connection stays: a socket that is closed
//! with unread bytes fails the client's next write, and it tells of a broken pipe instead of the reason. So a
//! body that nobody wants any more is read on, and dropped.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes, HttpBody as _};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use futures::{Stream, StreamExt as _};

/// How long it is read on at most, as by nginx (`lingering_time`). A client that has read its answer hangs up.
const LINGER: Duration = Duration::from_secs(30);

/// Reads on whatever of the request's body its handler leaves.
pub(super) async fn read_on(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let lingering = |body: Body| Lingering {
        body: Some(body.into_data_stream()),
    };
    let request = request.map(|body| Body::from_stream(lingering(body)));
    next.run(request).await
}

/// A body that is not dropped before its end.
struct Lingering {
    /// `None`: it has ended.
    body: Option<BodyDataStream>,
}

impl Stream for Lingering {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let part = std::task::ready!(body.poll_next_unpin(cx));
        if !matches!(part, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(part)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else {
            return;
        };
        // Without a runtime there is no connection either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let rest = async { while let Some(Ok(_)) = body.next().await {} };
                tokio::time::timeout(LINGER, rest).await.ok();
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::put;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{UnixListener, UnixStream};
    use tokio::sync::watch;

    use super::read_on;

    /// Far more than a socket's buffers hold, in bytes.
    const LONG: usize = 32 << 20;

    #[tokio::test]
    async fn who_is_refused_in_the_middle_of_an_upload_hears_why() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let refused = put(async || (StatusCode::CONFLICT, "there is one already"));
        let router = Router::new().route("/", refused);
        let router = router.layer(axum::middleware::from_fn(read_on));
        let (stop, stopped) = watch::channel(false);
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(crate::api::serve::serve(listener, router, stopped));

        let mut client = UnixStream::connect(&socket).await.unwrap();
        let head = format!("PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: {LONG}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![0; LONG]).await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
        assert!(answer.ends_with("there is one already"), "{answer}");
        stop.send_replace(true);
        server.await.unwrap();
    }
}
